"""Agreement and preference strength: PURE functions of plain values, numpy only. Missing is NaN, never zero.

Ratings are [raters, items]. Intervals are percentile bootstraps over items, so that the ratings of one item stay
together. No argument is changed.

Sources: Krippendorff 2011, "Computing Krippendorff's alpha-reliability"; Cohen 1960 for kappa. Strengths by wins are in
`evaluation.strengths`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lifealign.evaluation.metrics import Array, Interval
from lifealign.evaluation.strengths import PRIOR as PRIOR
from lifealign.evaluation.strengths import bradley_terry as bradley_terry

Level = Literal["nominal", "ordinal", "interval"]

# --- Krippendorff's alpha ---


def krippendorff_alpha(
    ratings: Any, level: Level = "nominal", *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Agreement of several raters beyond chance, 1 at best, 0 by chance: 1 - D_o / D_e, with its bootstrap interval.

    Args:
        ratings: [raters, items], NaN where a rater did not rate an item. Items with fewer than two ratings do not count.
        level: how far two values are apart: `nominal` 0 or 1, `ordinal` by the ratings between them, `interval` by
            their squared difference.
        resamples: bootstrap samples of the items, >= 0.
        seed: seed for the resampling.
        confidence: level of the interval, in (0, 1).

    Returns:
        All NaN if no item has two ratings, or if all values are the same: chance agreement is then perfect and alpha is
        not defined.
    """
    matrix = np.atleast_2d(np.asarray(ratings, dtype=np.float64))
    values = np.unique(matrix[~np.isnan(matrix)])
    counts_NV = (matrix[:, :, None] == values).sum(0).astype(np.float64)
    paired_NV = counts_NV[counts_NV.sum(1) >= 2]
    coincidences_NVV = _coincidences(paired_NV)
    point = _alpha(coincidences_NVV.sum(0)[None], values, level)[0]
    draws = _resampled(len(paired_NV), resamples, seed, lambda w: np.tensordot(w, coincidences_NVV, 1))
    return _interval(point, _alpha(draws, values, level) if len(draws) else np.empty(0), confidence)


def _coincidences(counts_NV: Array) -> Array:
    """[N, V, V]: how often values c and k meet in an item; the weight of an item is its number of ratings."""
    raters_N = counts_NV.sum(1)
    met = counts_NV[:, :, None] * counts_NV[:, None, :]
    diagonal = np.arange(counts_NV.shape[1])
    met[:, diagonal, diagonal] -= counts_NV
    return np.asarray(met / (raters_N - 1)[:, None, None])


def _alpha(coincidences_BVV: Array, values_V: Array, level: Level) -> Array:
    marginal_BV = coincidences_BVV.sum(2)
    total_B = marginal_BV.sum(1)
    distance_BVV = _distance(marginal_BV, values_V, level)
    observed = (coincidences_BVV * distance_BVV).sum((1, 2))
    expected = (marginal_BV[:, :, None] * marginal_BV[:, None, :] * distance_BVV).sum((1, 2))
    # 1 - D_o / D_e with D_o = observed / n and D_e = expected / (n (n - 1)).
    chance = np.divide(observed * (total_B - 1), expected, out=np.full_like(observed, np.nan), where=expected > 0)
    return np.asarray(1 - chance)


def _distance(marginal_BV: Array, values_V: Array, level: Level) -> Array:
    if level == "ordinal":
        # Ratings up to the middle of each value; the difference of two counts the ratings between them.
        middle_BV = np.cumsum(marginal_BV, 1) - marginal_BV / 2
        return np.asarray((middle_BV[:, :, None] - middle_BV[:, None, :]) ** 2)
    difference_VV = values_V[:, None] - values_V[None, :]
    return np.asarray(difference_VV**2 if level == "interval" else (difference_VV != 0).astype(np.float64))[None]


# --- two raters ---


