"""Turn stored evaluation records into score matrices and all that the report shows about a memory; no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lifealign.data.suites.drifting_rules import RULES as RULES_OF_STEPS
from lifealign.data.tasks import rows_sha256
from lifealign.evaluation import catalog, metrics
from lifealign.evaluation.answer_scores import FLOORS
from lifealign.evaluation.drift_results import drift_cells, drift_results
from lifealign.evaluation.following import add_follow
from lifealign.evaluation.guard_results import guard_results, guard_warnings
from lifealign.evaluation.outside import KEY, recall
from lifealign.evaluation.records import read_records
from lifealign.store.documents import read_data, read_diagnostics, read_training
from lifealign.store.heldout import heldout
from lifealign.store.layout import GATE_RECORD, ONE_ADAPTER, ROOT, ROW_RECORD, RULES, WARNINGS
from lifealign.store.manifest import NOTE, TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import learns_nothing, retired
from lifealign.training.signs import SIGNS

PASS_RATE, FOLLOW = "pass_rate", "follow"
BOOTSTRAP_SEED = 0
"""Fixed, so that intervals are the same whenever they are computed."""


@dataclass(frozen=True)
class ScoreTable:
    """Per-row scores of a memory on one split: stage (task directory) -> task -> score -> values.

    Attributes:
        tasks: in the order they were learnt, then those only scored.
        stages: for each task, the directory of the commit that learnt it.
        rows: the values, None where a score is not defined for a row. If a cell was scored more than once, the record with the most rows wins; ties go to the latest.
        floors: task -> trivial answer -> score -> values on the same rows, which are the same at every stage.
        ends: task -> number of its first stage, from 0, at which it has no cell any more, of the tasks that were
            superseded or withdrawn. A withdrawal is a stage and no task: it is among `tasks`, and ends at 0.
        outside: the records' descriptions of scores from outside; see `outside.recall`.
        warnings: about these values, from their records: changed code, missing rules.
    """

    tasks: tuple[str, ...]
    stages: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]
    floors: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]] = field(default_factory=dict)
    outside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    ends: Mapping[str, int] = field(default_factory=dict)

    @property
    def current(self) -> list[str]:
        """The tasks that are neither superseded nor withdrawn now."""
        return [task for task in self.tasks if task not in self.ends]

    @property
    def learnt(self) -> list[str]:
        """All tasks, without the withdrawals."""
        return [task for task in self.tasks if self.ends.get(task) != 0]

    def floor(self, task: str, floor: str, score: str) -> float:
        """Mean score of a trivial answer, in the score's unit; NaN if it was not measured."""
        values = [v for v in self.floors.get(task, {}).get(floor, {}).get(score, ()) if v is not None]
        return catalog.score(score).scale * sum(values) / len(values) if values else math.nan

    def values(self, stage: str, task: str, score: str) -> Sequence[float]:
        """Per-row values of the rows that have one, rates in percent; empty if nothing was measured."""
        return [value for value in self.by_row(stage, task, score) if value is not None]

    def by_row(self, stage: str, task: str, score: str) -> Sequence[float | None]:
        """Values of all rows that were scored, rates in percent; None where the score is not defined."""
        scale = catalog.score(score).scale
        return [None if v is None else v * scale for v in self.rows.get(stage, {}).get(task, {}).get(score, ())]

    def measured(self, stage: str, task: str) -> list[str]:
        """Names of the scores that a task has at a stage."""
        return [name for name in catalog.scores() if self.values(stage, task, name)]

    def mean(self, stage: str, task: str, score: str) -> float:
        """Mean of a cell; NaN if nothing was measured."""
        values = self.values(stage, task, score)
        return sum(values) / len(values) if values else math.nan

    def cell(self, stage: str, task: str, score: str, resamples: int) -> dict[str, float]:
        """Mean of a cell with its interval over rows, and the number of rows; see `cell_interval`."""
        values = self.values(stage, task, score)
        interval = cell_interval(score, values, resamples)
        return {"value": interval.value, "low": interval.low, "high": interval.high, "rows": len(values)}

    def cells(self, stage: str, tasks: Iterable[str], resamples: int) -> dict[str, dict[str, dict[str, float]]]:
        """Task -> score -> `cell`, of all that was measured at a stage."""
        return {t: {name: self.cell(stage, t, name, resamples) for name in self.measured(stage, t)} for t in tasks}

    def samples(self, score: str) -> list[list[Sequence[float]]]:
        """Per-row values [k][j] after the k-th task, N x N; empty where nothing was measured.

        Tasks learnt in one go (joint training) have one stage, which is the row of the last of them.
        """
        count = len(self.stages)
        return [
            [
                []
                if k + 1 < count and self.stages[k + 1] == self.stages[k]
                else self.values(self.stages[k], self.tasks[j], score)
                for j in range(count)
            ]
            for k in range(count)
        ]

    def matrix(self, score: str) -> list[list[float]]:
        """R[k][j], N x N; NaN where nothing was measured."""
        return [[sum(v) / len(v) if v else math.nan for v in row] for row in self.samples(score)]


