"""Build a study's results.json from its plan and the records of its runs. Imports no torch and opens no memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifealign.core.version import __version__
from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import Interval
from lifealign.evaluation.outside import KEY, recall
from lifealign.store.layout import WARNINGS
from lifealign.studies import stats
from lifealign.studies.comparison import UPPER_BOUNDS, corrected
from lifealign.studies.design import power_document
from lifealign.studies.plan import Plan, Run, Settings, points
from lifealign.studies.power import SUMMARIES
from lifealign.studies.program import machine_text
from lifealign.studies.worker import MACHINE, PROGRAM, SIGNS

Record = Mapping[str, Any]
Records = Callable[[str], Record | None]
"""Run id -> its record, done or failed; None: not ended yet."""

MEASURED = ("seconds", "train_seconds", "peak_memory_gb")
COUNTED = ("state_bytes", "steps", "rows_kept")
COSTS = MEASURED + COUNTED
REFERENCE_METHOD = "sequential"
"""The strategy to whose training time the others' are compared."""


@dataclass(frozen=True)
class Selected:
    """Outcome of one method's trials.

    Attributes:
        trials: settings, value on validation rows, ids of the runs, error.
        chosen: settings of the best; None while trials are missing, or if all failed.
        error: why nothing can be chosen.
    """

    trials: Sequence[Mapping[str, Any]]
    chosen: Settings | None
    error: str | None = None


