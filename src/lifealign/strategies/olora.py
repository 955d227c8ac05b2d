"""O-LoRA (Wang et al. 2023, arXiv 2310.14152): a new adapter per task, kept orthogonal to the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import snapshot, trainable
from lifealign.strategies._growing import Growing
from lifealign.strategies._steps import penalty_share
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.signs import Sign
from lifealign.training.strategy import History


def overlap(past_KI: Tensor, new_RI: Tensor) -> Tensor:
    """Sum of the absolute values of A_past A_new^T, a scalar; A_past holds every earlier A_i."""
    return (past_KI @ new_RI.T).abs().sum()


class OLora(Growing):
    """Add an adapter per task that is held orthogonal to the frozen earlier ones.

    O-LoRA (Wang et al. 2023, arXiv 2310.14152): the preference loss + orthogonality_weight sum |A_i A_t^T| over modules
    and i < t + l2_weight sum ||p||_2 over A_t and B_t.

    Adapted: the paper trains a language-model loss; here it is the preference loss. The penalties are those of the
    authors' code: absolute values, unsquared norms. The scale alpha/r is left out. The earlier adapters stay
    in their factors, nothing is merged into the base model.

    SFT stage: the same penalties, with the SFT loss.

    Kept: the adapters of all tasks, t n.

    Cost: 1 + t r columns more in each adapted module; the penalty is r^2 t I.
    """

    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("penalty_share", "the overlap with earlier adapters is felt beside the loss", low=0.01),
    )

    class Config(ObjectiveConfig):
        """Objective and weights of the two penalties."""

        orthogonality_weight: float = Field(0.5, ge=0)
        """Weight of the overlap with the rows of earlier A's. 0 <= orthogonality_weight."""
        l2_weight: float = Field(0.0, ge=0)
        """Weight of the norms of the new matrices. 0 <= l2_weight."""

    def penalty(self, model: nn.Module) -> Tensor:
        """Both penalties of the new adapter; the first task has no overlap."""
        own = trainable(model)
        total = torch.zeros(())
        if self.config.orthogonality_weight and self._past:
            total = total + self.config.orthogonality_weight * self._overlap(own)
        if self.config.l2_weight:
            total = total + self.config.l2_weight * sum(torch.linalg.vector_norm(p) for p in own.values())
        return total

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the size of the overlap; change nothing."""
        overlap = float(self._overlap(snapshot(model)))
        return {"adapters": len(history.tasks) + 1, "overlap": overlap, "penalty_share": penalty_share(self.log)}

    def _overlap(self, own: Mapping[str, Tensor]) -> Tensor:
        parts = [
            overlap(self._past[name].to(p.device), p)
            for name, p in own.items()
            if name.endswith(".lora_A") and name in self._past
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())
