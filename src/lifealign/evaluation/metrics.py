"""Summaries of a score matrix, and intervals: PURE functions, numpy and scipy only.

R[k][j] is the score on task j after training task k (both from 0, j <= k): stages down, tasks across. R may be ragged, a
nested list or an array. A missing cell is NaN or None, never zero. A summary is the mean over the cells that exist, or
NaN if none does. Scores may be negative. No argument is changed.

Sources: Lopez-Paz & Ranzato 2017 (arXiv 1706.08840) for BWT and FWT, Chaudhry et al. 2018 (arXiv 1801.10112) for
forgetting, the LifeAlign paper (arXiv 2509.17183) for Last and AP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SummaryOfR = Callable[[Array], float]


class Interval(NamedTuple):
    """A value with the limits of its interval; all NaN if nothing was measured."""

    value: float
    low: float
    high: float


def as_matrix(R: Any) -> Array:
    """R as a [stages, tasks] float64 array, NaN where a cell is missing. Cells above the diagonal are kept."""
    rows = [[] if row is None else list(row) for row in R]
    matrix = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for k, row in enumerate(rows):
        for j, value in enumerate(row):
            matrix[k, j] = np.nan if value is None else float(value)
    return matrix


def _present(values: Any) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _mean(values: Any) -> float:
    present = _present(values)
    return float(present.mean()) if present.size else float("nan")


def holes(R: Any, ends: Sequence[int] = ()) -> NDArray[np.bool_]:
    """Missing cells of learnt tasks (j <= k) whose stage k and task j were scored elsewhere; [stages, tasks].

    A stage that was not scored at all has none (joint training has one stage), and neither has a task without the score.

    Args:
        R: the matrix.
        ends: for each task the first stage at which it has no cell any more, as it was retired; empty: no task was.
    """
    matrix = as_matrix(R)
    there = np.tril(~np.isnan(matrix))
    missing: NDArray[np.bool_] = np.tril(~there & there.any(1, keepdims=True) & there.any(0, keepdims=True))
    for j, end in enumerate(ends[: matrix.shape[1]]):
        missing[end:, j] = False
    return missing


def last(R: Any) -> float:
    """Mean score of the tasks learnt so far, after the last stage: mean_{j<=N} R[N][j]."""
    matrix = as_matrix(R)
    return _mean(matrix[-1, : len(matrix)]) if len(matrix) else float("nan")


def ap(R: Any, ends: Sequence[int] = ()) -> float:
    """Average performance: mean over stages k of mean_{j<=k} R[k][j]; stages without a score do not count.

    NaN if there are `holes`: a stage's mean over some of its tasks is another quantity. See `holes` for `ends`.
    """
    matrix = as_matrix(R)
    if holes(matrix, ends).any():
        return float("nan")
    return _mean([_mean(matrix[k, : k + 1]) for k in range(len(matrix))])


def bwt(R: Any) -> float:
    """Backward transfer: mean_{j<N} (R[N][j] - R[j][j]); negative if tasks were forgotten, NaN for one task."""
    matrix = as_matrix(R)
    final = len(matrix) - 1
    return _mean([matrix[final, j] - matrix[j, j] for j in range(min(final, matrix.shape[1]))])


def bwt_by_stage(R: Any) -> list[float]:
    """`bwt` of the first k stages, for each k; 0 for the first stage if it was scored, as nothing can be forgotten yet."""
    matrix = as_matrix(R)
    stages = [bwt(matrix[: k + 1, : k + 1]) for k in range(len(matrix))]
    return [0.0 if k == 0 and not np.isnan(matrix[0, 0]) else value for k, value in enumerate(stages)]


def forgetting(R: Any, ends: Sequence[int] = ()) -> float:
    """Mean over tasks j < N of max_{j<=k<N} R[k][j] - R[N][j]; negative if every earlier score was lower.

    NaN if there are `holes` before the last stage: the best earlier score may be in one of them. See `holes` for `ends`.
    """
    matrix = as_matrix(R)
    final = len(matrix) - 1
    if holes(matrix, ends)[:final].any():
        return float("nan")
    drops = []
    for j in range(min(final, matrix.shape[1])):
        earlier = matrix[j:final, j]
        drops.append(np.nanmax(earlier) - matrix[final, j] if not np.isnan(earlier).all() else np.nan)
    return _mean(drops)


def lowest(R: Any) -> float:
    """Lowest score of a task after the last stage: min_{j<=N} R[N][j]."""
    matrix = as_matrix(R)
    present = _present(matrix[-1, : len(matrix)]) if len(matrix) else np.empty(0)
    return float(present.min()) if present.size else float("nan")


def highest(R: Any) -> float:
    """Highest score of a task after the last stage: max_{j<=N} R[N][j]."""
    return -lowest(-as_matrix(R))


def drops(R: Any) -> Array:
    """Fall of each task but the last since right after it was learnt, R[j][j] - R[N][j]; NaN where one is missing."""
    matrix = as_matrix(R)
    final = len(matrix) - 1
    return np.asarray([matrix[j, j] - matrix[final, j] for j in range(min(final, matrix.shape[1]))], dtype=np.float64)


def largest_drop(R: Any) -> float:
    """Largest of `drops`; negative if every task rose, NaN for one task."""
    present = _present(drops(R))
    return float(present.max()) if present.size else float("nan")


def learning_accuracy(R: Any) -> float:
    """Mean score of each task right after it was learnt: mean_j R[j][j]."""
    matrix = as_matrix(R)
    return _mean([matrix[j, j] for j in range(min(matrix.shape))])


def forward_transfer(R: Any, before: Sequence[float | None]) -> float:
    """mean_{j>=1} (R[j-1][j] - before[j]): how much the earlier tasks helped a task before it was learnt.

    Args:
        R: with the cells R[j-1][j], above the diagonal; NaN where they were not measured.
        before: score of each task before any was learnt.
    """
    matrix = as_matrix(R)
    start = [np.nan if b is None else float(b) for b in before]
    return _mean([matrix[j - 1, j] - start[j] for j in range(1, min(matrix.shape[1], len(matrix) + 1, len(start)))])


def percentile_interval(value: float, draws: Array, level: float = 0.95) -> Interval:
    """Percentile interval (Efron & Tibshirani 1993, ch. 13) of a value from bootstrap draws of it; NaN draws are left out.

    Args:
        value: the estimate; if it is NaN, so are the limits.
        draws: [resamples], the estimate of each resample.
        level: share of the draws inside the interval, in (0, 1).
    """
    present = draws[~np.isnan(draws)]
    if np.isnan(value) or not present.size:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(present, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def mean_interval(values: Sequence[float], *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean over the rows of one cell, with its percentile bootstrap interval; NaN without a row."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    return percentile_interval(float(array.mean()), array[draws].mean(1), level)


def share_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Share of ones among zeros and ones, with Wilson's score interval; NaN without a value.

    It stays within 0 and 1, and is no point where all values are the same, as a bootstrap is: 10 of 10 is [0.72, 1].
    Wilson 1927 (doi:10.1080/01621459.1927.10502953); recommended for few rows by Brown, Cai & DasGupta 2001
    (doi:10.1214/ss/1009213286), section 3.1.1.
    """
    count = len(values)
    if not count:
        return Interval(float("nan"), float("nan"), float("nan"))
    share = sum(values) / count
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Rounding must not leave the share outside of its interval where that ends at it.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def bootstrap_summaries(
    samples: Sequence[Sequence[Sequence[float]]],
    functions: Mapping[str, SummaryOfR],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Summaries of R with percentile bootstrap intervals over held-out rows.

    Args:
        samples: samples[k][j] holds the per-row scores of task j after stage k, empty where it was not measured. Rows of a
            task are the same at all stages, so a resample takes the same rows at each of them (paired); a stage at which
            another number of rows was scored is resampled by itself.
        functions: name -> summary of a matrix.
        resamples: bootstrap samples, >= 1.
        seed: seed of the resampling.
        level: coverage of the intervals, in (0, 1).
    """
    point, drawn = resampled(samples, resamples, seed)
    return {
        name: percentile_interval(function(point), np.array([function(matrix) for matrix in drawn]), level)
        for name, function in functions.items()
    }


def resampled(samples: Sequence[Sequence[Sequence[float]]], resamples: int, seed: int) -> tuple[Array, Array]:
    """R [stages, tasks], and R of each resample [resamples, stages, tasks]; see `bootstrap_summaries`.

    The rows drawn depend on the seed, the task's place and its number of rows alone, so two memories scored on the same
    rows are resampled alike.
    """
    tasks = max(map(len, samples), default=0)
    drawn = np.full((resamples, len(samples), tasks), np.nan)
    point = np.full((len(samples), tasks), np.nan)
    for j in range(tasks):
        indices: dict[int, NDArray[np.int64]] = {}
        for k, row in enumerate(samples):
            values = np.asarray(row[j] if j < len(row) else (), dtype=np.float64)
            if not values.size:
                continue
            if values.size not in indices:
                generator = np.random.default_rng([seed, j, values.size])
                indices[values.size] = generator.integers(0, values.size, (resamples, values.size))
            point[k, j] = values.mean()
            drawn[:, k, j] = values[indices[values.size]].mean(1)
    return point, drawn


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of a - b over the same rows (or seeds), with its bootstrap interval.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must belong to the same rows, got {len(a)} and {len(b)} values")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_interval(list(difference), resamples=resamples, seed=seed, level=level)


def seeds_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with a 95% interval.

    Student's t interval: a bootstrap of three values cannot leave their range and covers the mean in 74% of cases, not
    in 95% (2,000 normal samples). One seed has no interval (NaN limits).
    """
    array = np.asarray([v for v in values if not np.isnan(v)], dtype=np.float64)
    if array.size < 2:
        return Interval(float(array.mean()) if array.size else float("nan"), float("nan"), float("nan"))
    from scipy.special import stdtrit  # here, because reading summaries should not wait for scipy

    half = float(stdtrit(array.size - 1, 0.975)) * float(array.std(ddof=1)) / float(np.sqrt(array.size))
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half)
