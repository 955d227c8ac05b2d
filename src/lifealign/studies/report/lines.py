"""Comparable lines of a study's table, and the scores and runs behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lifealign.evaluation import catalog
from lifealign.studies.comparison import UPPER_BOUNDS
from lifealign.studies.report.cells import Json, order_label


@dataclass(frozen=True)
class Group:
    """Comparable lines of the study's table: one order of the tasks on one base model."""

    order: str
    model: str
    lines: tuple[Json, ...]
    label: str

    def bounds(self) -> list[Json]:
        """The upper bounds, which are the last lines."""
        return [line for line in self.lines if is_bound(line)]

    def show(self) -> dict[str, str]:
        """The choices in the page's menus under which it is shown."""
        return {"order": self.order, "model": self.model}


def groups(results: Json) -> list[Group]:
    """Groups of comparable lines, in the table's order, upper bounds last; a label names the order, and the model if there are several."""
    found: dict[tuple[str, str], list[Json]] = {}
    for line in results.get("table") or ():
        found.setdefault((str(line["order"]), str(line.get("model"))), []).append(line)
    models = {model for _, model in found}
    return [
        Group(
            order,
            model,
            tuple(sorted(lines, key=is_bound)),
            order_label(order) + (f", {model}" if len(models) > 1 else ""),
        )
        for (order, model), lines in found.items()
    ]


def is_bound(line: Json) -> bool:
    """Whether a line of the table is an upper bound, which is shown apart and not ranked."""
    return line.get("strategy") in UPPER_BOUNDS


def scores_of(results: Json) -> list[str]:
    """Scores of the table and of the runs, in the order of the catalog."""
    lines = [line.get("metrics") or {} for line in results.get("table") or ()]
    runs = [run.get("scores") or {} for run in results.get("runs") or ()]
    return catalog.in_order(score for held in (*lines, *runs) for score in held)


def runs_of(results: Json, **wanted: Any) -> list[Json]:
    """Finished runs with these values, e.g. method="replay"; ordered by seed."""
    held = [
        run
        for run in results.get("runs") or ()
        if run.get("status") == "done" and all(run.get(key) == value for key, value in wanted.items())
    ]
    return sorted(held, key=lambda run: (run.get("seed") is None, run.get("seed")))


def line_runs(results: Json, line: Json) -> list[Json]:
    """Finished runs behind a line of the table; its label is that of the method, with the swept setting if there is one."""
    label = str(line["method"])
    place = {"order": line["order"], "model": line.get("model")}
    return [
        run
        for run in runs_of(results, **place)
        if str(run.get("method")) == label or (label.startswith(f"{run.get('method')} ") and label in _labels(run))
    ]


def _labels(run: Json) -> set[str]:
    """Labels that a run may have at a swept setting."""
    settings = run.get("settings") or {}
    return {f"{run.get('method')} {key.rpartition('.')[2]}={value}" for key, value in settings.items()}
