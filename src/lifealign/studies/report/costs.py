"""The table of a study's costs: time, steps, memory, and what a method keeps."""

from __future__ import annotations

from lifealign.studies.comparison import relative_time
from lifealign.studies.report.cells import Cell, Column, Json, Table
from lifealign.studies.report.lines import line_runs
from lifealign.studies.report.remarks import made_by_note, remarks

ALWAYS = ("seconds", "train_seconds", "peak_memory_gb", "state_bytes")
"""Columns of the costs that are there even if nothing was measured."""


def cost_table(results: Json) -> list[Table]:
    """Means over the runs of each method; no table if nothing was recorded."""
    held = results.get("cost") or {}
    if not held:
        return []
    columns = {
        "seconds": Column("Run, s", "", "whole run, with its evaluations"),
        "train_seconds": Column("Training, s", "", "training alone"),
        "relative": Column("Relative", "", "training time divided by that of sequential, on the same kind of machine"),
        "steps": Column("Steps", "", "optimizer steps in a life"),
        "rows_kept": Column("Rows kept a task", "", "for replay, after the last task, divided by the number of tasks"),
        "peak_memory_gb": Column("Peak memory, GB", "", "of the process"),
        "state_bytes": Column("State kept, MB", "", "what the method keeps between tasks"),
    }
    relative = {method: relative_time(stored) for method, stored in held.items()}
    shown = {method: {**stored, "relative": relative[method]} for method, stored in held.items()}
    columns = {
        key: column
        for key, column in columns.items()
        if key in ALWAYS or any(stored.get(key) is not None for stored in shown.values())
    }
    rows = tuple(
        (method, tuple(_cost_cell(key, stored.get(key)) for key in columns)) for method, stored in shown.items()
    )
    table = results.get("table") or ()
    runs: dict[str, list[Json]] = {method: [] for method in held}
    for line in table:
        runs.setdefault(str(line["method"]), []).extend(line_runs(results, line))
    lacking = any(r is None for r in relative.values()) and len(held) > 1
    note = "Means over the runs of a method that were not interrupted."
    note += (
        " Relative: left out where the machine differs from that of sequential, or is not recorded." if lacking else ""
    )
    return [
        Table(
            "cost",
            "Time, memory, steps and state kept",
            f"{note} {made_by_note(runs)}".strip(),
            "Method",
            tuple(columns.values()),
            rows,
            {},
            0,
            remarks({method: runs[method] for method in held}),
        )
    ]


def _cost_cell(key: str, value: float | None) -> Cell:
    if value is None:
        return Cell(None)
    match key:
        case "state_bytes":
            return Cell(f"{value / 1e6:.2f}", value)
        case "steps":
            return Cell(f"{value:.0f}", value)
        case "peak_memory_gb" | "relative":
            return Cell(f"{value:.2f}", value)
        case _:
            return Cell(f"{value:.1f}", value)
