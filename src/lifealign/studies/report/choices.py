"""Tables of a study's chosen settings and of its runs without a result."""

from __future__ import annotations

from collections.abc import Iterable

from lifealign.studies.report.cells import Cell, Column, Json, Table, number_cell, settings_text, word_columns, words


def selection_tables(results: Json) -> list[Table]:
    """The chosen settings, and all trials; nothing for a study without a selection."""
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


def unfinished_table(results: Json) -> list[Table]:
    """Failed and pending runs with their messages; no table if there are none."""
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
