"""Comparisons with the baseline in a study's table: which are tested, and Holm's correction. PURE, of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.studies import stats

Row = dict[str, Any]

UPPER_BOUNDS = {
    "joint": "upper bound: it sees all rows at once",
    "single": "upper bound: it is told the task of each prompt",
}
"""Strategies that no method can be asked to beat: they are shown apart, neither ranked nor tested."""


ALPHA = 0.05
"""Level of a test, after correction."""


def relative_time(cost: Mapping[str, Any]) -> float | None:
    """A method's training time relative to the reference's; None if it is not measured on one known kind of machine.

    Results of earlier programs have a value without the machine: it may compare different machines, so it is left out.
    """
    machines = cost.get("machines") or []
    value: float | None = cost.get("relative")
    return value if len(machines) == 1 and machines != [None] else None


def corrected(table: Sequence[Row]) -> list[Row]:
    """The table with `holm` beside each `p` of its differences: adjusted over the methods of one order and model.

    A family is one summary of one score: columns are not corrected for each other. Upper bounds are left out.
    """
    rows = [{**row, "difference": _copied(row["difference"])} for row in table]
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("strategy") in UPPER_BOUNDS:
            continue
        for score, summaries in (row["difference"] or {}).items():
            for key, found in summaries.items():
                families.setdefault((row["order"], row.get("model"), score, key), []).append(found)
    for family in families.values():
        for found, value in zip(family, stats.holm([f.get("p") for f in family]), strict=True):
            found["holm"] = value
    return rows


def _copied(difference: Any) -> Any:
    if difference is None:
        return None
    return {score: {key: dict(found) for key, found in by.items()} for score, by in difference.items()}


def completed(results: Mapping[str, Any]) -> dict[str, Any]:
    """A study's results with what earlier programs did not write: strategies of the rows, p-values and their correction."""
    table = results.get("table") or []
    baseline = results.get("baseline")
    if all("strategy" in row for row in table):
        return dict(results)
    strategies = {str(run.get("method")): run.get("strategy") for run in results.get("runs") or ()}
    by_place = {(row["method"], row["order"], row.get("model")): row for row in table}
    rows: list[Row] = []
    for row in table:
        other = by_place.get((baseline, row["order"], row.get("model")))
        difference = _copied(row.get("difference"))
        for score, summaries in (difference or {}).items():
            for key, found in summaries.items():
                found.setdefault("p", _p(row, other, score, key))
        rows.append({**row, "strategy": _strategy(str(row["method"]), strategies), "difference": difference})
    return {**results, "table": corrected(rows)}


def _strategy(label: str, strategies: Mapping[str, Any]) -> Any:
    """Strategy of a row: its label is the method, with the swept setting if there is one."""
    fitting = [name for name in strategies if label == name or label.startswith(f"{name} ")]
    return strategies[max(fitting, key=len)] if fitting else None


def _p(row: Row, other: Row | None, score: str, key: str) -> float | None:
    if other is None:
        return None
    found = stats.paired_p(_by_seed(row, score, key), _by_seed(other, score, key))
    return None if found != found else found


def _by_seed(row: Row, score: str, key: str) -> dict[int, float | None]:
    values = ((row.get("metrics") or {}).get(score) or {}).get(key, {}).get("values") or []
    return dict(zip(row.get("seeds") or (), values, strict=False))
