"""Learning without forgetting: stay near the previous policy's answers, without rows of the past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Row, RowKind, Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.strategy import History, PreferenceDataset, Strategy

MEASURED = 16
"""Rows on which the divergence is measured at the end of a task."""


class LwF(Strategy):
    """Keep the token distribution of the previous policy on the task's own rows.

    Learning without forgetting (LwF; Li & Hoiem 2016, arXiv 1606.09282). The loss plus weight * KL(pi_prev || pi),
    pi_prev the policy as the last task left it.

    Adapted: the old network's outputs are the whole next-token distributions of the previous policy (no head
    per task), at the tokens of the chosen answers behind their prompts; exact, not sampled; the mean over a pair's
    tokens, at temperature 1 (the paper's 2 is for classifiers). Without adapter dropout in pi_prev. The first task has
    no previous policy and no such term.

    SFT stage: the same divergence added to the NLL, also as a mean over tokens.

    Kept: nothing more (the previous adapter is in the memory).

    Cost: about 1.7 (one more forward and backward, and a forward of pi_prev, on chosen answers).
    """

    learns: ClassVar[tuple[RowKind, ...]] = ("pair", "demonstration")

    class Config(ObjectiveConfig):
        """Objective and distillation."""

        own_terms = True

        weight: float = Field(0.5, ge=0)
        """Weight of the divergence, which is in nats per token. 0 <= weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._previous: Mapping[str, Tensor] = {}
        self._rows: tuple[Row, ...] = ()

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Take the previous policy, if there is one."""
        self._previous = history.adapter() if history.tasks else {}

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows."""
        dataset = super().training_set(task, history)
        self._rows = dataset.rows
        return dataset

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Objective + weight * mean KL over the chosen answer's tokens, [B]."""
        return objective.loss + self._distillation(batch)

    def sft_loss(self, batch: PreferenceBatch) -> Tensor:
        """NLL + weight * the pair's mean KL, [T]: over all tokens that is the mean NLL + weight * the mean KL."""
        own = super().sft_loss(batch)
        return own + self._distillation(batch).repeat_interleave(batch.chosen_lengths_B.long())

    @torch.no_grad()
    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the weighted divergence on the task's first rows, as the task ended; change nothing."""
        rows = self.view.usable(task.train[:MEASURED]) if self._previous else []
        if not rows:
            return {"distillation": None}
        found = [float(self.view.divergence([row], self._previous)) for row in rows]
        return {"distillation": self.config.weight * sum(found) / len(found)}

    def _distillation(self, batch: PreferenceBatch) -> Tensor:
        if not self._previous:
            return torch.zeros_like(batch.chosen_lengths_B)
        rows = [self._rows[i] for i in batch.index_B.tolist()]
        kl_B: Tensor = self.config.weight * self.view.divergence(rows, self._previous)
        return kl_B