def cell_interval(score: str, values: Sequence[float], resamples: int) -> metrics.Interval:
    """Mean of a cell's rows with its interval: Wilson's for rows that are right or wrong, else the percentile bootstrap."""
    found = catalog.score(score)
    if found.rate and set(values) <= {0.0, found.scale}:
        return metrics.Interval(
            *(found.scale * end for end in metrics.share_interval([v / found.scale for v in values]))
        )
    value, *ends = metrics.mean_interval(values, resamples=resamples, seed=BOOTSTRAP_SEED)
    if score == FOLLOW:  # a cosine, whose parts by row may sum to more
        ends = [max(-1.0, min(1.0, end)) for end in ends]
    return metrics.Interval(value, *ends)


def read_scores(store: MemoryReader, split: str, one_adapter: bool = False) -> ScoreTable:
    """The scores of a memory's lineage on one split: of its policy, or of the one adapter that an export holds."""
    lineage = store.lineage()
    stages = {name: m.directory for m in lineage[1:] for name in m.members or (m.name,)}
    rows: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    floors: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    warnings: dict[tuple[str, str, str], Sequence[str]] = {}
    tasks = {task.name: task for task in heldout(store, with_retired=True)}

    @functools.cache
    def kept_rows(name: str, count: int | None) -> str:
        return rows_sha256((tasks[name].test if split == "test" else tasks[name].validation)[:count])

    evaluations = read_records(store)
    for record in evaluations:
        if record["kind"] == ROW_RECORD and _measures(record, split, one_adapter):
            for score in record["scores"]:
                name = score["task"]
                if name in tasks and score["rows_sha256"] != kept_rows(name, record["options"].get("rows")):
                    continue  # scored on rows that a rollback removed
                cell = rows.setdefault(record["after"], {}).setdefault(name, {})
                for measured in _update(cell, score["rows"]):
                    warnings[record["after"], name, measured] = record.get(WARNINGS, ())
                rule = record.get(RULES, {}).get(tasks[name].checker) if name in tasks else None
                if isinstance(rule, str) and PASS_RATE not in cell:  # why it was missing
                    warnings[record["after"], name, PASS_RATE] = [rule]
                for floor, values in score.get("floors", {}).items():  # older records have none
                    _update(floors.setdefault(name, {}).setdefault(floor, {}), values)
    # Drift is measured on the memory's own policy.
    drift = {} if one_adapter else drift_cells(store, evaluations, split)
    for after, tasks_there in drift.items():
        for name, columns in tasks_there.items():
            known: dict[str, list[float | None]] = {c: [*v] for c, v in columns.items() if c in catalog.DRIFT_SCORES}
            rows.setdefault(after, {}).setdefault(name, {}).update(known)
    # By the rule, not by the name: a user may call a task linear-1 too.
    steps = {
        name: task.test if split == "test" else task.validation
        for name, task in tasks.items()
        if task.checker in RULES_OF_STEPS
    }
    if steps:
        add_follow(rows, steps)
    points = {manifest.directory for manifest in lineage}
    told = dict.fromkeys(line for (after, *_), lines in warnings.items() if after in points for line in lines)
    outside = recall(evaluations)
    return ScoreTable(tuple(stages), tuple(stages.values()), rows, floors, outside, tuple(told), _ends(store, stages))


