"""The steps of a task that a memory is learning, read from its live log while it grows. Imports no torch."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifealign.core.errors import UserError
from lifealign.core.files import open_file
from lifealign.store.layout import LIVE, WORK

QUIET = 120.0
"""Seconds without a step after which a memory is no longer said to be learning."""
SHOWN = ("task", "stage", "step", "steps", "loss", "margin", "accuracy", "pairs_per_second")
_MOST = 4 << 20  # bytes read at once
_LAST = 1 << 16  # bytes at the end of a log that hold its last line


def live_log(memory: Path) -> Path | None:
    """The live log that was written to last; None if nothing is being learnt."""
    found: list[tuple[float, Path]] = []
    for pattern in (f"*/{LIVE}", f"*/*/{LIVE}"):
        for path in (memory / WORK).glob(pattern):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def learning(memory: Path) -> dict[str, Any] | None:
    """The newest step of a task that is being learnt, with `quiet`, the seconds since; None if nothing is."""
    path = live_log(memory)
    if path is None:
        return None
    with suppress(UserError, OSError), open_file(path, inside=memory) as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LAST))
        whole, _, _ = stream.read(_LAST).rpartition(b"\n")
        line = _line(whole.rpartition(b"\n")[2])
        return None if line is None else {**line, "quiet": max(0.0, time.time() - path.stat().st_mtime)}
    return None


@dataclass
class Tail:
    """The live log of a memory, read piece by piece.

    Attributes:
        memory: its directory.
    """

    memory: Path
    _at: Path | None = None
    _offset: int = 0

    def read(self) -> tuple[str, list[dict[str, Any]]]:
        """What happened since the last call, and the steps that are new.

        The first value is ``begun`` (a log that was not read before: forget the steps so far), ``more``, or ``ended``
        (nothing is being learnt any more).
        """
        path = live_log(self.memory)
        if path is None:
            self._at = None
            return "ended", []
        try:
            with open_file(path, inside=self.memory) as stream:
                begun = path != self._at
                if begun:
                    self._at, self._offset = path, 0
                stream.seek(self._offset)
                whole, end, _ = stream.read(_MOST).rpartition(b"\n")
        except (UserError, OSError):  # it has just been removed, with the checkpoints
            return "more", []
        self._offset += len(whole) + len(end)
        return ("begun" if begun else "more"), [line for text in whole.splitlines() if (line := _line(text))]


def _line(text: bytes) -> dict[str, Any] | None:
    """The values of a step that are shown; None for anything else."""
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return {key: found[key] for key in SHOWN if isinstance(found.get(key), int | float | str)}
    return None
