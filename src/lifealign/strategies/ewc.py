"""Online EWC: elastic weight consolidation with one running Fisher diagonal, for preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import trainable
from lifealign.strategies._quadratic import weighted_distance
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer, shuffled
from lifealign.training.strategy import History, Strategy


def mean_squares(losses: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """(1/N) sum_n g_n^2 by parameter, g_n the gradient of the n-th loss alone; `losses` may be made one by one."""
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for loss in losses:
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                sums[name] += gradient**2
        count += 1
    return {name: total / max(count, 1) for name, total in sums.items()}


def mean_of(tensors: Mapping[str, Tensor]) -> float:
    """Mean over all entries of all tensors."""
    return sum(float(t.double().sum()) for t in tensors.values()) / sum(t.numel() for t in tensors.values())


def accumulate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """F = decay F_old + F_new (Schwarz et al. 2018, eq. 9); an empty `old` counts as zero."""
    return {name: decay * old[name] + t if old else t.clone() for name, t in new.items()}


class EWC(Strategy):
    """Hold each weight where the last task left it, in proportion to its Fisher information.

    Elastic weight consolidation (EWC; Kirkpatrick et al. 2017, arXiv 1612.00796) in its online form (Progress &
    Compress, Schwarz et al. 2018, arXiv 1805.06370): one running F, and theta* moves on with each task. The penalty is
    penalty_weight/2 sum F (theta - theta*)^2.

    Adapted: the likelihood is that of the observed preference, so F is the empirical Fisher: the mean of the squared
    gradients of the preference loss (against the base model, whatever `reference` is; with loss dpo it is a negative
    log-likelihood), one pair at a time, at the end of the task. As there, each task's F is normalised before it is
    added, here to mean 1 over all entries, so that `penalty_weight` means the same whatever the size of the gradients.

    SFT stage: the same penalty; F ignores the SFT loss.

    Kept: F, n numbers (theta* is the stored adapter).

    Cost: 1, and one step on `fisher_pairs` pairs, one by one, per task.
    """

    class Config(ObjectiveConfig):
        """Objective and penalty."""

        penalty_weight: float = Field(100.0, ge=0)
        """Lambda: strength of the penalty, per unit of F of mean 1. 0 <= penalty_weight; choose it on validation rows."""
        decay: float = Field(0.95, ge=0, le=1)
        """Share of the earlier tasks' F that is kept with each new task. 0 <= decay <= 1."""
        fisher_pairs: int = Field(500, ge=1)
        """Largest number of a task's pairs used to estimate its F; drawn with the seed. 1 <= fisher_pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """theta* is where the last task ended."""
        self._anchor = dict(history.adapter())

    def penalty(self, model: nn.Module) -> Tensor:
        """Penalty penalty_weight/2 sum F (theta - theta*)^2; zero before the first task's end."""
        if not self._fisher:
            return super().penalty(model)
        return float(self.config.penalty_weight) / 2 * weighted_distance(trainable(model), self._anchor, self._fisher)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Add this task's F to the decayed F of earlier tasks."""
        rows = self.view.usable(task.train)
        order = shuffled([row.digest for row in rows], self.seed, task.name, "fisher")[: self.config.fisher_pairs]
        fresh = mean_squares((self.view.loss_on([rows[i]]) for i in order), trainable(model))
        mean = mean_of(fresh)
        if mean > 0:  # else the loss is flat in every direction, and nothing is held by this task
            fresh = {name: t / mean for name, t in fresh.items()}
        self._fisher = accumulate(self._fisher, {name: t.cpu() for name, t in fresh.items()}, self.config.decay)
        largest = max(float(t.max()) for t in self._fisher.values())
        return {"fisher": {"pairs": len(order), "mean_square": mean, "mean": mean_of(self._fisher), "largest": largest}}

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """F is one running sum, so a task's part stays in it; theta* is the adapter without the task."""
        return ["its Fisher information stays in the running sum, so later tasks are still held where it mattered"]

    def state_dict(self) -> dict[str, Tensor]:
        """F by parameter."""
        return dict(self._fisher)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._fisher = dict(state)
