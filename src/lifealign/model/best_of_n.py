"""Exact values of the best of N samples: its distribution, its KL from what is sampled, its win rate, and their bounds.

Sources: Yang et al., arXiv 2404.01730; Beirami et al., arXiv 2401.01879. PURE functions of distributions over Y answers, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def kl_bound(n: int) -> float:
    """Largest KL(best of N || sampled), nats: log N - (N - 1) / N. 1 <= n."""
    return math.log(n) - (n - 1) / n


def win_rate_bound(n: int) -> float:
    """Largest win rate of the best of N against one sample, ties half: N / (N + 1). 1 <= n."""
    return n / (n + 1)


def best_of_n(p: Sequence[float] | Array, rewards: Sequence[float] | Array, n: int) -> Array:
    """Distribution [Y] of the best of N samples from p; equal rewards share their mass as p does (2404.01730).

    Args:
        p: [Y], probabilities that sum to 1.
        rewards: [Y], finite.
        n: samples. 1 <= n.
    """
    p, r = np.asarray(p, float), np.asarray(rewards, float)
    below = np.array([p[r < one].sum() for one in r])
    tied = np.array([p[r == one].sum() for one in r])
    mass = (below + tied) ** n - below**n
    return np.where(tied > 0, mass * p / np.where(tied > 0, tied, 1), 0.0)


def kl_divergence(q: Sequence[float] | Array, p: Sequence[float] | Array) -> float:
    """KL(q || p) of two distributions [Y], nats; infinite if q has mass where p has none."""
    q, p = np.asarray(q, float), np.asarray(p, float)
    there = q > 0
    if (p[there] == 0).any():
        return math.inf
    return float((q[there] * np.log(q[there] / p[there])).sum())


def win_rate(q: Sequence[float] | Array, p: Sequence[float] | Array, rewards: Sequence[float] | Array) -> float:
    """Probability that an answer of q has a higher reward than one of p, ties half, [0, 1]."""
    q, p, r = (np.asarray(value, float) for value in (q, p, rewards))
    better = (r[:, None] > r[None, :]) + 0.5 * (r[:, None] == r[None, :])
    return float(q @ better @ p)
