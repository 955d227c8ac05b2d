"""The tables of a study's report, as plain values from which HTML and LaTeX are made.

Each table is made once, as `Table` of `Cell`, so that the page and the LaTeX cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lifealign.evaluation import catalog
from lifealign.evaluation.numbers import number
from lifealign.studies.comparison import ALPHA, UPPER_BOUNDS
from lifealign.studies.report.aggregates import aggregate_tables
from lifealign.studies.report.cells import (
    Cell,
    Column,
    Json,
    Table,
    mean_cell,
    number_cell,
    ranked,
    signed,
    slug,
    unused,
)
from lifealign.studies.report.choices import selection_tables, unfinished_table
from lifealign.studies.report.costs import cost_table
from lifealign.studies.report.form import MEAN_SD, form_of
from lifealign.studies.report.lines import Group, groups, line_runs, scores_of
from lifealign.studies.report.remarks import made_by_note, remarks

PAPER_FORM = ("bwt", "last", "ap")
"""Summaries of the main table, in the order of the paper's tables."""
SHORT_FORM = ("last", "bwt", "learning_accuracy")
"""Summaries of the short table, which the page shows first."""


def all_tables(results: Json) -> dict[str, list[Table]]:
    """Every table of the report, by section; a section may be empty."""
    comparable, scores = groups(results), scores_of(results)
    sections = {
        "short": [t for group in comparable for score in scores if (t := short_table(results, group, score))],
        "main": [main_table(results, group, scores) for group in comparable],
        "details": [_details(results, group, score) for group in comparable for score in scores],
        "differences": [t for group in comparable for score in scores if (t := _differences(results, group, score))],
        "aggregates": aggregate_tables(results),
        "spread": [t for score in scores if (t := _spread(results, score))],
        "interference": _interference(results),
        "cost": cost_table(results),
        "selection": selection_tables(results),
        "unfinished": unfinished_table(results),
    }
    seen: set[str] = set()
    return {
        section: [replace(table, name=unused(table.name, seen)) for table in tables]
        for section, tables in sections.items()
    }


# --- scores -----------------------------------------------------------------------------------------------------------


def short_table(results: Json, group: Group, score: str) -> Table | None:
    """Few numbers of one score, the best method by the first of them on top: the first table of the page.

    None if the score has none of them.
    """
    own = tuple(form_of(results).summaries) or SHORT_FORM
    pairs = [(score, key) for key in own if _shown(results, group, score, key)]
    if not pairs:
        return None
    if score != "nll" and _shown(results, group, "nll", "last"):
        pairs.append(("nll", "last"))
    rows = _score_rows(results, group, pairs)
    columns = [Column(_heading(pair, score), "", catalog.summary(pair[1]).note) for pair in pairs]
    sign = -1 if catalog.best_is_lowest(*pairs[0]) else 1
    bounds = {str(line["method"]) for line in group.bounds()}

    def place(row: tuple[str, tuple[Cell, ...]]) -> tuple[bool, bool, float]:
        value = row[1][0].value
        return row[0] in bounds, value is None, -sign * (value or 0.0)

    rows = tuple(sorted(rows, key=place))
    cost = results.get("cost") or {}
    if any((cost.get(method) or {}).get("seconds") for method, _ in rows):
        columns.append(Column("Run, min", "", "minutes of a whole run, with its evaluations"))
        rows = tuple((method, (*cells, _minutes(cost.get(method) or {}))) for method, cells in rows)
    return Table(
        slug("short", score, group.order, _model_part(results, group)),
        f"{catalog.score(score).title}, {group.label}",
        f"{_spread_note(results)} {made_by_note(_runs(results, group))}".strip(),
        "Method",
        tuple(columns),
        rows,
        {**group.show(), "score": score},
        len(group.bounds()),
        remarks(_runs(results, group)),
    )


def _heading(pair: tuple[str, str], score: str) -> str:
    label = catalog.summary(pair[1]).label
    return label if pair[0] == score else f"{catalog.score(pair[0]).label}, {label.lower()}"


def _minutes(cost: Json) -> Cell:
    seconds = cost.get("seconds")
    return Cell(None) if seconds is None else Cell(f"{seconds / 60:.1f}", seconds / 60)


def main_table(results: Json, group: Group, scores: Sequence[str]) -> Table:
    """BWT, Last and AP of every score, a row for each method: the form of the paper's tables."""
    form = tuple(form_of(results).summaries) or PAPER_FORM
    pairs = [(score, key) for score in scores for key in form if _shown(results, group, score, key)]
    columns = tuple(
        Column(catalog.summary(key).label, catalog.score(score).title, catalog.summary(key).note)
        for score, key in pairs
    )
    return Table(
        slug("main", group.order, _model_part(results, group)),
        f"Results, {group.label}",
        _score_note(results, group, _unmeasured(scores, form, pairs)),
        "Method",
        columns,
        _score_rows(results, group, pairs),
        group.show(),
        len(group.bounds()),
        remarks(_runs(results, group)),
    )


