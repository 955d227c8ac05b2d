"""Aggregates over tasks and seeds with stratified bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import Array, Interval
from lifealign.evaluation.numbers import number
from lifealign.studies.report.cells import Cell, Column, Json, Table, slug
from lifealign.studies.report.form import own_method
from lifealign.studies.report.lines import Group, groups, line_runs, scores_of

RESAMPLES = 2_000
FEWEST_SEEDS = 3
"""Seeds of a task below which resampling them says nothing."""


def aggregate_tables(results: Json) -> list[Table]:
    """A table for each score and group: interquartile mean, mean, and how often a run beats the own method's."""
    found = (_table(results, group, score) for group in groups(results) for score in scores_of(results))
    return [table for table in found if table is not None]


def _table(results: Json, group: Group, score: str) -> Table | None:
    held = {str(line["method"]): by_task(results, line, score) for line in group.lines}
    tasks = max((set(values) for values in held.values()), key=len, default=set())
    whole = {
        name: [np.array(values[task]) for task in sorted(tasks)]
        for name, values in held.items()
        if tasks and set(values) == tasks and min(map(len, values.values())) >= FEWEST_SEEDS
    }
    if len(whole) < 2 or catalog.score(score).better == "neither":
        return None
    own = own_method(results) or ""
    columns = [
        Column("IQM", "", "mean of the middle half of the runs' scores, over tasks and seeds together"),
        Column("Mean", "", "mean over tasks and seeds"),
    ]
    if own in whole:
        columns.append(Column(f"Beats {own}, %", "", f"chance that a run does better on a task than one of {own}"))
    rows = tuple((name, _cells(values, whole.get(own), name == own, score)) for name, values in whole.items())
    seeds = sorted({len(one) for values in whole.values() for one in values})
    bounds = [str(line["method"]) for line in group.bounds()]
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    left = [name for name in held if name not in whole]
    return Table(
        slug("aggregate", score, group.order, *((group.model,) if group.model != "None" else ())),
        f"{catalog.score(score).title}, {group.label}",
        f"After the last task; {len(tasks)} tasks, {counts} seeds each; 95% intervals by bootstrap, seeds resampled within each "
        "task. With few seeds they are too narrow."
        + (f" Left out, fewer than {FEWEST_SEEDS} seeds or a task not measured: {', '.join(left)}." if left else ""),
        "Method",
        tuple(columns),
        rows,
        {**group.show(), "score": score},
        sum(name in whole for name in bounds),
    )


def _cells(values: Sequence[Array], own: Sequence[Array] | None, is_own: bool, score: str) -> tuple[Cell, ...]:
    cells = [_cell(aggregate(values, statistic), score) for statistic in (interquartile_mean, mean)]
    if own is not None:
        cells.append(Cell("–") if is_own else _cell(improvement(values, own, catalog.score(score).sign), "accuracy"))
    return tuple(cells)


def _cell(found: Interval, score: str) -> Cell:
    ends = ("", "") if found.low == found.high else (number(found.low, score), number(found.high, score))
    return Cell(number(found.value, score), found.value, *ends)


def interquartile_mean(*tasks: Array, axis: int = -1) -> Any:
    """Mean of the middle half of all values; a quarter is cut at each end."""
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis)


def mean(*tasks: Array, axis: int = -1) -> Any:
    """Mean of the tasks' means, so that each task weighs the same whatever its seeds."""
    return np.mean([task.mean(axis) for task in tasks], axis=0)


def aggregate(tasks: Sequence[Array], statistic: Callable[..., Any]) -> Interval:
    """A statistic of values by task, each [seeds], with its interval: seeds are resampled within each task."""
    from scipy.stats import bootstrap

    value = float(statistic(*tasks))
    if all(len(set(task.tolist())) == 1 for task in tasks):
        return Interval(value, value, value)
    found = bootstrap(
        tasks, statistic, method="percentile", n_resamples=RESAMPLES, vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high))


def improvement(ours: Sequence[Array], theirs: Sequence[Array], sign: float) -> Interval:
    """Chance in percent that a run of ours is better than one of theirs on a task, ties half, mean over the tasks."""

    def chance(*both: Array, axis: int = -1) -> Any:
        pairs = zip(both[: len(ours)], both[len(ours) :], strict=True)
        return 100 * np.mean([_wins(sign * a, sign * b, axis) for a, b in pairs], axis=0)

    return aggregate([*ours, *theirs], chance)


def _wins(a: Array, b: Array, axis: int) -> Any:
    ours, theirs = np.moveaxis(a, axis, -1)[..., :, None], np.moveaxis(b, axis, -1)[..., None, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((-1, -2))


def by_task(results: Json, line: Json, score: str) -> dict[str, list[float]]:
    """Task -> its scores after the last task, one for each seed."""
    held: dict[str, list[float]] = {}
    for run in line_runs(results, line):
        R = ((run.get("scores") or {}).get(score) or {}).get("R") or []
        for task, value in zip(run.get("tasks") or (), R[-1] if R else (), strict=False):
            if value is not None:
                held.setdefault(task, []).append(value)
    return held
