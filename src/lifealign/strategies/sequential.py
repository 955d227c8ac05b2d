"""Sequential preference tuning (SeqFT): the lower bound; with `extrapolate`, on the votes that are predicted for the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.extrapolation import Extrapolated, extrapolated, pair_key
from lifealign.data.tasks import Task
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer
from lifealign.training.strategy import History, PreferenceDataset, Strategy

VOTES = "votes/"
"""Before a task's name in the state."""


class Sequential(Strategy):
    """Train on each task's rows alone and do nothing against forgetting: the lower bound.

    No paper: this is plain fine-tuning in sequence (SeqFT), one adapter with a fresh optimizer for each task. Where the same pairs
    come back with new votes, it is Lifelong-DPO, and with `extrapolate` Extrapolative-DPO of ProgressGym (Qiu et al. 2024,
    arXiv 2406.20087): a pair is learnt with the vote that its past votes predict for the next task.

    Kept: nothing; with `extrapolate`, the votes of each pair (16 bytes a pair and task).

    Cost: 1; with `extrapolate`, at most 5.
    """

    class Config(ObjectiveConfig):
        """Objective, and the order of extrapolation."""

        _newer: ClassVar[frozenset[str]] = ObjectiveConfig._newer | {"extrapolate"}

        extrapolate: int = Field(0, ge=0, le=5)
        """Learn each pair's vote of the next task, predicted from its past votes by a polynomial of this order. 0 to 5; 0: as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._votes: dict[str, Tensor] = {}
        self._found: Extrapolated | None = None

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows; with `extrapolate`, with the votes that are predicted for the next task."""
        order = self.config.extrapolate
        if not order:
            return super().training_set(task, history)
        names = [name for name in history.tasks if VOTES + name in self._votes]
        past = [dict(self._votes[VOTES + name].tolist()) for name in names]
        self._found = extrapolated(task.train, past, order)
        return PreferenceDataset(self._found.rows, (task.name,) * len(self._found.rows))

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Keep the task's own votes, not those that were predicted."""
        if not self.config.extrapolate:
            return {}
        votes = [pair_key(row) for row in task.train if row.kind == "pair"]
        self._votes[VOTES + task.name] = torch.tensor(votes, dtype=torch.int64).reshape(-1, 2)
        found = self._found
        counts = {} if found is None else {k: v for k, v in vars(found).items() if k != "rows"}
        return {"extrapolated": {"order": self.config.extrapolate, **counts}}

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Drop the votes of the tasks that are retired."""
        for name in history.retired:
            self._votes.pop(VOTES + name, None)
        return ()

    def state_dict(self) -> dict[str, Tensor]:
        """The votes: `votes/<task>` [N, 2], the number of a pair and its vote."""
        return dict(self._votes)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._votes = {name: tensor for name, tensor in state.items() if name.startswith(VOTES)}
