"""Strengths of competitors from their wins (Bradley & Terry 1952): a PURE function, numpy only.

Source: Hunter 2004, "MM algorithms for generalized Bradley-Terry models" (Annals of Statistics 32).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lifealign.evaluation.metrics import Array

PRIOR = 0.1
"""Wins that `bradley_terry` adds each way to every pair, so that a system which never lost keeps a finite strength."""
_TOLERANCE, _STEPS = 1e-9, 20_000


def bradley_terry(wins: Any, prior: float = PRIOR) -> Array:
    """Most likely strengths theta_K with P(i beats j) = sigmoid(theta_i - theta_j), natural log, mean 0.

    Args:
        wins: [K, K] or, for many fits at once, [B, K, K]: how often i beat j; a tie is half a win each way.
        prior: wins added each way to every pair, >= 0. With 0 the strengths are the maximum likelihood ones, which
            do not exist if one group of systems never lost to the others.

    Returns:
        [K] or [B, K]; NaN if the most likely strengths do not exist.
    """
    given = np.asarray(wins, dtype=np.float64)
    wins_BKK = np.atleast_3d(given) if given.ndim == 3 else given[None]
    systems = wins_BKK.shape[-1]
    padded = (wins_BKK + prior) * (1 - np.eye(systems))
    met = padded + padded.transpose(0, 2, 1)
    won = padded.sum(2)
    strength = np.ones(won.shape)
    for _ in range(_STEPS):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(met > 0, met / (strength[:, :, None] + strength[:, None, :]), 0.0).sum(2)
            new = won / share
            new /= np.exp(np.log(new).mean(1, keepdims=True))
            done = np.nanmax(np.abs(np.log(new) - np.log(strength)), initial=0.0) < _TOLERANCE
        strength = new
        if done:
            break
    theta = np.log(strength, out=np.full_like(strength, np.nan), where=strength > 0)
    theta[~np.array([_connected(one) for one in padded])] = np.nan
    return theta if given.ndim == 3 else np.asarray(theta[0])


def _connected(wins_KK: Array) -> bool:
    """Whether a chain of wins leads from every system to every other: then the strengths exist (Ford 1957)."""
    reach = (wins_KK > 0) | np.eye(len(wins_KK), dtype=bool)
    for _ in range(len(wins_KK)):
        reach = reach @ reach
    return bool(reach.all())
