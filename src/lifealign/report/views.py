"""The content of the report as plain values for the template: tables, matrices, comparisons.

A missing number is None from here on and is shown as such; nothing is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lifealign.core.json_codec import plain
from lifealign.evaluation import catalog
from lifealign.evaluation.answer_scores import FLOORS
from lifealign.evaluation.gates import NEED_TWO_TASKS
from lifealign.evaluation.metrics import seeds_interval
from lifealign.evaluation.outside import recall
from lifealign.report import charts, drift, heat, tables, verdict
from lifealign.report.heat import stages
from lifealign.report.render import View, interval, run_labels
from lifealign.store.layout import WARNINGS


def scores_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Scores that at least one run has, in the order of the catalog."""
    return catalog.in_order(m for run in runs for m in run.get("scores", {}))


def page(results: Mapping[str, Any]) -> View:
    """Everything the template reads."""
    runs = results["runs"]
    recall(runs)
    labels = run_labels(runs)
    return {
        "title": verdict.title(results),
        "verdict": verdict.verdict(results, labels),
        "created": results.get("created"),
        "version": results.get("lifealign_version"),
        "runs": [
            {
                "label": label,
                **{key: run.get(key) for key in ("method", "seed", "memory", "created")},
                "base_model": PurePath(str(run["base_model"])).name if run.get("base_model") else None,
                "tasks": run.get("tasks", []),
            }
            for label, run in zip(labels, runs, strict=True)
        ],
        "warnings": [(v, label) for run, label in zip(runs, labels, strict=True) for v in run.get(WARNINGS, ())],
        "panels": [_panel(score, runs, labels, results.get("differences") or ()) for score in scores_of(runs)],
        "training": charts.training(runs, labels),
        "commits": [v for run, label in zip(runs, labels, strict=True) if (v := tables.commits(run, label))],
        "consolidation": [
            v for run, label in zip(runs, labels, strict=True) if (v := tables.consolidation(run, label))
        ],
        "signs": [v for run, label in zip(runs, labels, strict=True) if (v := tables.signs(run, label))],
        "data": tables.data(runs, labels),
        "config": tables.compare([tables.flat(run.get("config") or {}) for run in runs], labels),
        "guard": _guard(runs, labels),
        "guard_scores": {name: catalog.score(name) for run in runs for name in run.get("guard") or {}},
        "drift": drift.drift(runs, labels),
        "answers": results.get("answers"),
        "versions": tables.compare([run.get("versions") or {} for run in runs], labels),
    }


def _panel(score: str, runs: Sequence[Any], labels: Sequence[str], differences: Sequence[Mapping[str, Any]]) -> View:
    """One score: its matrices, its curves and its table."""
    held = [(run, label) for run, label in zip(runs, labels, strict=True) if score in run.get("scores", {})]
    values = [v for run, _ in held for row in run["scores"][score]["R"] for v in row if v is not None]
    values += [v for run, _ in held for v in run["scores"][score].get("before") or [] if v is not None]
    scale = (min(values), max(values)) if values else (0.0, 1.0)
    reach = heat.reach(score, [run for run, _ in held])
    return {
        "name": score,
        "label": catalog.score(score).title,
        "note": catalog.score(score).note,
        "lower": catalog.score(score).better == "lower",
        "neither": catalog.score(score).better == "neither",
        "chance": catalog.score(score).chance,
        "table": _summary_table(score, runs, labels, differences),
        "floors": _floors(score, held),
        "seeds": _seeds(score, runs),
        "matrices": [heat.matrix(score, run, label, reach) for run, label in held],
        "absent": [label for run, label in zip(runs, labels, strict=True) if score not in run.get("scores", {})],
        "curves": charts.by_task(score, held, scale),
        "runs": [label for _, label in held],
    }


def _guard(runs: Sequence[Any], labels: Sequence[str]) -> list[View]:
    """The guard's scores of each run that has some; all runs share one scale per score."""
    columns = [column for run in runs for column in (run.get("guard") or {}).items()]
    scales: dict[str, tuple[float, float]] = {}
    for name, column in columns:
        values = [c["value"] for c in (column["before"], *column["stages"]) if c["value"] is not None]
        if values:
            low, high = scales.get(name, (min(values), max(values)))
            scales[name] = (min(low, *values), max(high, *values))
    found = []
    for run, label in zip(runs, labels, strict=True):
        guard = run.get("guard") or {}
        rows = [[column["stages"][k] for column in guard.values()] for k in range(len(run.get("tasks", [])))]
        named = stages(run, [[cell["value"] for cell in row] for row in rows])
        measured = [row for row in rows if any(cell["value"] is not None for cell in row)]
        if guard:
            found.append(tables.guard(label, guard, [name for name, _ in named], measured, scales))
    return found


