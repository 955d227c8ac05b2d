"""Numbers that only gates ask for: of single tasks, of the worst one, and of changes since another point; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lifealign.evaluation import catalog, metrics
from lifealign.evaluation.differences import paired
from lifealign.evaluation.metrics import Array
from lifealign.evaluation.results import BOOTSTRAP_SEED, ScoreTable
from lifealign.store.manifest import directory_number

TASK = "task:"
"""Prefix of a task's name among the values, so that no task is taken for a summary."""

Samples = Sequence[Sequence[Sequence[float]]]


def gate_values(table: ScoreTable, score: str, resamples: int, against: str | None = None) -> dict[str, dict[str, Any]]:
    """Values of one score, each {"value", "low", "high"}, and "task" where the value is that of one task.

    Args:
        table: the scores of a memory; the last stage is now.
        score: name.
        resamples: bootstrap samples.
        against: directory of the point to compare with, by the tasks that were learnt there; None: compare each task with
            itself right after it was learnt.

    Returns:
        Key -> value: `min`, `max` and `drop`, also `change` if there is a point to compare with, and `task:NAME` for
        every task that was measured now.
    """
    if not table.stages:
        return {}
    now, sign = table.stages[-1], catalog.score(score).sign
    cells = {t: table.cell(now, t, score, resamples) for t in table.tasks if table.values(now, t, score)}
    found: dict[str, dict[str, Any]] = {TASK + name: {**cell, "task": name} for name, cell in cells.items()}
    samples = table.samples(score)
    final = metrics.as_matrix(table.matrix(score))[-1]
    found["min"] = _value(samples, metrics.lowest, resamples, _at(table.tasks, -final))
    found["max"] = _value(samples, metrics.highest, resamples, _at(table.tasks, final))
    if against is None:
        falls = metrics.drops(sign * metrics.as_matrix(table.matrix(score)))
        found["drop"] = _value(samples, lambda R: metrics.largest_drop(sign * R), resamples, _at(table.tasks, falls))
        return found
    then = directory_number(against)
    known = [t for t, stage in zip(table.tasks, table.stages, strict=True) if directory_number(stage) <= then]
    pairs = {t: paired(table, against, now, t, score)[1:] for t in known}
    pairs = {t: pair for t, pair in pairs.items() if pair[0]}
    since = [[before for before, _ in pairs.values()], [after for _, after in pairs.values()]]
    falls = np.asarray([sign * (np.mean(before) - np.mean(after)) for before, after in pairs.values()])
    if pairs:
        found["drop"] = _value(since, lambda R: float((sign * (R[0] - R[1])).max()), resamples, _at([*pairs], falls))
        found["change"] = _value(since, lambda R: float((R[1] - R[0]).mean()), resamples, None)
    return found


def _value(samples: Samples, function: Callable[[Array], float], resamples: int, task: str | None) -> dict[str, Any]:
    drawn = metrics.bootstrap_summaries(samples, {"x": function}, resamples=resamples, seed=BOOTSTRAP_SEED)["x"]
    return {**drawn._asdict(), **({} if task is None else {"task": task})}


def _at(tasks: Sequence[str], values: Array) -> str | None:
    """The task with the largest value; None if there is none."""
    return None if not len(values) or np.isnan(values).all() else tasks[int(np.nanargmax(values))]
