"""A command's reply: its output and exit code. `cli.output` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """The output and exit code of a command.

    Attributes:
        document: output with ``--json``.
        lines: output without it.
        exit_code: 0, or the kind of the problems.
        problems: faults found although the command completed; each goes to stderr.
    """

    document: Any
    lines: Sequence[str]
    exit_code: int = 0
    problems: Sequence[str] = ()
