"""Statistics of a study: PURE functions of plain values. Missing is NaN or None, never zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lifealign.evaluation.metrics import Array, Interval, as_matrix, mean_interval, seeds_interval

BOOTSTRAP_FROM = 20
"""From this many seeds on, an interval is a percentile bootstrap. Below, it is Student's t: 95% bootstrap intervals of
3, 5, 10 and 20 normal values cover the mean in 74, 83, 90 and 93% of cases (`metrics.seeds_interval`, tests)."""


def interval(values: Sequence[float | None]) -> Interval:
    """Mean over seeds with its 95% interval; missing values are left out, and one value has no interval (NaN limits)."""
    present = [float(v) for v in values if v is not None and not np.isnan(v)]
    return mean_interval(present) if len(present) >= BOOTSTRAP_FROM else seeds_interval(present)


def interval_name(seeds: int) -> str:
    """Kind of interval that `interval` gives for this many seeds, for people."""
    if seeds < 2:
        return "one seed: no interval"
    kind = "percentile bootstrap" if seeds >= BOOTSTRAP_FROM else "Student's t"
    return f"95% intervals over {seeds} seeds: {kind}"


def paired(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> Interval:
    """Mean of ours - theirs over the seeds that both have, with its 95% interval.

    Pairing removes the effect of the seed on both (rows, their order, initial adapter).
    """
    return interval(differences(ours, theirs))


def paired_p(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> float:
    """Two-sided p-value of the paired t-test over the seeds that both have; NaN with fewer than two.

    If all differences are equal, it is 0, or 1 if they are all zero, as the interval has no width either.
    """
    found = differences(ours, theirs)
    if len(found) < 2:
        return float("nan")
    mean_of, error = np.mean(found), np.std(found, ddof=1) / np.sqrt(len(found))
    if error == 0:
        return float(mean_of == 0)
    from scipy import special  # here, because a mistake in a study should not wait for scipy

    return float(2 * special.stdtr(len(found) - 1, -abs(mean_of) / error))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number (Holm 1979, Scand. J. Statist. 6, 65); missing ones stay so and do not count.

    The k-th smallest of m is multiplied by m - k + 1; none is below the one before it or above 1.
    """
    known = sorted((v, i) for i, v in enumerate(values) if v is not None and not np.isnan(v))
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        found[i] = largest
    return found


def differences(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> list[float]:
    """Ours - theirs of each seed that both have measured."""
    both = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    found = [a - b for a, b in both if a is not None and b is not None]
    return [d for d in found if not np.isnan(d)]


def spread(by_order: Mapping[str, float]) -> float:
    """Order sensitivity: largest minus smallest mean over the task orders; NaN with fewer than two."""
    present = [v for v in by_order.values() if not np.isnan(v)]
    return max(present) - min(present) if len(present) > 1 else float("nan")


def mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are not missing; NaN if all are."""
    present = [float(v) for v in values if v is not None and not np.isnan(v)]
    return float(np.mean(present)) if present else float("nan")


def interference(
    runs: Sequence[tuple[Sequence[str], Any, Sequence[float | None] | None]], tasks: Sequence[str]
) -> Array:
    """Effect of learning task i on the score of task j: [i, j], mean over the runs that measured it.

    A run that learns i as its k-th task (from 0) changed j by R[k][j] - R[k-1][j]; for k = 0, by R[0][j] - before[j].
    The diagonal is the effect of learning a task on itself. Cells that no run measured (i learnt before j in all of
    them, without `evaluate.unseen`) are NaN.

    Args:
        runs: (tasks in the order learnt, R, scores before the first task or None).
        tasks: order of the matrix's rows and columns.
    """
    position = {task: i for i, task in enumerate(tasks)}
    sums, counts = np.zeros((len(tasks), len(tasks))), np.zeros((len(tasks), len(tasks)))
    for learnt, R, before in runs:
        matrix = as_matrix([before if before is not None else [None] * len(learnt), *R])
        for k, task in enumerate(learnt):
            for j, other in enumerate(learnt):
                change = matrix[k + 1, j] - matrix[k, j]
                if not np.isnan(change):
                    sums[position[task], position[other]] += change
                    counts[position[task], position[other]] += 1
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def best(values: Sequence[float | None], lower_is_better: bool) -> int | None:
    """Position of the best value, the first in a tie; None if all values are missing."""
    scores = [np.nan if v is None else (-v if lower_is_better else v) for v in values]
    return None if np.isnan(scores).all() else int(np.nanargmax(scores))
