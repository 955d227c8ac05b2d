"""Merging of task vectors into one: PURE functions of tensors.

A task vector tau_t = theta_t - theta_0 is one task's change from the common start of all tasks. Shapes: T tasks, then
any shape, the same for all; signs, magnitudes and cosines are taken over the given tensor (here one module's dW).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lifealign.consolidation.lowrank import Product, Stack

LERP_ABOVE = 0.9995
"""|cosine| above which two directions count as one, and slerp is a straight line."""


def task_arithmetic(taus_T: Tensor, scale: float) -> Tensor:
    """Scale * sum_t tau_t (Ilharco et al. 2023, arXiv 2212.04089)."""
    return scale * taus_T.sum(0)


def ties(taus_T: Tensor, keep: float, scale: float = 1.0) -> Tensor:
    """Trim, elect sign, disjoint mean (TIES; Yadav et al. 2023, arXiv 2306.01708, algorithm 1).

    Each tau_t keeps the share `keep` of its entries that are largest in magnitude (entries as large as the smallest kept
    one stay, too). The sign of an entry is that of its sum over tasks; if that is 0, the sign of most other entries (+ in
    a tie). The result is the mean over those tasks whose entry is not 0 and has the elected sign.

    Args:
        taus_T: [T, ...].
        keep: 0 < keep <= 1; at least one entry stays.
        scale: of the result.
    """
    flat = taus_T.flatten(1)
    kept = max(1, round(keep * flat.shape[1]))
    smallest = flat.abs().topk(kept, dim=1).values[:, -1:]
    trimmed = torch.where(flat.abs() >= smallest, flat, torch.zeros_like(flat))
    sign = trimmed.sum(0).sign()
    majority = 1.0 if float(sign.sum()) >= 0 else -1.0
    sign = torch.where(sign == 0, majority, sign)
    agreeing = trimmed * sign > 0
    total = torch.where(agreeing, trimmed, torch.zeros_like(trimmed)).sum(0)
    return (scale * total / agreeing.sum(0).clamp(min=1)).view(taus_T.shape[1:])


def dare(tau: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Drop each entry with probability `drop`, divide the others by 1 - drop (DARE; Yu et al. 2024, arXiv 2311.03099).

    Args:
        tau: one task's vector.
        drop: 0 <= drop < 1.
        generator: of the draws, on the CPU.
    """
    stays = torch.rand(tau.shape, generator=generator, dtype=torch.float64) >= drop
    return torch.where(stays, tau / (1 - drop), torch.zeros_like(tau))


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985) by the angle between two vectors, which are not normalised.

    sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b; (1-t) a + t b if |cos w| > 0.9995, or if one of them is zero, so that
    there is no angle.

    Args:
        a: the result for t = 0.
        b: the result for t = 1, same shape.
        t: 0 <= t <= 1.
    """
    lengths = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    cosine = float((a * b).sum()) / lengths if lengths else 1.0
    if abs(cosine) > LERP_ABOVE:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def running_slerp(taus: Sequence[Tensor], t: float) -> Tensor:
    """m_1 = tau_1, m_k = slerp(m_{k-1}, tau_k, t): two at a time, in the order of the tasks."""
    merged = taus[0]
    for tau in taus[1:]:
        merged = slerp(merged, tau, t)
    return merged


def magmax(taus_T: Tensor) -> Tensor:
    """Take each entry with the largest magnitude, the first if equal (Marczak et al. 2024, arXiv 2407.06322)."""
    best = taus_T[0]
    for tau in taus_T[1:]:
        best = torch.where(tau.abs() > best.abs(), tau, best)
    return best


def merged_svd(
    taus: Sequence[Product], merge: Callable[[Tensor], Tensor], dense: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of merge(taus_TOI): u_OK, singular_K (falling), v_KI.

    Args:
        taus: task vectors of one module.
        merge: of [T, ...] into [...].
        dense: multiply the products out. Otherwise `merge` gets their cores in common orthonormal bases, with the same
            sums and inner products, on which alone `task_arithmetic` and `slerp` depend.
    """
    if dense:
        u, singular, v = torch.linalg.svd(merge(torch.stack([x.b_OK @ x.a_KI for x in taus])), full_matrices=False)
        return u, singular, v
    stack = Stack(taus)
    cores_TKK = torch.stack([stack.core(one) for one in torch.eye(len(taus)).tolist()])
    u, singular, v = torch.linalg.svd(merge(cores_TKK), full_matrices=False)
    return stack.qb @ u, singular, v @ stack.qa.T