def _score_note(results: Json, group: Group, unmeasured: str) -> str:
    sentences = [_spread_note(results), unmeasured, made_by_note(_runs(results, group))]
    return " ".join(sentence for sentence in sentences if sentence)


def _spread_note(results: Json) -> str:
    if form_of(results).style == MEAN_SD:
        return "Mean over seeds ± standard deviation."
    return "Mean over seeds with its 95% interval."


def _runs(results: Json, group: Group) -> dict[str, list[Json]]:
    """Row -> its finished runs."""
    return {str(line["method"]): line_runs(results, line) for line in group.lines}


def _details(results: Json, group: Group, score: str) -> Table:
    """Every summary of one score."""
    wanted = tuple(form_of(results).summaries) or tuple(catalog.summaries())
    pairs = [(score, key) for key in wanted if _shown(results, group, score, key)]
    return Table(
        slug("summary", score, group.order, _model_part(results, group)),
        f"{catalog.score(score).title}, {group.label}",
        _score_note(results, group, _unmeasured([score], wanted, pairs)),
        "Method",
        tuple(Column(catalog.summary(key).label, "", catalog.summary(key).note) for _, key in pairs),
        _score_rows(results, group, pairs),
        {**group.show(), "score": score},
        len(group.bounds()),
        remarks(_runs(results, group)),
    )


def _model_part(results: Json, group: Group) -> str:
    return group.model if len({line.get("model") for line in results["table"]}) > 1 else ""


def _stored(line: Json, score: str, key: str) -> Json:
    """A summary as the table's line stores it."""
    found: Json = ((line.get("metrics") or {}).get(score) or {}).get(key) or {}
    return found


def _shown(results: Json, group: Group, score: str, key: str) -> bool:
    """Whether a summary has a column: not where all that was measured is a part of R, and of some methods only."""
    held = [line for line in group.lines if _stored(line, score, key).get("mean") is not None]
    return len(held) == len(group.lines) or any(not _partial(results, line, score, key) for line in held)


