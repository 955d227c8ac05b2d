"""Turn drift records into tables over the points of a memory's life, for the terminal, reports and gates; no torch."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.core.json_codec import encode_json
from lifealign.core.origin import is_reference
from lifealign.data.answers import BASE
from lifealign.data.tasks import Message, Row, Task, rows_sha256
from lifealign.evaluation.drift import FURTHER, MEASURES, Column, Measure, meet
from lifealign.evaluation.metrics import mean_interval
from lifealign.evaluation.records import read_records
from lifealign.store.heldout import heldout
from lifealign.store.layout import DRIFT_RECORD
from lifealign.store.reader import MemoryReader

SEED = 0
"""Seed of the bootstrap."""
KEPT = ":"
"""In the name of a column: it is kept for a summary, and not shown."""
SPENT = "kl_spent"
"""Sum of the steps of `kl_step` so far, for each point."""
MOST_TEXTS = 12
"""Texts of a tally that are kept in a document."""
Cell = Mapping[str, Any]


def asked_rows(task: Task, split: str, count: int | None, pairs: bool) -> tuple[Row, ...]:
    """The held-out rows whose prompts (or, with `pairs`, whose two answers) are read: the first ones, each prompt once."""
    rows = task.test if split == "test" else task.validation
    found = (
        [row for row in rows if row.kind == "pair"]
        if pairs
        else list({row.prompt: row for row in reversed(rows)}.values())[::-1]
    )
    return tuple(found[:count])


def prompts_sha256(prompts: Sequence[Sequence[Message]]) -> str:
    """Checksum of prompts without rows."""
    turns = [[[m.role, m.content] for m in prompt] for prompt in prompts]
    return hashlib.sha256(encode_json(turns)).hexdigest()


def same_taking(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of a measure may be compared: their options are equal apart from the file's location."""
    return {**one, "path": None} == {**other, "path": None}


def described(measure: Measure, columns: Sequence[str]) -> dict[str, Any]:
    """Everything that is shown of a measure, as plain values."""
    ordered = [c for c in measure.columns if c in columns] + [c for c in columns if c not in measure.columns]
    shown = {name: vars(measure.column(name)) for name in ordered}
    return {"label": measure.label, "meaning": measure.meaning, "worry": measure.worry, "columns": shown}


