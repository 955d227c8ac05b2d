"""Orthogonal gradient projection (OGPSA, arXiv 2602.07892), adapted from safety alignment to a stream of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.strategies._gradient_memory import GradientMemory, GradientMemoryConfig
from lifealign.training.strategy import History, Step

RANK_TOLERANCE = 1e-6
"""Singular values of the normalised references below this share of the largest count as zero."""
FIRST, EVERY = 10, 5
"""Without `refresh`: references are measured at each of the first steps, and from there on at every fifth, as the paper does in DPO."""


def project_out(gradient_N: Tensor, references_KN: Tensor) -> Tensor:
    """Return g - U^T U g, rows of U an orthonormal basis of the span of the normalised references, [N].

    References may be zero or dependent: a zero row spans nothing, a dependent one nothing new.
    """
    norms = references_KN.double().norm(dim=1, keepdim=True)
    unit_KN = references_KN.double()[norms[:, 0] > 0] / norms[norms[:, 0] > 0]
    if not len(unit_KN):
        return gradient_N
    _, singular, basis_KN = torch.linalg.svd(unit_KN, full_matrices=False)
    basis_KN = basis_KN[singular > RANK_TOLERANCE * singular[0]]
    g = gradient_N.double()
    rest_N: Tensor = g - basis_KN.T @ (basis_KN @ g)
    return rest_N.to(gradient_N.dtype)


class Ogpsa(GradientMemory):
    """Project each tensor's gradient out of the span of the gradients on earlier tasks' rows.

    Orthogonal gradient projection (OGPSA, arXiv 2602.07892). The part in the span is removed whatever its sign.

    Adapted: the paper protects one or two general abilities, each by 200 general samples, in full fine-tuning; here
    every earlier task is a reference set (its stored pairs, the stage's loss, the weights at the time of refreshing),
    in the LoRA tensors. The paper refreshes every 30 steps in SFT and every 5 in DPO, in training of thousands of steps; here
    a task may have six, and its first steps are the longest. So each of the first ten measures anew. What is projected is
    the optimizer's step (`target`), because Adam's scaling by entry undoes the orthogonality of the gradient.

    SFT stage: the same, with the gradients of the SFT loss.

    Kept: `memory_pairs` rows per task; no tensors. While training (and in checkpoints) t n.

    Cost: 1 + t memory_pairs / (refresh pairs_per_step), with a refresh of 1 in the first ten steps.
    """

    class Config(GradientMemoryConfig):
        """Objective, memory, refreshing."""

        memory_pairs: int = Field(200, ge=1)
        """Pairs kept of each task, drawn with the seed. 1 <= memory_pairs."""
        refresh: int | None = Field(None, ge=1)
        """Optimizer steps between measurements of the reference gradients. 1 <= refresh. None: 1 in the first ten steps of a stage, then 5."""

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Drop the references, which belong to the task's training alone."""
        self._references_KN = None
        return super().end_task(model, task, history)

    def state_dict(self) -> dict[str, Tensor]:
        """The reference gradients, in a checkpoint; nothing between tasks."""
        return {} if self._references_KN is None else {"references": self._references_KN}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._references_KN = state.get("references")

    def _due(self, step: Step) -> bool:
        every = self.config.refresh
        if every is None:
            return step.index < FIRST or step.index % EVERY == 0
        return step.index % int(every) == 0

    def _project(self, vector: Tensor, step: Step) -> Tensor:
        assert self._references_KN is not None
        sizes = [p.numel() for p in step.parameters.values()]
        references = torch.split(self._references_KN.to(vector.device), sizes, dim=1)
        parts: Sequence[Tensor] = torch.split(vector, sizes)
        return torch.cat([project_out(g, u) for g, u in zip(parts, references, strict=True)])
