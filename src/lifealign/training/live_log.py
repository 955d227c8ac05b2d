"""The steps of a task that is being learnt, one JSON line each, for whoever watches; nothing is ever read back from it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lifealign.core.progress import Progress
from lifealign.store.layout import LIVE


class LiveLog:
    """A file `LIVE` beside the checkpoints of one stage, for as long as the stage trains; it goes when they go.

    A write that the operating system refuses is said once, and training goes on.

    Args:
        directory: for checkpoints; None: nothing is written.
        head: what every line holds besides its step, such as the task's name and the number of steps.
        before: lines of the steps that are done already.
        progress: where to report.
    """

    def __init__(
        self, directory: Path | None, head: Mapping[str, Any], before: Sequence[Mapping[str, Any]], progress: Progress
    ) -> None:
        self._directory, self._head, self._before, self._progress = directory, head, before, progress
        self._stream: TextIOWrapper | None = None

    def __enter__(self) -> Self:
        if self._directory is not None:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                for old in self._directory.glob(LIVE):
                    old.unlink()
                # A new name, so that a reader knows a new start from the same file grown.
                path = self._directory / LIVE.replace("*", str(time.time_ns()))
                self._stream = path.open("x", encoding="utf-8", buffering=1)
            except OSError as error:
                self._stop(error)
            for line in self._before:
                self.add(line)
        return self

    def add(self, line: Mapping[str, Any]) -> None:
        """Append the line of a step; it can be read as soon as this returns."""
        if self._stream is not None:
            try:
                self._stream.write(json.dumps({**self._head, **line}) + "\n")
            except OSError as error:
                self._stop(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _stop(self, error: OSError) -> None:
        self._close()
        self._progress.say(
            f"warning: {self._directory}: the steps cannot be written for `lifealign view` "
            f"({error.strerror or error}); training goes on"
        )

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):  # what could not be written is lost, as was said
                stream.close()