def agreement_rate(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of the items rated by both on which they agree, 0 to 1; NaN if there are none."""
    same = [x == y for x, y in zip(a, b, strict=True) if not (np.isnan(x) or np.isnan(y))]
    return float(np.mean(same)) if same else float("nan")


def cohen_kappa(a: Sequence[float], b: Sequence[float]) -> float:
    """(p_o - p_e) / (1 - p_e) of two raters over the items rated by both; NaN if there are none, or if p_e = 1."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if not (np.isnan(x) or np.isnan(y))]
    if not pairs:
        return float("nan")
    first, second = np.array(pairs).T
    observed = float(np.mean(first == second))
    chance = sum(float(np.mean(first == v) * np.mean(second == v)) for v in np.unique([first, second]))
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho over the items rated by both; NaN of fewer than two, or if one rater gave them all one value."""
    from scipy.stats import spearmanr

    pairs = [(x, y) for x, y in zip(a, b, strict=True) if not (np.isnan(x) or np.isnan(y))]
    if len(pairs) < 2:
        return float("nan")
    first, second = np.array(pairs).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:  # scipy would warn
        return float("nan")
    return float(spearmanr(first, second).statistic)


def item_interval(
    statistic: Callable[[Sequence[float], Sequence[float]], float],
    a: Sequence[float],
    b: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """A statistic of two raters with its bootstrap interval over the items rated by both."""
    kept = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not (np.isnan(x) or np.isnan(y))]
    first = np.asarray(a, dtype=np.float64)[kept]
    second = np.asarray(b, dtype=np.float64)[kept]
    point = statistic(list(first), list(second))
    if not kept:
        return _interval(point, np.empty(0), confidence)
    picks = np.random.default_rng(seed).integers(0, len(kept), (resamples, len(kept)))
    draws = np.array([statistic(list(first[pick]), list(second[pick])) for pick in picks])
    return _interval(point, draws, confidence)


# --- Bradley-Terry ---


def bradley_terry_intervals(
    outcomes: Sequence[tuple[str, str, float]],
    *,
    prior: float = PRIOR,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Strength of each system with its bootstrap interval over items.

    Args:
        outcomes: for each item: two systems and the share that the first one won, from 0 to 1 (0.5: a tie).
        prior: as in `bradley_terry`.
        resamples: bootstrap samples, >= 0.
        seed: seed for the resampling.
        confidence: level of the intervals, in (0, 1).
    """
    names = sorted({name for a, b, _ in outcomes for name in (a, b)})
    place = {name: i for i, name in enumerate(names)}
    wins_NKK = np.zeros((len(outcomes), len(names), len(names)))
    for n, (a, b, share) in enumerate(outcomes):
        wins_NKK[n, place[a], place[b]] = share
        wins_NKK[n, place[b], place[a]] = 1 - share
    if not names:
        return {}
    point = bradley_terry(wins_NKK.sum(0), prior)
    draws = _resampled(len(outcomes), resamples, seed, lambda w: np.tensordot(w, wins_NKK, 1))
    fits = bradley_terry(draws, prior) if len(draws) else np.empty((0, len(names)))
    return {name: _interval(float(point[i]), fits[:, i], confidence) for name, i in place.items()}


def majority(values: Sequence[float]) -> float:
    """Majority of votes of -1, 0 and 1: the sign of their sum; NaN without votes."""
    present = [v for v in values if not np.isnan(v)]
    return float(np.sign(sum(present))) if present else float("nan")


def pairwise_agreement(ratings: Mapping[str, Mapping[Any, float]]) -> float:
    """Share of all (two raters, item rated by both) on which the two agree, 0 to 1; NaN if no item was shared."""
    names = sorted(ratings)
    same = [
        ratings[a][item] == ratings[b][item]
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for item in ratings[a]
        if item in ratings[b]
    ]
    return float(np.mean(same)) if same else float("nan")


# --- the bootstrap ---


def _resampled(items: int, resamples: int, seed: int, total: Callable[[Array], Array]) -> Array:
    """`total` of how often each item was drawn, [resamples, items]; empty without items."""
    if not items or not resamples:
        return np.empty((0,))
    return total(_weights(items, resamples, seed))


def _weights(items: int, resamples: int, seed: int) -> Array:
    draws: NDArray[np.int64] = np.random.default_rng(seed).integers(0, items, (resamples, items))
    weights = np.zeros((resamples, items))
    np.add.at(weights, (np.arange(resamples)[:, None], draws), 1.0)
    return weights


def _interval(point: float, draws: Array, confidence: float) -> Interval:
    present = draws[~np.isnan(draws)]
    if np.isnan(point) or not present.size:
        return Interval(float(point), float("nan"), float("nan"))
    low, high = np.quantile(present, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(point), float(low), float(high))