def _measures(record: Mapping[str, Any], split: str, one_adapter: bool) -> bool:
    """Whether a record belongs to a table of `read_scores`; before any task both tables are of the base model."""
    options = record["options"]
    return options["split"] == split and (record["after"] == ROOT or options.get(ONE_ADAPTER, False) is one_adapter)


def _ends(store: MemoryReader, stages: Mapping[str, str]) -> dict[str, int]:
    """See `ScoreTable.ends`."""
    places = list(stages.values())
    ends = {name: places.index(directory) for name, directory in retired(store).items()}
    return ends | {m.name: 0 for m in store.lineage() if learns_nothing(m)}


def _update(cell: dict[str, list[float | None]], found: Mapping[str, list[float | None]]) -> list[str]:
    """Take the values of a later record, unless it scored fewer rows than an earlier one; returns the scores taken."""
    newer = {m: v for m, v in found.items() if len(v) >= len(cell.get(m, ()))}
    cell.update(newer)
    return list(newer)


def run_results(store: MemoryReader, table: ScoreTable) -> dict[str, Any]:
    """Everything the report shows about one memory, as plain values; see `report.memories.build_results`."""
    config = store.config
    resamples = config["evaluate"]["bootstrap"]
    names = [name for name in catalog.scores() if any(values for row in table.samples(name) for values in row)]
    lineage = [m for m in store.lineage()[1:] if not learns_nothing(m)]
    guard = guard_results(store, table.stages, resamples)
    records = read_records(store)
    drift = drift_results(store, resamples, records)
    return {
        "method": config["strategy"]["name"],
        "memory": str(store.path),
        "seed": config["seed"],
        "base_model": config["model"]["name"],
        **({"created": lineage[-1].created} if lineage else {}),
        "tasks": list(table.tasks),
        **({"ends": dict(table.ends)} if table.ends else {}),
        "scores": {name: _matrix(table, name, resamples) for name in names},
        "summary": {name: _summaries(table, name, resamples) for name in names},
        **({"gates": gates} if (gates := _gates(store, records)) else {}),
        **({"guard": guard} if guard else {}),
        **({"drift": drift} if drift else {}),
        **({KEY: outside} if (outside := _measured_outside(table, names)) else {}),
        **({WARNINGS: told} if (told := list(dict.fromkeys([*table.warnings, *guard_warnings(store)]))) else {}),
        "floors": {name: floors for name in names if (floors := _floors(table, name))},
        "training": {m.name: read_training(store, m) for m in lineage},
        "consolidation": {m.name: d for m in lineage if "summed" in (d := read_diagnostics(store, m))},
        **({SIGNS: signs} if (signs := _signs(store)) else {}),
        "data": {name: reports for m in lineage for name, reports in _data(store, m).items()},
        "config": config,
        "versions": dict(lineage[-1].versions) if lineage else {},
        "seconds": {m.name: m.meta.get("seconds") for m in lineage},
    }


def _measured_outside(table: ScoreTable, names: Sequence[str]) -> dict[str, Any]:
    return {name: table.outside[name] for name in names if name in table.outside}


