"""From the stored evaluation records to score matrices and what the report shows; no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lifealign.data.tasks import rows_sha256
from lifealign.evaluation import metrics
from lifealign.evaluation.catalog import LOWER_IS_BETTER, METRICS, PERCENT
from lifealign.evaluation.guard_results import guard_results
from lifealign.evaluation.text_metrics import FLOORS
from lifealign.store.heldout import heldout
from lifealign.store.layout import DATA, DIAGNOSTICS, ROOT, ROW_RECORD, TRAINING
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader

SUMMARIES = ("last", "ap", "bwt", "forgetting", "learning_accuracy", "forward_transfer")
LEVEL_SEED = 0
"""Seed of the bootstrap: intervals are the same whenever they are asked for."""


@dataclass(frozen=True)
class ScoreTable:
    """Per-row scores of a memory on one split: stage (task directory) -> task -> metric -> values.

    Attributes:
        tasks: in the order they were learnt, then those only scored.
        stages: for each task, the directory of the commit that learnt it.
        rows: the values; of several records of one cell, the latest of those with most rows.
        floors: task -> trivial answer -> metric -> values on the same rows; they are the same at every stage.
    """

    tasks: tuple[str, ...]
    stages: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    floors: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] = field(default_factory=dict)

    def floor(self, task: str, floor: str, metric: str) -> float:
        """Mean of what a trivial answer scores, in the metric's unit; NaN where that was not measured."""
        values = self.floors.get(task, {}).get(floor, {}).get(metric, ())
        return (100.0 if metric in PERCENT else 1.0) * sum(values) / len(values) if values else math.nan

    def values(self, stage: str, task: str, metric: str) -> Sequence[float]:
        """Per-row values, scaled to percent where the metric is a rate; empty where nothing was measured."""
        scale = 100.0 if metric in PERCENT else 1.0
        return [v * scale for v in self.rows.get(stage, {}).get(task, {}).get(metric, ())]

    def metrics(self, stage: str, task: str) -> list[str]:
        """Metrics measured of a task at a stage."""
        return [m for m in METRICS if self.values(stage, task, m)]

    def mean(self, stage: str, task: str, metric: str) -> float:
        """Mean of a cell; NaN where nothing was measured."""
        values = self.values(stage, task, metric)
        return sum(values) / len(values) if values else math.nan

    def cell(self, stage: str, task: str, metric: str, resamples: int) -> dict[str, float]:
        """Mean of a cell with its bootstrap interval over rows, and the number of rows."""
        values = self.values(stage, task, metric)
        interval = metrics.mean_interval(values, resamples=resamples, seed=LEVEL_SEED)
        return {"value": interval.value, "low": interval.low, "high": interval.high, "rows": len(values)}

    def samples(self, metric: str) -> list[list[Sequence[float]]]:
        """Per-row values [k][j] after the k-th task, N x N; empty where nothing was measured.

        Tasks learnt in one go (joint training) have one stage, which is the row of the last of them.
        """
        count = len(self.stages)
        return [
            [
                []
                if k + 1 < count and self.stages[k + 1] == self.stages[k]
                else self.values(self.stages[k], self.tasks[j], metric)
                for j in range(count)
            ]
            for k in range(count)
        ]

    def matrix(self, metric: str) -> list[list[float]]:
        """R[k][j], N x N; NaN where nothing was measured."""
        return [[sum(v) / len(v) if v else math.nan for v in row] for row in self.samples(metric)]


def read_scores(store: MemoryReader, split: str) -> ScoreTable:
    """The scores of a memory's lineage on one split."""
    lineage = store.lineage()
    stages = {name: m.directory for m in lineage[1:] for name in m.members}
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    floors: dict[str, dict[str, dict[str, list[float]]]] = {}
    tasks = {task.name: task for task in heldout(store)}

    @functools.cache
    def kept(name: str, count: int | None) -> str:
        return rows_sha256((tasks[name].test if split == "test" else tasks[name].validation)[:count])

    for record in store.evaluations():
        if record["kind"] == ROW_RECORD and record["options"]["split"] == split:
            for score in record["scores"]:
                name = score["task"]
                if name in tasks and score["rows_sha256"] != kept(name, record["options"].get("rows")):
                    continue  # of rows that a rollback took back
                cell = rows.setdefault(record["after"], {}).setdefault(name, {})
                _update(cell, score["rows"])
                for floor, values in score.get("floors", {}).items():  # older records have none
                    _update(floors.setdefault(name, {}).setdefault(floor, {}), values)
    return ScoreTable(tuple(stages), tuple(stages.values()), rows, floors)


