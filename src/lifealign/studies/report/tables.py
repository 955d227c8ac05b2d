"""The tables of a study's report, as plain values from which HTML and LaTeX are made.

Each table is made once, as `Table` of `Cell`, so that the page and the LaTeX cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lifealign.evaluation import catalog
from lifealign.report.render import number
from lifealign.studies.report.cells import (
    Cell,
    Column,
    Json,
    Table,
    mean_cell,
    number_cell,
    ranked,
    settings_text,
    signed,
    slug,
    unused,
    word_columns,
    words,
)
from lifealign.studies.report.lines import Group, groups, runs_of, scores_of

PAPER_FORM = ("bwt", "last", "ap")
"""Summaries of the main table, in the order of the paper's tables."""


def all_tables(results: Json) -> dict[str, list[Table]]:
    """Every table of the report, by section; a section may be empty."""
    comparable, scores = groups(results), scores_of(results)
    sections = {
        "main": [main_table(results, group, scores) for group in comparable],
        "details": [_details(results, group, score) for group in comparable for score in scores],
        "differences": [t for group in comparable for score in scores if (t := _differences(results, group, score))],
        "spread": [t for score in scores if (t := _spread(results, score))],
        "interference": _interference(results),
        "cost": _cost(results),
        "selection": _selection(results),
        "unfinished": _unfinished(results),
    }
    seen: set[str] = set()
    return {
        section: [replace(table, name=unused(table.name, seen)) for table in tables]
        for section, tables in sections.items()
    }


# --- scores -----------------------------------------------------------------------------------------------------------


def main_table(results: Json, group: Group, scores: Sequence[str]) -> Table:
    """BWT, Last and AP of every score, a row for each method: the form of the paper's tables."""
    pairs = [(score, key) for score in scores for key in PAPER_FORM if _measured(group, score, key)]
    columns = tuple(
        Column(catalog.summary(key).label, catalog.score(score).title, catalog.summary(key).note)
        for score, key in pairs
    )
    return Table(
        slug("main", group.order, _model_part(results, group)),
        f"Results, {group.label}",
        "Mean over seeds with its 95% interval.",
        "Method",
        columns,
        _score_rows(results, group, pairs),
        group.show(),
    )


def _details(results: Json, group: Group, score: str) -> Table:
    """Every summary of one score."""
    pairs = [(score, key) for key in catalog.summaries() if _measured(group, score, key)]
    return Table(
        slug("summary", score, group.order, _model_part(results, group)),
        f"{catalog.score(score).title}, {group.label}",
        "Mean over seeds with its 95% interval.",
        "Method",
        tuple(Column(catalog.summary(key).label, "", catalog.summary(key).note) for _, key in pairs),
        _score_rows(results, group, pairs),
        {**group.show(), "score": score},
    )


def _model_part(results: Json, group: Group) -> str:
    return group.model if len({line.get("model") for line in results["table"]}) > 1 else ""


def _stored(line: Json, score: str, key: str) -> Json:
    """A summary as the table's line stores it."""
    found: Json = ((line.get("metrics") or {}).get(score) or {}).get(key) or {}
    return found


def _measured(group: Group, score: str, key: str) -> bool:
    return any(_stored(line, score, key).get("mean") is not None for line in group.lines)


def _score_rows(
    results: Json, group: Group, pairs: Sequence[tuple[str, str]]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    columns = []
    most = max((len(line.get("seeds") or ()) for line in group.lines), default=0)
    for score, key in pairs:
        cells = [_score_cell(results, line, score, key, most) for line in group.lines]
        columns.append(
            cells if catalog.score(score).better == "neither" else ranked(cells, not catalog.best_is_lowest(score, key))
        )
    return tuple((str(line["method"]), tuple(column[i] for column in columns)) for i, line in enumerate(group.lines))


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
    return replace(cell, note=", ".join(notes), values="; ".join(singles))


def _partial(results: Json, line: Json, score: str, key: str) -> list[str]:
    """How many cells of R the mean is over, if some were not measured."""
    there = needed = 0
    for run in runs_of(results, method=line["method"], order=line["order"], model=line.get("model")):
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
        f"Method minus {baseline}, paired over seeds, with its 95% interval. * : the interval excludes zero.",
        "Method",
        tuple(Column(catalog.summary(key).label, "", catalog.summary(key).note) for key in keys),
        rows,
        {**group.show(), "score": score},
    )


def _difference(stored: Json, score: str) -> Cell:
    cell = mean_cell(stored, score)
    low, high = stored.get("low"), stored.get("high")
    if cell.text is None:
        return cell
    sure = low is not None and high is not None and (low > 0 or high < 0)
    return replace(cell, text=signed(cell) + ("*" if sure else ""))


