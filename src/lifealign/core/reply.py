"""A command's reply: what it prints and how it ends. `cli.output` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What a command prints and how it ends.

    Attributes:
        document: for ``--json``.
        lines: for people.
        exit_code: 0, or the kind of the problems.
        problems: what is wrong although the command did its work; each goes to stderr.
    """

    document: Any
    lines: Sequence[str]
    exit_code: int = 0
    problems: Sequence[str] = ()