def _update(cell: dict[str, list[float]], found: Mapping[str, list[float]]) -> None:
    """The latest record counts, unless it looked at fewer rows than an earlier one."""
    cell.update({m: v for m, v in found.items() if len(v) >= len(cell.get(m, ()))})


def run_results(store: MemoryReader, table: ScoreTable) -> dict[str, Any]:
    """What the report shows of one memory; see `report.build_results`."""
    config = store.identity["config"]
    resamples = config["evaluate"]["bootstrap"]
    found = [m for m in METRICS if any(v for row in table.samples(m) for v in row)]
    lineage = store.lineage()[1:]
    guard = guard_results(store, table.stages, resamples)
    return {
        "method": config["strategy"]["name"],
        "memory": str(store.path),
        "seed": config["seed"],
        "base_model": config["model"]["name"],
        "tasks": list(table.tasks),
        "scores": {m: _scores(table, m, resamples) for m in found},
        "summary": {m: _summary(table, m, resamples) for m in found},
        **({"guard": guard} if guard else {}),
        "floors": {m: floors for m in found if (floors := _floors(table, m))},
        "training": {m.name: store.load_lines(m, TRAINING) for m in lineage},
        "consolidation": {m.name: d for m in lineage if "summed" in (d := store.load_document(m, DIAGNOSTICS))},
        "data": {name: reports for m in lineage for name, reports in _data(store, m).items()},
        "config": config,
        "versions": dict(lineage[-1].versions) if lineage else {},
        "seconds": {m.name: m.meta.get("seconds") for m in lineage},
    }


def _data(store: MemoryReader, manifest: TaskManifest) -> dict[str, Any]:
    reports: dict[str, Any] = store.load_document(manifest, DATA)["reports"]
    return reports


def _before(table: ScoreTable, metric: str) -> list[float]:
    return [table.mean(ROOT, task, metric) for task in table.tasks]


def _scores(table: ScoreTable, metric: str, resamples: int) -> dict[str, Any]:
    samples = table.samples(metric)
    cells = [
        [metrics.mean_interval(v, resamples=resamples, seed=LEVEL_SEED) if v else None for v in row] for row in samples
    ]
    return {
        "R": [[c and c.value for c in row] for row in cells],
        "low": [[c and c.low for c in row] for row in cells],
        "high": [[c and c.high for c in row] for row in cells],
        "before": [None if math.isnan(v) else v for v in _before(table, metric)],
    }


def _floors(table: ScoreTable, metric: str) -> dict[str, Any]:
    """Floor -> {"tasks": mean per task, "mean": over the tasks}, to be read beside the last row of R and `last`."""
    found = {}
    for floor in FLOORS:
        values = [table.floor(task, floor, metric) for task in table.tasks]
        present = [v for v in values if not math.isnan(v)]
        if present:
            found[floor] = {
                "tasks": [None if math.isnan(v) else v for v in values],
                "mean": sum(present) / len(present),
            }
    return found


def summary_functions(metric: str, before: Sequence[float]) -> dict[str, metrics.Metric]:
    """`SUMMARIES` as functions of R.

    Args:
        metric: a key of `METRICS`; says whether lower is better.
        before: score of each task before any was learnt; NaN where it was not measured.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return {
        "last": metrics.last,
        "ap": metrics.ap,
        "bwt": metrics.bwt,
        # The best earlier score is the lowest one where lower is better; positive is always a loss.
        "forgetting": lambda R: metrics.forgetting(sign * R),
        "learning_accuracy": metrics.learning_accuracy,
        "forward_transfer": lambda R: metrics.forward_transfer(R, before),
    }


def point_results(table: ScoreTable) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score matrices and their summaries without intervals, by metric; what a study keeps of a run."""
    scores: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for metric in METRICS:
        R = metrics.as_matrix(table.matrix(metric))
        if not np.isnan(R).all():
            before = _before(table, metric)
            scores[metric] = {"R": R.tolist(), "before": None if np.isnan(before).all() else before}
            summary[metric] = {name: f(R) for name, f in summary_functions(metric, before).items()}
    return scores, summary


def _summary(table: ScoreTable, metric: str, resamples: int) -> dict[str, Any]:
    functions = summary_functions(metric, _before(table, metric))
    intervals = metrics.bootstrap_metrics(table.samples(metric), functions, resamples=resamples, seed=LEVEL_SEED)
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in intervals.items()}