@dataclass(frozen=True)
class Group:
    """Finished runs that differ only in their seed: one row of the table."""

    method: str
    strategy: str
    point: Settings
    order: str
    model: str
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method, with the swept setting if there is one."""
        return shown(self.method, self.point)

    def by_seed(self, score: str, summary: str) -> dict[int, float | None]:
        """Seed -> value."""
        return {seed: run["summary"].get(score, {}).get(summary) for seed, run in sorted(self.runs.items())}


def shown(method: str, point: Settings) -> str:
    """Label of a method at a swept setting, such as ``lifealign theta=0.5``."""
    return " ".join([method, *(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())])


def select(plan: Plan, records: Records) -> dict[str, Selected]:
    """Choose the settings of each method by the best mean value on validation rows: label -> outcome."""
    return {m.label: _select_one(plan, m, records) for m in plan.study.methods}


def _select_one(plan: Plan, method: Any, records: Records) -> Selected:
    trials = plan.trials(method)
    if len(trials) == 1:
        return Selected((), trials[0])
    parts = plan.study.selection.parts
    lines: list[dict[str, Any]] = []
    waiting = False
    for trial in trials:
        runs = plan.selection_runs(method, trial)
        ended = [records(run.id) for run in runs]
        waiting |= any(record is None for record in ended)
        values = [decisive(parts, r) for r in ended if r and r["status"] == "done"]
        complete = len(values) == len(runs) and None not in values
        error = next((r["error"] for r in ended if r and r["error"]), None)
        if error is None and len(values) == len(runs) and not complete:
            error = f"{plan.study.selection.metric} was not measured on the validation rows"
        present = [v for v in values if v is not None]
        value = sum(present) / len(present) if complete else None
        lines.append({"settings": trial, "value": value, "runs": [run.id for run in runs], "error": error})
    summary, score = parts[0]
    lower = catalog.best_is_lowest(score, summary)
    best = None if waiting else stats.best([line["value"] for line in lines], lower)
    if best is not None:
        return Selected(lines, lines[best]["settings"])
    first = next((line["error"] for line in lines if line["error"]), None)
    return Selected(
        lines, None, None if waiting else f"every trial failed, so no settings can be chosen; the first error: {first}"
    )


def decisive(parts: Sequence[tuple[str, str]], record: Record) -> float | None:
    """Mean of the summaries that settings are chosen by; None if one of them was not measured."""
    values = [record["summary"].get(score, {}).get(summary) for summary, score in parts]
    return None if None in values or any(math.isnan(v) for v in values) else math.fsum(values) / len(values)


def build(plan: Plan, records: Records) -> dict[str, Any]:
    """Build the whole document; missing numbers are NaN or None."""
    selection = select(plan, records)
    planned = plan.reported_runs({label: s.chosen for label, s in selection.items()})
    outside = recall(found for run in planned if (found := records(run.id)) is not None)
    known = [_entry(plan, run, records) for run in planned]
    groups = _groups(planned, known)
    study = plan.study
    place = {(seed, order, model, m.label): i for i, (seed, order, model, m) in enumerate(plan.cells())}
    entries = [*known, *_unknown(plan, selection)]
    entries.sort(key=lambda r: place[r["seed"], r["order"], r["model"], r["method"]])
    axes: dict[str, list[Any]] = {}
    for key, values in itertools.chain.from_iterable(study.sweep_of(m).items() for m in study.methods):
        axes[key] = [*axes.get(key, []), *(v for v in values if v not in axes.get(key, []))]
    note = stats.interval_name(len(study.seeds))
    return {
        "study": study.name,
        "lifealign_version": __version__,
        "note": note if study.note is None else f"{study.note.strip()} ({note})",
        "selected_on": "validation" if any(s.trials for s in selection.values()) else None,
        "reported_on": "test",
        "orders": {name: plan.task_order(name) for name in plan.orders},
        "baseline": study.baseline,
        "runs": entries,
        "selection": {
            label: {"metric": study.selection.metric, "trials": list(s.trials), "chosen": s.chosen}
            for label, s in selection.items()
            if s.trials
        },
        "table": _table(groups, study.baseline),
        "orders_spread": _orders_spread(groups),
        "interference": _interference(plan, groups),
        "cost": _cost(groups),
        "power": _power(plan, groups),
        "axes": axes,
        **({KEY: outside} if outside else {}),
    }


def _entry(plan: Plan, run: Run, records: Records) -> dict[str, Any]:
    record = records(run.id) or {"status": "pending"}
    # The seed that settings were chosen with was trained in a trial, so its cost is in the record of that run.
    trained = next((r for r in (record, *_twins(plan, run, records)) if r.get("seconds") is not None), {})
    return {
        "id": run.id,
        "method": run.method,
        "strategy": run.strategy,
        "settings": run.settings,
        "order": run.order,
        "seed": run.seed,
        "model": run.model,
        "status": record["status"],
        "error": record.get("error"),
        **{key: trained.get(key) for key in MEASURED},
        **{key: record.get(key) for key in COUNTED},
        PROGRAM: _without_files(record.get(PROGRAM)),
        # Times belong to the machine that trained.
        MACHINE: trained.get(MACHINE, record.get(MACHINE)),
        "libraries": record.get("libraries"),
        "tasks": record.get("tasks", plan.task_order(run.order)),
        "scores": record.get("scores", {}),
        "summary": record.get("summary", {}),
        **{key: record[key] for key in (WARNINGS, SIGNS) if key in record},
    }


def _without_files(program: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if program is None else {key: value for key, value in program.items() if key != "files"}


def _twins(plan: Plan, run: Run, records: Records) -> list[Record]:
    """Records of the selection runs that trained the memory of a reported run."""
    method = next(m for m in plan.study.methods if m.label == run.method)
    every = [r for trial in plan.trials(method) for r in plan.selection_runs(method, trial)]
    found = (records(r.id) for r in every if r.memory_id == run.memory_id)
    return [record for record in found if record is not None and record["status"] == "done"]


def _unknown(plan: Plan, selection: Mapping[str, Selected]) -> list[dict[str, Any]]:
    """Entries of runs without chosen settings: no id; pending, or failed if nothing can be chosen."""
    return [
        {
            "id": None,
            "method": method.label,
            "strategy": method.strategy or method.label,
            "settings": {**method.set, **point},
            "order": order,
            "seed": seed,
            "model": model,
            "status": "failed" if selection[method.label].error else "pending",
            "error": selection[method.label].error,
            **dict.fromkeys(COSTS),
            "tasks": plan.task_order(order),
            "scores": {},
            "summary": {},
        }
        for seed, order, model, method in plan.cells()
        if selection[method.label].chosen is None
        for point in points(plan.study, method)
    ]


def _groups(planned: Sequence[Run], entries: Sequence[dict[str, Any]]) -> list[Group]:
    groups: dict[tuple[str, str, str], Group] = {}
    for run, entry in zip(planned, entries, strict=True):
        key = (shown(run.method, run.point), run.order, run.model)
        group = groups.setdefault(key, Group(run.method, run.strategy, run.point, run.order, run.model))
        if entry["status"] == "done":
            group.runs[run.seed] = entry
    return [group for group in groups.values() if group.runs]


def _limits(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.value, "low": interval.low, "high": interval.high}


def _measured(groups: Sequence[Group]) -> list[str]:
    found = {score for group in groups for run in group.runs.values() for score in run["summary"]}
    return [name for name in catalog.scores() if name in found]


def _table(groups: Sequence[Group], baseline: str | None) -> list[dict[str, Any]]:
    rows = []
    for group in groups:
        metrics: dict[str, Any] = {}
        for score, summary in itertools.product(_measured([group]), catalog.summaries()):
            values = list(group.by_seed(score, summary).values())
            cell = {**_limits(catalog.within(score, summary, stats.interval(values))), "values": values}
            metrics.setdefault(score, {})[summary] = cell
        rows.append(
            {
                "method": group.label,
                "strategy": group.strategy,
                "order": group.order,
                "model": group.model,
                "seeds": sorted(group.runs),
                "metrics": metrics,
                "difference": _difference(group, _baseline(group, groups, baseline)),
            }
        )
    return corrected(rows)


def _baseline(group: Group, groups: Sequence[Group], baseline: str | None) -> Group | None:
    """The baseline's row of the same order and model: at the same swept setting, or unswept; None: the row itself."""
    same = [g for g in groups if (g.method, g.order, g.model) == (baseline, group.order, group.model)]
    chosen = next((g for point in (group.point, {}) for g in same if g.point == point), None)
    return None if chosen is group else chosen