# --- orders and interference ------------------------------------------------------------------------------------------


def _spread(results: Json, score: str) -> Table | None:
    """Largest minus smallest mean over the orders, and the means themselves."""
    held = {method: (by or {}).get(score) or {} for method, by in (results.get("orders_spread") or {}).items()}
    held = {method: stored for method, stored in held.items() if stored}
    keys = [key for key in PAPER_FORM if any(key in stored for stored in held.values())]
    orders = list(dict.fromkeys(o for s in held.values() for k in keys for o in (s.get(k) or {}).get("by_order") or {}))
    if not keys or len(orders) < 2:
        return None
    columns = [
        Column(o, catalog.summary(key).label, catalog.summary(key).note) for key in keys for o in ("spread", *orders)
    ]
    spreads = {
        key: ranked([number_cell((s.get(key) or {}).get("spread"), score) for s in held.values()], False)
        for key in keys
    }
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


# --- cost, selection, what did not finish -----------------------------------------------------------------------------


def _cost(results: Json) -> list[Table]:
    held = results.get("cost") or {}
    if not held:
        return []
    columns = {
        "seconds": Column("Run, s", "", "whole run, with its evaluations"),
        "train_seconds": Column("Training, s", "", "training alone"),
        "relative": Column("Relative", "", "training time divided by that of sequential"),
        "peak_memory_gb": Column("Peak memory, GB", "", "of the process"),
        "state_bytes": Column("State kept, MB", "", "what the method keeps between tasks"),
    }
    rows = tuple(
        (method, tuple(_cost_cell(key, stored.get(key)) for key in columns)) for method, stored in held.items()
    )
    return [
        Table(
            "cost",
            "Time, memory and state kept",
            "Means over the runs of a method.",
            "Method",
            tuple(columns.values()),
            rows,
            {},
        )
    ]


def _cost_cell(key: str, value: float | None) -> Cell:
    if value is None:
        return Cell(None)
    match key:
        case "state_bytes":
            return Cell(f"{value / 1e6:.2f}", value)
        case "peak_memory_gb" | "relative":
            return Cell(f"{value:.2f}", value)
        case _:
            return Cell(f"{value:.1f}", value)


def _selection(results: Json) -> list[Table]:
    held = {method: stored for method, stored in (results.get("selection") or {}).items() if stored}
    if not held:
        return []
    split = results.get("selected_on")
    trials = [(method, s.get("metric") or "", trial) for method, s in held.items() for trial in s.get("trials") or ()]
    return [
        Table(
            "selection",
            "Chosen settings",
            f"Chosen on the {split} rows; the tables report the {results.get('reported_on')} rows.",
            "Method",
            (Column("Trials"), Column("Failed"), *word_columns("Chosen"), Column("Value"), *word_columns("Summary")),
            tuple((method, _selection_cells(stored)) for method, stored in held.items()),
            {},
        ),
        Table(
            "trials",
            "All trials",
            f"All settings tried, with their values on the {split} rows.",
            "Method",
            (*word_columns("Settings"), Column("Value"), *word_columns("Summary", "Message")),
            tuple(
                (
                    method,
                    (
                        words(settings_text(trial.get("settings")) or "defaults"),
                        number_cell(trial.get("value"), score.rpartition(".")[2]),
                        words(score),
                        Cell(trial.get("error") or ""),
                    ),
                )
                for method, score, trial in trials
            ),
            {},
        ),
    ]


def _selection_cells(stored: Json) -> tuple[Cell, ...]:
    trials, score = stored.get("trials") or [], stored.get("metric") or ""
    chosen = stored.get("chosen")
    value = next((trial.get("value") for trial in trials if trial.get("settings") == chosen), None)
    return (
        number_cell(len(trials)),
        number_cell(sum(bool(trial.get("error")) for trial in trials)),
        words("" if chosen is None else settings_text(chosen) or "defaults"),
        number_cell(value, score.rpartition(".")[2]),
        words(score),
    )


def _unfinished(results: Json) -> list[Table]:
    runs: Iterable[Json] = results.get("runs") or ()
    held = [run for run in runs if run.get("status") != "done"]
    if not held:
        return []
    labels = ("Order", "Seed", "Model", "Settings", "Run", "State", "Message")
    rows = tuple(
        (
            str(run.get("method")),
            (
                *(words(str(run.get(key, ""))) for key in ("order", "seed", "model")),
                Cell(settings_text(run.get("settings"))),
                *(words(str(run.get(key, ""))) for key in ("id", "status")),
                Cell(run.get("error") or ""),
            ),
        )
        for run in held
    )
    note = "These runs are not in any mean above."
    return [Table("unfinished", "Failed and pending runs", note, "Method", word_columns(*labels), rows, {})]