def _unmeasured(scores: Sequence[str], keys: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """A sentence on the summaries that no score has; "" if there are none."""
    missing = [catalog.summary(key).label for key in keys if not any((score, key) in pairs for score in scores)]
    return f"Not measured: {', '.join(missing)}." if missing and pairs else ""


def _score_rows(
    results: Json, group: Group, pairs: Sequence[tuple[str, str]]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    columns = []
    most = max((len(line.get("seeds") or ()) for line in group.lines), default=0)
    for score, key in pairs:
        cells = [_score_cell(results, line, score, key, most) for line in group.lines]
        if catalog.score(score).better != "neither":
            competing = len(cells) - len(group.bounds())
            values = [_by_seed(line, score, key) for line in group.lines[:competing]]
            cells = ranked(cells[:competing], values, not catalog.best_is_lowest(score, key)) + cells[competing:]
        columns.append(cells)
    return tuple((str(line["method"]), tuple(column[i] for column in columns)) for i, line in enumerate(group.lines))


def _by_seed(line: Json, score: str, key: str) -> dict[Any, float]:
    """Seed -> the summary's value of its run; seeds without one are left out."""
    values = _stored(line, score, key).get("values") or ()
    return {seed: v for seed, v in zip(line.get("seeds") or (), values, strict=False) if v is not None}


def _score_cell(results: Json, line: Json, score: str, key: str, most: int) -> Cell:
    """A mean over seeds; its note counts missing seeds or cells."""
    stored = _stored(line, score, key)
    seeds, values = line.get("seeds") or [], stored.get("values") or []
    cell = mean_cell(stored, score)
    if cell.text is None:
        return cell
    there = sum(value is not None for value in values) if values else len(seeds)
    notes = [f"{there} of {most} seeds"] if there < most else []
    notes += _partial(results, line, score, key)
    singles = [
        f"seed {seed}: {number(value, score) or 'not measured'}" for seed, value in zip(seeds, values, strict=False)
    ]
    cell = replace(cell, note=", ".join(notes), values="; ".join(singles))
    if form_of(results).style == MEAN_SD:
        present = [value for value in values if value is not None]
        sd = number(float(np.std(present, ddof=1)), score) if len(present) > 1 else ""
        return replace(cell, low="", high="", spread=sd)
    return cell


def _partial(results: Json, line: Json, score: str, key: str) -> list[str]:
    """How many cells of R the mean is over, if some were not measured."""
    there = needed = 0
    for run in line_runs(results, line):
        R = ((run.get("scores") or {}).get(score) or {}).get("R") or []
        wanted = catalog.needed_cells(key, run.get("tasks") or [], run.get("ends") or {}) if R else []
        needed += len(wanted)
        there += sum(R[k][j] is not None for k, j in wanted)
    return [f"{there} of {needed} cells"] if there < needed else []


def _differences(results: Json, group: Group, score: str) -> Table | None:
    """Paired difference from the study's baseline, seed by seed."""
    held = [
        (str(line["method"]), (line.get("difference") or {}).get(score) or {})
        for line in group.lines
        if (line.get("difference") or {}).get(score)
    ]
    keys = [key for key in catalog.summaries() if any((d.get(key) or {}).get("mean") is not None for _, d in held)]
    if not keys:
        return None
    rows = tuple((method, tuple(_difference(stored.get(key) or {}, score) for key in keys)) for method, stored in held)
    baseline = results.get("baseline")
    return Table(
        slug("difference", score, group.order, _model_part(results, group)),
        f"{catalog.score(score).title}: difference from {baseline}, {group.label}",
        f"Method minus {baseline}, paired over seeds, with its 95% interval, which is not corrected. * : p below 0.05 in the "
        "paired t-test, corrected (Holm) for the methods of this column.",
        "Method",
        tuple(Column(catalog.summary(key).label, "", catalog.summary(key).note) for key in keys),
        rows,
        {**group.show(), "score": score},
        sum(name in {str(line["method"]) for line in group.bounds()} for name, _ in rows),
        {str(line["method"]): (f"{UPPER_BOUNDS[line['strategy']]}; not tested",) for line in group.bounds()},
    )


def _difference(stored: Json, score: str) -> Cell:
    cell = mean_cell(stored, score)
    if cell.text is None:
        return cell
    p, corrected = stored.get("p"), stored.get("holm")
    sure = corrected is not None and corrected < ALPHA
    told = [f"p = {p:.2g}"] if p is not None else []
    told += [f"corrected: {corrected:.2g}"] if corrected is not None else []
    return replace(cell, text=signed(cell) + ("*" if sure else ""), values="; ".join(told))


# --- orders and interference ------------------------------------------------------------------------------------------


def _spread(results: Json, score: str) -> Table | None:
    """Largest minus smallest mean over the orders, and the means themselves."""
    held = {method: (by or {}).get(score) or {} for method, by in (results.get("orders_spread") or {}).items()}
    held = {method: stored for method, stored in held.items() if stored}
    keys = [key for key in PAPER_FORM if any((s.get(key) or {}).get("spread") is not None for s in held.values())]
    orders = list(dict.fromkeys(o for s in held.values() for k in keys for o in (s.get(k) or {}).get("by_order") or {}))
    if not keys or len(orders) < 2:
        return None
    columns = [
        Column(o, catalog.summary(key).label, catalog.summary(key).note) for key in keys for o in ("spread", *orders)
    ]
    spreads = {key: [number_cell((s.get(key) or {}).get("spread"), score) for s in held.values()] for key in keys}
    rows = []
    for i, (method, stored) in enumerate(held.items()):
        cells: list[Cell] = []
        for key in keys:
            by_order = (stored.get(key) or {}).get("by_order") or {}
            cells += [spreads[key][i], *(number_cell(by_order.get(order), score) for order in orders)]
        rows.append((method, tuple(cells)))
    return Table(
        slug("orders", score),
        f"Order sensitivity: {catalog.score(score).title}",
        "Spread: the largest minus the smallest mean over the orders; lower is better.",
        "Method",
        tuple(columns),
        tuple(rows),
        {"score": score},
    )


def _interference(results: Json) -> list[Table]:
    tables = []
    for method, stored in (results.get("interference") or {}).items():
        tasks, matrix = stored["tasks"], stored["matrix"]
        largest = max((abs(value) for row in matrix for value in row if value is not None), default=None)
        if largest is None:
            continue
        score = stored.get("metric") or "accuracy"
        tables.append(
            Table(
                slug("interference", method),
                f"Interference: {method}",
                f"{catalog.score(score).title}: mean change in the column's task caused by learning the row's task.",
                "Learnt",
                tuple(Column(task, "Change in") for task in tasks),
                tuple(
                    (task, tuple(_change(v, score, largest) for v in row))
                    for task, row in zip(tasks, matrix, strict=True)
                ),
                {"method": method},
            )
        )
    return tables


def _change(value: float | None, score: str, largest: float) -> Cell:
    cell = number_cell(value, score)
    if value is None:
        return cell
    sign = catalog.score(score).sign
    return replace(cell, text=signed(cell), tint=round(sign * value / largest, 3) if largest else 0.0)
