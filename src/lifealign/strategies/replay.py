"""Experience replay (ER; Rolnick et al. 2019, arXiv 1811.11682), for preference pairs."""

from __future__ import annotations

from typing import ClassVar

from lifealign.data.tasks import Task
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer, ReplayConfig, task_quota, update_buffer
from lifealign.training.strategy import History, PreferenceDataset, Strategy


class Replay(Strategy):
    """Mix the task's rows with a small buffer of earlier ones, shuffled by the seed.

    Experience replay (ER; Rolnick et al. 2019, arXiv 1811.11682), for preference pairs.

    Kept: the buffer (rows).

    Cost: 1 + buffer / task rows.
    """

    class Config(ObjectiveConfig, ReplayConfig):
        """Objective and buffer."""

        _newer: ClassVar[frozenset[str]] = ObjectiveConfig._newer | ReplayConfig.replay_keys

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows and the buffer's; the loop's sampler interleaves them. A row in both counts once."""
        if self.config.replay_share and self.config.replay_policy == "per_task_quota":  # fail before training
            task_quota({task.name, *(e.task for e in history.replay.exemplars)}, self.config.replay_capacity)
        own = {row.digest for row in task.train}
        past = [e for e in history.replay.exemplars if e.row.digest not in own]
        rows = (*task.train, *(e.row for e in past))
        return PreferenceDataset(rows, ((task.name,) * len(task.train)) + tuple(e.task for e in past))

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """Add a seeded random share of the task's rows; the policy decides which rows stay."""
        c = self.config
        by_features = c.replay_select != "random"
        return update_buffer(
            history.replay,
            self.view.usable(task.train) if by_features else task.train,
            task.name,
            policy=c.replay_policy,
            share=c.replay_share,
            capacity=c.replay_capacity,
            seed=self.seed,
            select=c.replay_select,
            features=self.view.row_features if by_features else None,
        )