def drift_results(
    store: MemoryReader, resamples: int, evaluations: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Measure -> its numbers at every point of the memory, from before any task to now; {} if none was taken.

    Of each measure only the records with the options of the newest one count, and of each task only those of its rows.

    Args:
        store: the memory.
        resamples: bootstrap samples of the prompts.
        evaluations: all evaluation records; None: they are read.
    """
    records = [r for r in (read_records(store) if evaluations is None else evaluations) if r["kind"] == DRIFT_RECORD]
    newest = {r["options"]["measure"]: r for r in records}
    if not newest:
        return {}
    lineage = store.lineage()
    points = [BASE if m.index == 0 else m.name for m in lineage]
    tasks = {t.name: t for t in heldout(store)}
    found = {}
    for name, last in newest.items():
        if name not in MEASURES and name not in last.get("described", {}):
            continue  # of a version that has more measures
        own = [r for r in records if r["options"]["measure"] == name and same_taking(r["options"], last["options"])]
        cells: dict[str, dict[str, Any]] = {m.directory: {} for m in lineage}
        for record in own:
            for score in record["scores"]:
                if record["after"] in cells and _is_current(score, record["options"], tasks):
                    cells[record["after"]][score["task"]] = score
        found[name] = _measure(name, last, [cells[m.directory] for m in lineage], resamples)
    return {"points": points, "measures": found}


def drift_cells(
    store: MemoryReader, evaluations: Sequence[Mapping[str, Any]], split: str
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Directory of a point -> task -> column -> the prompts' values, of the newest options of each measure on one split."""
    records = [r for r in evaluations if r["kind"] == DRIFT_RECORD and r["options"].get("split") == split]
    newest = {r["options"]["measure"]: r["options"] for r in records if r["options"].get("sha256") is None}
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    if newest:
        tasks = {t.name: t for t in heldout(store, with_retired=True)}
        for record in records:
            options = record["options"]
            for score in record["scores"] if same_taking(options, newest.get(options["measure"], {})) else ():
                if _is_current(score, options, tasks):
                    found.setdefault(record["after"], {}).setdefault(score["task"], {}).update(score["values"])
    return found


def _is_current(score: Mapping[str, Any], options: Mapping[str, Any], tasks: Mapping[str, Task]) -> bool:
    """Whether values are of rows that the memory still has: a rollback may have removed them."""
    if options.get("sha256") is not None:  # prompts of a file
        return True
    task = tasks.get(score["task"])
    if task is None:
        return False
    rows = asked_rows(task, options["split"], options["count"], options["material"] == "pairs")
    return bool(score["rows_sha256"] == rows_sha256(rows))


def _measure(name: str, last: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], resamples: int) -> dict[str, Any]:
    """One measure; `cells` are its values at each point, by task."""
    tasks = list(dict.fromkeys(task for at in cells for task in at))
    columns = list(dict.fromkeys(c for at in cells for one in at.values() for c in one["values"] if KEPT not in c))
    shown = last.get("described", {}).get(name) or described(MEASURES.find(name), columns)
    columns = [c for c in shown["columns"] if c in columns]

    def cell(column: str, scores: Sequence[Mapping[str, Any]]) -> Cell | None:
        scale = Column("", unit=shown["columns"][column]["unit"]).scale
        values = [scale * v for one in scores for v in one["values"].get(column, ())]
        if not values:
            return None
        return {**mean_interval(values, resamples=resamples, seed=SEED)._asdict(), "rows": len(values)}

    return {
        **{key: shown[key] for key in ("label", "meaning", "worry")},
        "columns": {c: shown["columns"][c] for c in columns},
        "options": last["options"],
        "tasks": tasks,
        "cells": {c: [[cell(c, [at[t]] if t in at else []) for t in tasks] for at in cells] for c in columns},
        "all": {c: [cell(c, list(at.values())) for at in cells] for c in columns},
        "summary": _summaries(name, cells, resamples),
        "curves": _curves(cells),
        "tallies": _tallies(cells),
        "left_out": sum(one.get("left_out", 0) for one in (cells[-1] or {}).values()),
    }


