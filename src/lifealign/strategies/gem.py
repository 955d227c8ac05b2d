"""Gradient Episodic Memory (GEM; Lopez-Paz & Ranzato 2017, arXiv 1706.08840), for preference pairs."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor

from lifealign.strategies._gradient_memory import GradientMemory, GradientMemoryConfig
from lifealign.training.strategy import Step


def gem_project(gradient_N: Tensor, memory_KN: Tensor, margin: float, eps: float) -> Tensor:
    """Return g + G^T v, v = argmin 1/2 v'(G G' + eps I)v + (G g)'v over v >= margin (the dual QP, eq. 12).

    Args:
        gradient_N: g, any floating type; the result has the same.
        memory_KN: G, one memory gradient per row.
        margin: lower bound of every v_k, >= 0: how far beyond orthogonal the result goes.
        eps: added to the diagonal, > 0; so with margin 0 products with memory gradients may stay below 0 by O(eps).

    Returns:
        [N]; `gradient_N` itself if no product with a memory gradient is negative.
    """
    g, G = gradient_N.double(), memory_KN.double()
    products_K = G @ g
    if not bool((products_K < 0).any()):
        return gradient_N
    quadratic_KK = (G @ G.T).cpu().numpy() + eps * np.eye(len(G))
    # With v = u + margin this is non-negative least squares, || L' u + L^-1 c ||^2 for L L' = G G' + eps I.
    linear_K = products_K.cpu().numpy() + margin * quadratic_KK.sum(1)
    lower_KK = np.linalg.cholesky(quadratic_KK)
    u_K, _ = nnls(lower_KK.T, -np.linalg.solve(lower_KK, linear_K))
    v_K = torch.from_numpy(u_K + margin).to(g.device)
    return (g + G.T @ v_K).to(gradient_N.dtype)


class Gem(GradientMemory):
    """Take the nearest step that raises no earlier task's loss on stored rows.

    Gradient Episodic Memory (GEM; Lopez-Paz & Ranzato 2017, arXiv 1706.08840). "Raises no loss" holds up to `margin`
    and `eps`; eps is absolute, so it damps gradients that are short compared with it.

    Adapted: the memory holds preference pairs, and each task's memory gradient is that of the preference loss on its
    pairs at the current weights, over the full vector of LoRA parameters, after the sum over processes and before
    clipping. The paper's memory is the last examples of a task, here a seeded sample. The quadratic programme (one
    unknown per task) is solved by scipy.

    SFT stage: the same, with the NLL of the chosen answers as the loss.

    Kept: `memory_pairs` rows per task; no tensors. While training t n.

    Cost: 1 + t memory_pairs / pairs_per_step, t tasks.
    """

    class Config(GradientMemoryConfig):
        """Objective, memory, programme."""

        margin: float = Field(0.5, ge=0)
        """Lower bound of every multiplier once a product is negative (the authors' memory strength). 0 <= margin."""
        eps: float = Field(1e-3, gt=0)
        """Added to the diagonal of G G', which holds squared gradient norms. 0 < eps."""

    def _project(self, vector: Tensor, step: Step) -> Tensor:
        assert self._references_KN is not None
        return gem_project(vector, self._references_KN, self.config.margin, self.config.eps)
