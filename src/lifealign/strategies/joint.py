"""Joint training on all tasks at once (MTL): the upper bound, which is allowed to see everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import restore
from lifealign.training.replay import Exemplar, ReplayBuffer
from lifealign.training.strategy import History, PreferenceDataset, Strategy


class Joint(Strategy):
    """Retrain on all rows seen so far, from the initial adapter: the upper bound.

    No paper: this is plain training on all tasks at once (multi-task learning). A stream is one group, learnt in one
    go. A task added later means retraining on everything.

    Kept: all rows.

    Cost: 1 per row of a stream; for a task added later, all rows.
    """

    sums_updates: ClassVar[bool] = False

    def schedule(self, tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
        """All tasks at once."""
        return [tuple(tasks)]

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Start again from the initial adapter."""
        restore(model, history.adapter("initial"))

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """All rows, old and new."""
        past = history.replay.exemplars
        rows = (*(e.row for e in past), *task.train)
        return PreferenceDataset(rows, (*(e.task for e in past), *((task.name,) * len(task.train))))

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """Keep every row."""
        past = history.replay
        new = [Exemplar(row, task.name, past.seen + i) for i, row in enumerate(task.train)]
        return replace(past, exemplars=(*past.exemplars, *new), seen=past.seen + len(new))