def _difference(group: Group, other: Group | None) -> dict[str, Any] | None:
    if other is None:
        return None
    found: dict[str, Any] = {}
    for score, summary in itertools.product(_measured([group]), catalog.summaries()):
        values = group.by_seed(score, summary), other.by_seed(score, summary)
        found.setdefault(score, {})[summary] = {**_limits(stats.paired(*values)), "p": stats.paired_p(*values)}
    return found


def _power(plan: Plan, groups: Sequence[Group]) -> dict[str, Any]:
    """What the design can see of the (first) score that settings are chosen by; from finished pairs of methods if there are some."""
    study = plan.study
    score = study.selection.parts[0][1]
    ranked = [m.label for m in study.methods if m.strategy_name not in UPPER_BOUNDS]
    baseline = study.baseline or next(iter(ranked), study.methods[0].label)
    pairs: dict[str, list[list[float]]] = {key: [] for key in SUMMARIES}
    for group in groups:
        other = _baseline(group, groups, baseline)
        if other is not None and group.method != baseline and group.strategy not in UPPER_BOUNDS:
            for key, held in pairs.items():
                held.append(stats.differences(group.by_seed(score, key), other.by_seed(score, key)))
    return power_document(
        score,
        study.power,
        seeds=len(study.seeds),
        rows=plan.rows,
        comparisons=sum(len(points(study, m)) for m in study.methods if m.label in ranked and m.label != baseline),
        pairs=pairs,
    )


def _by_label(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.label, []).append(group)
    return found


def _orders_spread(groups: Sequence[Group]) -> dict[str, Any]:
    """For each method with at least two orders: means by order, over seeds and models, and their spread."""
    found: dict[str, Any] = {}
    for label, own in _by_label(groups).items():
        orders = list(dict.fromkeys(g.order for g in own))
        if len(orders) < 2:
            continue
        for score, summary in itertools.product(_measured(own), catalog.summaries()):
            by_order = {
                order: stats.mean([v for g in own if g.order == order for v in g.by_seed(score, summary).values()])
                for order in orders
            }
            cell = {"spread": stats.spread(by_order), "by_order": by_order}
            found.setdefault(label, {}).setdefault(score, {})[summary] = cell
    return found


def _interference(plan: Plan, groups: Sequence[Group]) -> dict[str, Any]:
    """Interference matrix of each method, for the (first) score that settings are chosen by."""
    score = plan.study.selection.parts[0][1]
    tasks = plan.task_order(next(iter(plan.orders)))
    found = {}
    for label, own in _by_label(groups).items():
        runs = [r for g in own for r in g.runs.values() if score in r["scores"]]
        if runs:
            learnt = [(r["tasks"], r["scores"][score]["R"], r["scores"][score]["before"]) for r in runs]
            found[label] = {"metric": score, "tasks": tasks, "matrix": stats.interference(learnt, tasks).tolist()}
    return found


def _cost(groups: Sequence[Group]) -> dict[str, Any]:
    """Costs of each method: means over the runs that were not interrupted, and the kinds of machine that they were on.

    `relative` is the training time divided by that of the reference method, if both were on one known kind of machine.
    """
    found: dict[str, dict[str, Any]] = {}
    reference: dict[str, Any] | None = None
    for label, own in _by_label(groups).items():
        runs = [r for g in own for r in g.runs.values()]
        machines = {machine_text(r[MACHINE]) if r.get(MACHINE) else None for r in runs}
        found[label] = {key: stats.mean([r.get(key) for r in runs]) for key in COSTS}
        found[label]["machines"] = sorted(machines, key=str)
        if own[0].strategy == REFERENCE_METHOD and reference is None:
            reference = found[label]
    for cost in found.values():
        cost["relative"] = _relative(cost, reference)
    return found


def _relative(cost: Mapping[str, Any], reference: Mapping[str, Any] | None) -> float:
    if reference is None or cost["machines"] != reference["machines"]:
        return math.nan
    if len(cost["machines"]) != 1 or cost["machines"] == [None] or not reference["train_seconds"]:
        return math.nan
    return float(cost["train_seconds"] / reference["train_seconds"])
