"""Online EWC: elastic weight consolidation with one running Fisher diagonal, for preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import trainable
from lifealign.strategies._quadratic import weighted_distance
from lifealign.strategies._steps import penalty_share
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer, shuffled
from lifealign.training.signs import Sign
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
    strength/(2n) sum F (theta - theta*)^2 over the n trained weights.

    Adapted: the likelihood is that of the observed preference, so F is the empirical Fisher: the mean of the squared
    gradients of the preference loss (against the base model, whatever `reference` is; with loss dpo it is a negative
    log-likelihood), one pair at a time, at the end of the task. As there, each task's F is normalised before it is
    added, here to mean 1 over all entries; divided by n it has sum 1. So the penalty is strength/2 times the F-weighted mean
    of the squared moves, whatever the size of the gradients and the number of weights. `penalty_weight` in place of
    `strength` is not divided by n, so the same value is a stiffer penalty on a larger adapter.

    SFT stage: the same penalty; F ignores the SFT loss.

    Kept: F, n numbers (theta* is the stored adapter).

    Cost: 1, and one step on `fisher_pairs` pairs, one by one, per task.
    """

    signs: ClassVar[tuple[Sign, ...]] = (Sign("penalty_share", "the penalty is felt beside the loss", low=0.001),)

    class Config(ObjectiveConfig):
        """Objective and penalty."""

        _newer: ClassVar[frozenset[str]] = ObjectiveConfig._newer | {"strength", "penalty_weight"}
        default_strength: ClassVar[float] = 2.5e5
        """The better of two trials on validation rows of the planted suite, see docs/results/reproduction.md."""

        strength: float | None = Field(None, ge=0)
        """Lambda for F of sum 1: a move of F-weighted mean square m costs strength/2 m nats. 0 <= strength. 2.5e5 without penalty_weight."""
        penalty_weight: float | None = Field(None, ge=0)
        """Instead of `strength`: lambda for F of mean 1, which is strength / number of trained weights. 0 <= penalty_weight."""
        decay: float = Field(0.95, ge=0, le=1)
        """Share of the earlier tasks' F that is kept with each new task. 0 <= decay <= 1."""
        fisher_pairs: int = Field(500, ge=1)
        """Largest number of a task's pairs used to estimate its F; drawn with the seed. 1 <= fisher_pairs."""

        @model_validator(mode="before")
        @classmethod
        def _fill_strength(cls, values: Any) -> Any:
            given = ("strength", "penalty_weight")
            if not isinstance(values, Mapping) or any(values.get(key) is not None for key in given):
                return values
            return {**values, "strength": cls.default_strength}

        @model_validator(mode="after")
        def _one_strength(self) -> EWC.Config:
            if self.strength is not None and self.penalty_weight is not None:
                raise ValueError(
                    f"strength {self.strength:g} and penalty_weight {self.penalty_weight:g} are the same penalty for F of sum 1 and "
                    "of mean 1; give only strength, which is penalty_weight times the number of trained weights"
                )
            return self

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """theta* is where the last task ended."""
        self._anchor = dict(history.adapter())

    def penalty(self, model: nn.Module) -> Tensor:
        """Penalty strength/(2n) sum F (theta - theta*)^2; zero before the first task's end."""
        if not self._fisher:
            return super().penalty(model)
        weight = self.config.penalty_weight
        if weight is None:
            weight = self.config.strength / sum(t.numel() for t in self._fisher.values())
        return float(weight) / 2 * weighted_distance(trainable(model), self._anchor, self._fisher)

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
        told = {"pairs": len(order), "mean_square": mean, "mean": mean_of(self._fisher), "largest": largest}
        return {"fisher": told, "penalty_share": penalty_share(self.log)}

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """F is one running sum, so a task's part stays in it; theta* is the adapter without the task."""
        return ["its Fisher information stays in the running sum, so later tasks are still held where it mattered"]

    def state_dict(self) -> dict[str, Tensor]:
        """F by parameter."""
        return dict(self._fisher)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._fisher = dict(state)
