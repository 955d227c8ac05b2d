"""Averaged GEM (A-GEM; Chaudhry et al. 2019, arXiv 1812.00420), for preference pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from lifealign.data.tasks import Row
from lifealign.strategies._gradient_memory import GradientMemory, GradientMemoryConfig
from lifealign.training.strategy import Step


def agem_project(gradient_N: Tensor, memory_N: Tensor) -> Tensor:
    """Return g - (<g, m> / <m, m>) m where <g, m> < 0 (eq. 11), else `gradient_N` itself; [N] both."""
    g, m = gradient_N.double(), memory_N.double()
    product = g @ m
    if not bool(product < 0):
        return gradient_N
    return (g - product / (m @ m) * m).to(gradient_N.dtype)


class AGem(GradientMemory):
    """Remove from each step the part that would raise the mean loss on stored rows of earlier tasks.

    Averaged GEM (A-GEM; Chaudhry et al. 2019, arXiv 1812.00420). The mean is that of a sample of all earlier tasks'
    rows.

    Adapted: the memory holds preference pairs; the sample is a function of seed, stage and step; its gradient is that
    of the preference loss at the current weights, over the full vector of LoRA parameters.

    SFT stage: the same, with the NLL of the chosen answers as the loss.

    Kept: `memory_pairs` rows per task; no tensors. While training n.

    Cost: 1 + sample_pairs / pairs_per_step.
    """

    class Config(GradientMemoryConfig):
        """Objective, memory, sample."""

        sample_pairs: int = Field(16, ge=1)
        """Pairs drawn from the whole memory at each optimizer step; all, if there are no more. 1 <= sample_pairs."""

    def _sets(self, step: Step) -> Mapping[str, Sequence[Row]]:
        rows = [row for own in self._memory.values() for row in own]
        text = f"{self.seed}|agem|{'|'.join(self._memory)}|{step.stage}|{step.index}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
        drawn = torch.randperm(len(rows), generator=generator)[: self.config.sample_pairs]
        return {"earlier tasks": [rows[i] for i in sorted(drawn.tolist())]}

    def _project(self, vector: Tensor, step: Step) -> Tensor:
        assert self._references_KN is not None
        return agem_project(vector, self._references_KN[0])