def _summaries(name: str, cells: Sequence[Mapping[str, Any]], resamples: int) -> list[dict[str, Any]]:
    """Further numbers of each point; {} where nothing was measured, and for a measure that is not here any more."""
    summary = MEASURES.find(name).summary if name in MEASURES and not is_reference(name) else None
    if summary is None:
        return _spent(cells, resamples)

    def rows(at: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
        return {
            task: [dict(zip(one["values"], row, strict=True)) for row in zip(*one["values"].values(), strict=True)]
            for task, one in at.items()
        }

    found = []
    for k, at in enumerate(cells):
        others = {"base": cells[0], "previous": cells[k - 1]} if k else {}
        policies = {"now": rows(at), **{policy: rows(other) for policy, other in others.items() if other}}
        found.append(dict(summary(policies, resamples)) if at else {})
    return found


def _spent(cells: Sequence[Mapping[str, Any]], resamples: int) -> list[dict[str, Any]]:
    """`SPENT` of each point, from the steps of `kl_step` before it and its own; {} once a step was not measured."""
    found: list[dict[str, Any]] = [{} for _ in cells]
    total = 0.0
    for k, at in enumerate(cells[1:], 1):
        steps = [value for one in at.values() for value in one["values"].get("kl_step", ())]
        if not steps:
            break
        total += sum(steps) / len(steps)
        found[k] = {SPENT: {"value": total, "low": None, "high": None}}
    return found


def _curves(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Name -> at each point the mean at each position of the answers, over all tasks."""
    names = dict.fromkeys(name for at in cells for one in at.values() for name in one.get("curves", {}))
    return {
        name: [_curve([one["curves"][name] for one in at.values() if name in one["curves"]]) for at in cells]
        for name in names
    }


def _curve(parts: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    longest = max(map(len, parts), default=0)
    there = [[part[t] for part in parts if len(part) > t] for t in range(longest)]
    return [sum(s for s, _ in at) / n for at in there if (n := sum(n for _, n in at))]


def _tallies(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[list[tuple[str, int]]]]:
    """Name -> at each point the texts that were met most, with how often."""
    names = dict.fromkeys(name for at in cells for one in at.values() for name in one.get("tallies", {}))
    return {
        name: [
            sum((Counter(one["tallies"].get(name, {})) for one in at.values()), Counter()).most_common(MOST_TEXTS)
            for at in cells
        ]
        for name in names
    }


def recall_columns(store: MemoryReader) -> None:
    """Let gates know the columns of measures from outside that a memory has records of."""
    for record in read_records(store):
        if record["kind"] == DRIFT_RECORD:
            for one in record.get("described", {}).values():
                meet(one["columns"])


def drift_values(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Column -> its value now over all prompts, as gates read it."""
    found = {}
    for measure in results.get("measures", {}).values():
        for column, cells in measure["all"].items():
            found[column] = cells[-1] or {"value": math.nan, "low": math.nan, "high": math.nan}
        for name, value in measure["summary"][-1].items():
            if isinstance(value, Mapping) and "value" in value:
                found[name] = dict(value)
    return found


def drift_lines(results: Mapping[str, Any]) -> list[str]:
    """A table for each measure: tasks down, points across."""
    lines: list[str] = []
    for measure in results.get("measures", {}).values():
        lines += [f"{measure['label']}: {measure['meaning']}", measure["worry"]]
        for column, shown in measure["columns"].items():
            lines += _table(results["points"], measure, column, shown)
        lines += _further(results["points"], measure["summary"])
        for name, points in measure["tallies"].items():
            if points[-1]:
                lines.append(f"  {name} now: " + ", ".join(f"{text!r} {count}" for text, count in points[-1]))
        if measure["left_out"]:
            lines.append(f"  left out: {measure['left_out']} prompts that leave no room for an answer")
        lines.append("")
    return lines[:-1]


def _table(points: Sequence[str], measure: Mapping[str, Any], column: str, shown: Mapping[str, Any]) -> list[str]:
    there = [k for k, cell in enumerate(measure["all"][column]) if cell is not None]
    rows = [(shown["label"] + (f", {shown['unit']}" if shown["unit"] else ""), [points[k] for k in there])]
    rows += [(task, [_text(measure["cells"][column][k][j]) for k in there]) for j, task in enumerate(measure["tasks"])]
    if len(measure["tasks"]) > 1:
        rows.append(("all", [_text(measure["all"][column][k]) for k in there]))
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(r[1][i]) for r in rows) for i in range(len(rows[0][1]))]
    first = max(len(r[0]) for r in rows)
    return [
        f"  {name:<{first}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        for name, cells in rows
    ]


def _further(points: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Further numbers of the points, one line each; a number of several names has a line for each name."""
    there = [k for k, one in enumerate(summaries) if one]
    lines: dict[str, list[str]] = {}
    for place, k in enumerate(there):
        for name, value in summaries[k].items():
            own = {name: value} if "value" in value else {f"{name}: {part}": one for part, one in value.items()}
            for label, one in own.items():
                cells = lines.setdefault(FURTHER.get(label, label), ["-"] * len(there))
                cells[place] = _text(one) if isinstance(one, Mapping) else str(one)
    rows = [("", [points[k] for k in there]), *lines.items()] if there else []
    return _aligned(rows)


def _text(cell: Cell | None) -> str:
    return "-" if cell is None else f"{cell['value']:.3g}"
