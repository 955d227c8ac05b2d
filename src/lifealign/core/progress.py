"""Progress of long work: a bar on a terminal, plain lines elsewhere, silence in library use.

Long-running work receives a `Progress` and reports to it:

    with progress.stage("task 2 safety: train", total=96, unit="pairs") as stage:
        for batch in batches:
            ...
            stage.advance(len(batch), loss=0.61)

Everything goes to stderr, so that stdout stays free for results. This module imports no torch, and rich only for a bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Info = float | int | str
"""A value shown beside the progress, e.g. ``loss=0.61``."""

SECONDS_PER_LINE = 15.0
"""Without a terminal, a line is printed at least this often while work advances."""
SHARE_PER_LINE = 0.1
"""... and after each such share of the stage, but never twice within `SHORTEST_GAP`."""
SHORTEST_GAP = 1.0


class Stage(Protocol):
    """One piece of work of known length."""

    def advance(self, n: int = 1, **info: Info) -> None:
        """Count `n` more units as done and show the newest `info`."""


class Progress(Protocol):
    """Receiver of progress reports from long-running work."""

    def stage(self, title: str, total: int, unit: str = "steps", *, done: int = 0) -> AbstractContextManager[Stage]:
        """Begin a stage of `total` units; an interrupted run did `done` of them, which do not count for the rate."""

    def say(self, text: str) -> None:
        """Show the user a message on a separate line."""


class NullProgress:
    """Silent progress; the default for library use."""

    @contextmanager
    def stage(self, title: str, total: int, unit: str = "steps", *, done: int = 0) -> Iterator[Stage]:
        """A stage that shows nothing."""
        yield self

    def advance(self, n: int = 1, **info: Info) -> None:
        """Count nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class _Counter:
    """Units done, rate and time left of one stage.

    The rate is the mean since the stage began: steps differ in length, so a short window would make the time left jump.
    """

    def __init__(self, total: int, unit: str, done: int, clock: Callable[[], float]) -> None:
        self.total, self.unit, self.done, self.first = total, unit, done, done
        self.clock, self.start = clock, clock()
        self.info: dict[str, Info] = {}

    def advance(self, n: int, info: dict[str, Info]) -> None:
        self.done += n
        self.info = info or self.info

    @property
    def seconds(self) -> float:
        return self.clock() - self.start

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0

    def describe(self) -> str:
        """E.g. ``3.4 pairs/s, 0:25 left, loss 0.61``; no rate before the first unit is done."""
        parts = []
        worked = self.done - self.first
        if worked > 0 and self.seconds > 0:
            rate = worked / self.seconds
            parts.append(f"{_number(rate)} {self.unit}/s")
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        parts += [f"{name} {_number(value)}" for name, value in self.info.items()]
        return ", ".join(parts)


class LineProgress:
    """Plain lines for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock

    def stage(self, title: str, total: int, unit: str = "steps", *, done: int = 0) -> _LineStage:
        """A stage that prints a line at every tenth of the work and at least every 15 seconds of it."""
        return _LineStage(title, _Counter(total, unit, done, self._clock), self.say)

    def say(self, text: str) -> None:
        """Print `text` at once."""
        print(text, file=self._stream or sys.stderr, flush=True)


class _LineStage:
    def __init__(self, title: str, counter: _Counter, say: Callable[[str], None]) -> None:
        self._title, self._counter, self._say = title, counter, say
        self._said_share, self._said_at = counter.share, counter.clock()

    def __enter__(self) -> Self:
        if self._counter.first:
            self._say(f"{self._title}: resuming from {self._counter.first}/{self._counter.total} {self._counter.unit}")
        return self

    def advance(self, n: int = 1, **info: Info) -> None:
        counter = self._counter
        counter.advance(n, info)
        now = counter.clock()
        gap, share = now - self._said_at, counter.share - self._said_share
        # The last unit is left to __exit__, which also reports how long the stage took.
        due = gap >= SECONDS_PER_LINE or (share >= SHARE_PER_LINE - 1e-9 and gap >= SHORTEST_GAP)
        if due and counter.done < counter.total:
            self._said_share, self._said_at = counter.share, now
            self._say(f"{self._where()}, {counter.describe()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._say(f"{self._where()}, stopped")
            return
        described = self._counter.describe()
        self._say(f"{self._where()}, {duration(self._counter.seconds)}{', ' if described else ''}{described}")

    def _where(self) -> str:
        counter = self._counter
        return f"{self._title}: {counter.done}/{counter.total} {counter.unit} ({counter.share:.0%})"


class BarProgress:
    """A live bar per stage on a terminal; stages may nest."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bars: RichProgress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[described]}", markup=False),
            console=Console(file=stream) if stream is not None else Console(stderr=True),
            # Otherwise rich would move what libraries print from stdout to the bar's console, which is stderr.
            redirect_stdout=False,
        )
        self._clock = clock
        self._open = 0

    @contextmanager
    def stage(self, title: str, total: int, unit: str = "steps", *, done: int = 0) -> Iterator[Stage]:
        """A bar with the rate, the time left and the newest info; it stays on the screen after the stage."""
        counter = _Counter(total, unit, done, self._clock)
        if not self._open:
            self._bars.start()
        self._open += 1
        bar = self._bars.add_task(title, total=max(total, 1), completed=done if total else 1, described="")
        try:
            yield _BarStage(self._bars, bar, counter)
        finally:
            self._open -= 1
            if not self._open:
                self._bars.stop()
                # A stopped bar stays on the screen; remove it, so that the next stage does not draw it again.
                for task_id in self._bars.task_ids:
                    self._bars.remove_task(task_id)

    def say(self, text: str) -> None:
        """Print `text` above the bars."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _BarStage:
    def __init__(self, bars: RichProgress, bar: TaskID, counter: _Counter) -> None:
        self._bars, self._bar, self._counter = bars, bar, counter

    def advance(self, n: int = 1, **info: Info) -> None:
        self._counter.advance(n, info)
        self._bars.update(self._bar, completed=self._counter.done, described=self._counter.describe())


def make_progress(stream: TextIO | None = None) -> Progress:
    """A bar if `stream` (stderr) is a terminal, else plain lines."""
    target = stream or sys.stderr
    return BarProgress(stream) if target.isatty() else LineProgress(stream)


def say_once(said: set[str], warnings: Sequence[str], progress: Progress) -> None:
    """Show warnings that are not in `said`, and add them to it. Silent progress does not silence a warning."""
    shown = make_progress() if isinstance(progress, NullProgress) else progress
    for text in dict.fromkeys(warnings):
        if text not in said:
            shown.say(f"warning: {text}")
    said |= set(warnings)


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _number(value: Info) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
