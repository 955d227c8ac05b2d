"""Tasks of each kind of rows, made of a tiny task's pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lifealign.data.tasks import Row, Task, as_feedback
from support.rows import make_task


def as_demonstrations(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The chosen answers alone."""
    return tuple(replace(row, rejected="", kind="demonstration", margin=None) for row in rows)


def turned(task: Task, change: Callable[[Sequence[Row]], tuple[Row, ...]]) -> Task:
    """A task with the rows of every split changed."""
    return replace(task, train=change(task.train), validation=change(task.validation), test=change(task.test))


def mixed(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of all four kinds: a third of them pairs, a third feedback, a third demonstrations."""
    return (*rows[::3], *as_feedback(rows[1::3]), *as_demonstrations(rows[2::3]))


def thumbs(name: str) -> Task:
    """A task of feedback on one answer."""
    return turned(make_task(name), as_feedback)


def demonstrations(name: str) -> Task:
    """A task of demonstrations."""
    return turned(make_task(name), as_demonstrations)


def every_kind(name: str) -> Task:
    """A task of all four kinds."""
    return turned(make_task(name), mixed)
