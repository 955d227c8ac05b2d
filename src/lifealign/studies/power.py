"""The smallest difference that a study can see, computed before its runs. PURE functions of plain values.

A study compares two methods by the mean of their differences, paired by seed. With n seeds, the paired t-test sees a
difference d with the wanted power if d sqrt(n) / sd is at least the noncentrality at which the noncentral t distribution
of n - 1 degrees of freedom exceeds the critical value that often (Cohen 1988, Statistical Power Analysis, section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

ALPHA, POWER = 0.05, 0.8
"""Two-sided level of the test, and how often a difference of the stated size is found."""
OTHER_SEEDS = (3, 5, 8, 10, 20)
"""Numbers of seeds for which a design is stated beside its own."""
SUMMARIES = ("last", "bwt")
SPREAD = {"last": 3.1, "bwt": 4.4}
"""Standard deviation between seeds in points, beyond the noise of the rows; see `SOURCE`."""
CORRELATION = {"last": 0.05, "bwt": 0.19}
"""Correlation of two methods' values over the seeds; see `SOURCE`."""
SOURCE = "results/main-table (19 methods, 3 seeds, 6 tasks of 12 test rows)"
"""Where the default spread and correlation were measured: total variance of preference accuracy over the seeds minus
that of the rows at the accuracies measured, pooled over methods; covariance pooled over all pairs of methods."""


@dataclass(frozen=True)
class Seen:
    """What a design can see of one summary.

    Attributes:
        difference: smallest difference in points that one comparison finds in `POWER` of all studies; None with one seed.
        corrected: the same if the comparison must pass at 5% / `comparisons`, the first step of Holm's correction.
        comparisons: number of methods that are compared with the baseline.
        sd: standard deviation of a paired difference over the seeds, in points.
        source: `finished runs`, or `assumption`.
        pairs: finished pairs of methods that `sd` is pooled over; 0 if it is assumed.
        spread: assumed standard deviation between seeds beyond the rows; None if `sd` was measured.
        correlation: assumed correlation of two methods over the seeds; None if `sd` was measured.
        by_seeds: number of seeds -> difference of one comparison.
    """

    difference: float | None
    corrected: float | None
    comparisons: int
    sd: float
    source: str
    pairs: int
    spread: float | None
    correlation: float | None
    by_seeds: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def effect(seeds: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Smallest mean difference, in standard deviations of a difference, that the paired t-test finds.

    The other tail, where a difference is found with the wrong sign, is left out; its probability is below 1e-4.

    Args:
        seeds: pairs. 2 <= seeds.
        alpha: two-sided level. 0 < alpha < 1.
        power: how often it is found. alpha < power < 1.
    """
    from scipy import special  # here, because a mistake in a study should not wait for scipy

    critical = special.stdtrit(seeds - 1, 1 - alpha / 2)
    return float(special.nctdtrinc(seeds - 1, 1 - power, critical) / math.sqrt(seeds))


def row_variance(summary: str, rows: Sequence[int], accuracy: float) -> float:
    """Variance of a summary that comes from the finite number of test rows, in points squared.

    A cell of R of n rows with success rate p has variance p (1 - p) / n. Last is the mean of T cells. BWT is the mean of
    T - 1 differences of two cells, taken as independent; the same rows are scored twice, so this is an upper limit.

    Args:
        summary: `last` or `bwt`.
        rows: test rows of each task, in the order of the tasks.
        accuracy: success rate. 0 <= accuracy <= 1.
    """
    cell = 1e4 * accuracy * (1 - accuracy)
    if summary == "last":
        return cell * sum(1 / n for n in rows) / len(rows) ** 2
    return 2 * cell * sum(1 / n for n in rows[:-1]) / (len(rows) - 1) ** 2


def assumed_sd(row_var: float, spread: float, correlation: float) -> float:
    """Standard deviation of the difference of two runs of one seed: sqrt(2 (1 - correlation) (rows + spread^2))."""
    return math.sqrt(2 * (1 - correlation) * (row_var + spread**2))


def measured_sd(pairs: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of paired differences, pooled over pairs of methods by their degrees of freedom; None: no pair.

    Args:
        pairs: differences over the seeds, for each pair of methods; those of fewer than two seeds are left out.
    """
    held = [np.asarray(differences, float) for differences in pairs if len(differences) > 1]
    if not held:
        return None
    squares = sum(float(((d - d.mean()) ** 2).sum()) for d in held)
    return math.sqrt(squares / sum(len(d) - 1 for d in held))


def seen(
    summary: str,
    *,
    seeds: int,
    comparisons: int,
    rows: Sequence[int] | None,
    accuracy: float,
    spread: float | None = None,
    correlation: float | None = None,
    pairs: Sequence[Sequence[float]] = (),
) -> Seen | None:
    """What a design can see of a summary; None if nothing is known: no finished pairs, and no rates of counted rows.

    Args:
        summary: `last` or `bwt`.
        seeds: pairs of runs.
        comparisons: methods that are compared with the baseline.
        rows: test rows of each task; None: the score is no rate, so its noise cannot be computed.
        accuracy: expected success rate.
        spread: between seeds, beyond the rows, in points; None: that of `SOURCE`.
        correlation: of two methods over the seeds; None: that of `SOURCE`.
        pairs: differences over the seeds of finished pairs of methods; if there are any, they decide.
    """
    sd = measured_sd(pairs)
    known = sum(len(differences) > 1 for differences in pairs)
    assumed: tuple[float | None, float | None] = (None, None)
    if sd is None:
        if rows is None or (summary == "bwt" and len(rows) < 2):
            return None
        tau = SPREAD[summary] if spread is None else spread
        rho = CORRELATION[summary] if correlation is None else correlation
        assumed = (tau, rho)
        sd = assumed_sd(row_variance(summary, rows, accuracy), tau, rho)
    many = max(comparisons, 1)
    return Seen(
        difference=effect(seeds) * sd if seeds > 1 else None,
        corrected=effect(seeds, ALPHA / many) * sd if seeds > 1 else None,
        comparisons=many,
        sd=sd,
        source="finished runs" if known else "assumption",
        pairs=known,
        spread=assumed[0],
        correlation=assumed[1],
        by_seeds={n: effect(n) * sd for n in OTHER_SEEDS},
    )
