"""Win rates of paired comparisons: PURE functions, numpy only.

An outcome is 1 if ours wins, 0 if the other wins, 0.5 for a tie. All intervals are 95% percentile bootstraps over the
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lifealign.evaluation.metrics import Array, Interval, mean_interval, percentile_interval

RIDGE = 1.0
"""Weight of phi^2 / 2 beside the summed log-loss; scikit-learn's default, C = 1. It keeps phi finite if the longer
answer always wins."""
_CELLS = 4_000_000  # floats of a block of resamples


def win_rate(outcomes: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Share of the pairs won, in percent; a tie is half a win; NaN without pairs."""
    return mean_interval([100 * one for one in _checked(outcomes)], resamples=resamples, seed=seed)


def length_controlled_win_rate(
    outcomes: Sequence[float],
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The win rate, in percent, that a logistic model expects between answers of equal length.

    P(win) = sigmoid(theta + phi tanh(d / std(d))), d = length - other length, fitted to the outcomes with a ridge on
    phi; the value is 100 sigmoid(theta). This is the model of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475,
    section 3) without its term for an instruction's difficulty, which is estimated over many other models.

    Args:
        outcomes: [N], from 0 to 1.
        lengths: [N], of our answers, in characters.
        other_lengths: [N], of the other answers, in characters.
        resamples: bootstrap samples.
        seed: seed for the bootstrap.

    Returns:
        NaN without pairs, or if all d are equal but not zero: then length and quality cannot be told apart.
    """
    won = _checked(outcomes)
    apart = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    if won.shape != apart.shape:
        raise ValueError(f"outcomes and lengths must have the same shape, got {won.shape} and {apart.shape}")
    if not won.size or (apart.std() == 0 and apart[0] != 0):
        return Interval(float("nan"), float("nan"), float("nan"))
    z = np.tanh(apart / apart.std()) if apart.std() > 0 else np.zeros_like(apart)
    value = _fit(won, z, np.ones((1, won.size)))[0]
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // won.size)
    draws = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        weights = rng.multinomial(won.size, np.full(won.size, 1 / won.size), size=count).astype(np.float64)
        draws.append(_fit(won, z, weights))
    return percentile_interval(float(100 * value), 100 * np.concatenate(draws), 0.95)


def _fit(won: Array, z: Array, weights: Array) -> Array:
    """sigmoid(theta) of each row of weights [B, N], by Newton's method on (theta, phi); B values."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(100):
        p = _sigmoid(theta[:, None] + phi[:, None] * z)
        slope, curve = weights * (p - won), weights * p * (1 - p)
        g0, g1 = slope.sum(1), slope @ z + RIDGE * phi
        # If all outcomes are equal, theta has no finite optimum; the small constant lets sigmoid go to 0 or 1.
        h00 = curve.sum(1) + 1e-9
        h01 = curve @ z
        h11 = curve @ z**2 + RIDGE
        determinant = h00 * h11 - h01**2
        step0 = np.clip((h11 * g0 - h01 * g1) / determinant, -2, 2)
        step1 = np.clip((h00 * g1 - h01 * g0) / determinant, -2, 2)
        theta, phi = np.clip(theta - step0, -30, 30), phi - step1
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-10:
            break
    return _sigmoid(theta)


def _sigmoid(x: Array) -> Array:
    found: Array = 1 / (1 + np.exp(-x))
    return found


def _checked(outcomes: Sequence[float]) -> Array:
    won = np.asarray(outcomes, dtype=np.float64)
    if won.size and not ((won >= 0) & (won <= 1)).all():
        raise ValueError(f"outcomes must lie between 0 and 1, got {won.min()} to {won.max()}")
    return won