def _comparable(runs: Sequence[Any]) -> bool:
    """Whether values of the runs may be ranked: same tasks, in any order, on the same base model."""
    return len({(run.get("base_model"), tuple(sorted(run.get("tasks", [])))) for run in runs}) == 1


def _summary_cell(score: str, key: str, run: Mapping[str, Any]) -> View:
    """A summary with its interval; `partial` counts its measured cells if some are missing."""
    cell = interval(run.get("summary", {}).get(score, {}).get(key))
    R = run.get("scores", {}).get(score, {}).get("R", [])
    needed = catalog.needed_cells(key, run.get("tasks", []), run.get("ends") or {}) if R else []
    there = sum(R[k][j] is not None for k, j in needed)
    partial = f"{there} of {len(needed)} cells" if cell["value"] is not None and there < len(needed) else ""
    return {**cell, "partial": partial, "best": False, "rows": verdict.rows_now(run, score)}


def _is_best(score: str, key: str, place: int, others: Sequence[int], found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the paired difference to every other run excludes zero, on the better side."""
    ahead = set()
    for one in found:
        if (one["score"], one["summary"]) != (score, key) or place not in (one["a"], one["b"]):
            continue
        sign = 1 if one["a"] == place else -1
        sign *= -1 if catalog.best_is_lowest(score, key) else 1
        ends = [one[end] for end in ("low", "high") if one[end] is not None]
        if len(ends) == 2 and min(sign * end for end in ends) > 0:
            ahead.add(one["b"] if one["a"] == place else one["a"])
    return bool(others) and ahead >= set(others)


def _summary_table(
    score: str, runs: Sequence[Any], labels: Sequence[str], differences: Sequence[Mapping[str, Any]]
) -> View:
    cells = {key: [_summary_cell(score, key, run) for run in runs] for key in catalog.summaries()}
    shown = [key for key in catalog.summaries() if any(c["value"] is not None for c in cells[key])]
    measured = [run for run in runs if score in run.get("summary", {})]
    comparable = len(measured) > 1 and _comparable(measured)
    for key in shown if comparable and catalog.score(score).better != "neither" else ():
        ranked = [i for i, c in enumerate(cells[key]) if c["value"] is not None and not c["partial"]]
        for i in ranked:
            cells[key][i]["best"] = _is_best(score, key, i, [j for j in ranked if j != i], differences)
    most = max((len(run.get("tasks") or ()) for run in measured), default=0)
    absent = [key for key in catalog.summaries() if key not in shown]
    early = [key for key in absent if most < 2 and key in NEED_TWO_TASKS]
    return {
        "columns": [{"label": catalog.summary(key).label, "text": catalog.summary(key).note} for key in shown],
        "rows": [{"label": label, "cells": [cells[key][i] for key in shown]} for i, label in enumerate(labels)],
        "missing": [catalog.summary(key).label for key in absent if key not in early],
        "early": [catalog.summary(key).label for key in early],
        "comparable": comparable,
        "paired": comparable and bool(differences),
        "several": len(measured) > 1,
    }


def _floors(score: str, held: Sequence[tuple[Any, str]]) -> list[View]:
    """Scores of trivial answers to the same rows; runs scored on the same rows share a table."""
    groups: dict[str, tuple[list[str], Any, Any]] = {}
    for run, label in held:
        if found := (run.get("floors") or {}).get(score):
            key = json.dumps([run["tasks"], found], sort_keys=True)
            groups.setdefault(key, ([], run["tasks"], found))[0].append(label)
    return [
        {
            "runs": labels,
            "tasks": tasks,
            "rows": [{"label": text, **found[name]} for name, text in FLOORS.items() if name in found],
        }
        for labels, tasks, found in groups.values()
    ]


def _seeds(score: str, runs: Sequence[Any]) -> list[View]:
    """Means over seeds, for runs that differ only in their seed."""
    groups: dict[str, list[Any]] = {}
    for run in runs:
        config = {k: v for k, v in (run.get("config") or {}).items() if k not in ("seed", "memory")}
        same = json.dumps(
            [run.get("method"), run.get("base_model"), sorted(run.get("tasks", [])), config], sort_keys=True
        )
        groups.setdefault(same, []).append(run)
    found = []
    for group in groups.values():
        seeds = [run.get("seed") for run in group]
        if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
            continue
        cells = []
        for key, summary in catalog.summaries().items():
            values = [interval(run.get("summary", {}).get(score, {}).get(key))["value"] for run in group]
            present = [float(v) for v in values if v is not None]
            if len(present) > 1:
                found_interval = catalog.within(score, key, seeds_interval(present))
                cells.append({"label": summary.label, "count": len(present), **found_interval._asdict()})
        if cells:
            found.append({"method": group[0].get("method"), "seeds": seeds, "cells": plain(cells)})
    return found