def _gates(store: MemoryReader, records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The gates that were checked last at a point of the lineage; None if none were."""
    stages = {m.directory: m.name for m in store.lineage()}
    for record in reversed(records):
        if record["kind"] == GATE_RECORD and record["after"] in stages:
            now = record["after"] == store.head.directory
            return {"after": stages[record["after"]], "now": now, **{k: record[k] for k in ("created", "gates")}}
    return None


def _signs(store: MemoryReader) -> dict[str, Any]:
    """Commit -> the signs of its method, as checked at its end; commits of methods without signs are left out."""
    found = {m.name: read_diagnostics(store, m).get(SIGNS) for m in store.lineage()[1:]}
    return {name: signs for name, signs in found.items() if signs}


def _data(store: MemoryReader, manifest: TaskManifest) -> dict[str, Any]:
    reports: dict[str, Any] = read_data(store, manifest).get("reports", {})
    return reports


def _before(table: ScoreTable, score: str) -> list[float]:
    return [table.mean(ROOT, task, score) for task in table.tasks]


def _matrix(table: ScoreTable, score: str, resamples: int) -> dict[str, Any]:
    """R with the limits of its cells, and the scores before any task."""

    def cell(values: Sequence[float]) -> metrics.Interval | None:
        return cell_interval(score, values, resamples) if values else None

    cells = [[cell(values) for values in row] for row in table.samples(score)]
    return {
        "R": [[c and c.value for c in row] for row in cells],
        "low": [[c and c.low for c in row] for row in cells],
        "high": [[c and c.high for c in row] for row in cells],
        "rows": [[len(values) or None for values in row] for row in table.samples(score)],
        "before": [None if math.isnan(v) else v for v in _before(table, score)],
    }


def _floors(table: ScoreTable, score: str) -> dict[str, Any]:
    """Floor -> {"tasks": mean per task, "mean": over the tasks}, to compare with the last row of R and with `last`."""
    found = {}
    for floor in FLOORS:
        # Compared with the last row of R, so without tasks that have no cell there.
        values = [math.nan if task in table.ends else table.floor(task, floor, score) for task in table.tasks]
        present = [v for v in values if not math.isnan(v)]
        if present:
            found[floor] = {
                "tasks": [None if math.isnan(v) else v for v in values],
                "mean": sum(present) / len(present),
            }
    return found


def summary_functions(table: ScoreTable, score: str) -> dict[str, metrics.SummaryOfR]:
    """Each summary of a score as a function of R."""
    before = _before(table, score)
    ends = [table.ends.get(task, len(table.stages)) for task in table.tasks]
    return {name: found.function(catalog.score(score), before, ends) for name, found in catalog.summaries().items()}


def _summaries(table: ScoreTable, score: str, resamples: int) -> dict[str, Any]:
    samples = table.samples(score)
    found = metrics.bootstrap_summaries(
        samples, summary_functions(table, score), resamples=resamples, seed=BOOTSTRAP_SEED
    )
    return {name: _known(score, name, interval, samples)._asdict() for name, interval in found.items()}


def _known(score: str, summary: str, interval: metrics.Interval, samples: Sequence[Any]) -> metrics.Interval:
    """The interval of a rate, unless resampling has given it no width: rows that all agree do not make a rate certain.

    If all rows are right, or all wrong, a level has Wilson's interval of the rows of the last stage; a difference has none.
    """
    rated = catalog.score(score)
    if not rated.rate or interval.low != interval.high:
        return interval
    if catalog.summary(summary).level and interval.value in (0.0, rated.scale):
        rows = [interval.value / rated.scale for values in samples[-1] for _ in values]
        if rows:
            return metrics.Interval(*(rated.scale * end for end in metrics.share_interval(rows)))
    return metrics.Interval(interval.value, math.nan, math.nan)


def task_results(store: MemoryReader, manifest: TaskManifest, table: ScoreTable) -> dict[str, Any]:
    """Everything stored of one commit, and its scores, as plain values."""
    documents = {
        filename.removesuffix(".json"): store.load_document(manifest, filename)
        for filename in sorted(manifest.files)
        if filename.endswith(".json")
    }
    training = read_training(store, manifest) if manifest.directory != ROOT else []
    at = manifest.directory
    return {
        "directory": at,
        "name": manifest.name,
        "members": list(manifest.members),
        "note": manifest.meta.get(NOTE),
        "tags": [name for name, tag in store.tags().items() if tag.directory == at],
        "parent": manifest.parent,
        "created": manifest.created,
        "seed": manifest.seed,
        "meta": dict(manifest.meta),
        "versions": dict(manifest.versions),
        "config": dict(manifest.config),
        **documents,
        "last_step": training[-1] if training else None,
        "scores": {
            task: {name: table.mean(at, task, name) for name in table.measured(at, task)} for task in table.learnt
        },
        "score_rows": {
            task: {name: len(table.values(at, task, name)) for name in table.measured(at, task)}
            for task in table.learnt
        },
    }


def point_results(table: ScoreTable) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Score matrices and their summaries without intervals, by score, and descriptions of scores from outside."""
    matrices: dict[str, Any] = {}
    summaries: dict[str, Any] = {}
    for score in catalog.scores():
        R = metrics.as_matrix(table.matrix(score))
        if not np.isnan(R).all():
            before = _before(table, score)
            matrices[score] = {"R": R.tolist(), "before": None if np.isnan(before).all() else before}
            summaries[score] = {name: function(R) for name, function in summary_functions(table, score).items()}
    return matrices, summaries, _measured_outside(table, list(matrices))
