"""Score matrices coloured around a middle: chance where a score has one, else each task's score when it was learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.evaluation import catalog
from lifealign.report.render import View, limits

BEFORE = "before any task"


def stages(run: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> list[tuple[str, Sequence[Any]]]:
    """Rows of R with at least one measured value, each with the name of its stage.

    Tasks learnt in one go (joint training) have one stage, named like the commit.
    """
    tasks, commits = run["tasks"], list(run.get("training") or ())
    joint = len(tasks) > 1 and len(commits) == 1 and not run.get("ends")
    return [(commits[0] if joint else tasks[k], row) for k, row in enumerate(rows) if any(v is not None for v in row)]


def columns(run: Mapping[str, Any]) -> list[int]:
    """Positions of the tasks that have a column in R: a withdrawal has a row alone."""
    ends = run.get("ends") or {}
    return [j for j, task in enumerate(run["tasks"]) if ends.get(task) != 0]


def reach(score: str, runs: Sequence[Mapping[str, Any]]) -> float:
    """Distance from the middle at which the colour is strongest, the same for all runs."""
    found = catalog.score(score)
    if found.chance and found.rate:
        return max(found.chance, found.scale - found.chance)
    distances = [abs(one) for run in runs for row in _distances(score, run) for one in row if one is not None]
    return max(distances, default=0.0) or 1.0


def matrix(score: str, run: Mapping[str, Any], label: str, reach: float) -> View:
    """Tasks down, stages across, from before any task to now.

    A cell's `side` is "up" if it is better than the middle, "down" if it is worse, and "" at the middle or without one;
    `share` is its distance, 0 to 1.
    """
    scores, shown = run["scores"][score], columns(run)
    before, rows = scores.get("before") or [], scores.get("rows")
    lines: list[tuple[int | None, str, Sequence[Any]]] = []
    if any(v is not None for v in before):
        lines.append((None, BEFORE, before))
    names = iter(stages(run, scores["R"]))
    lines += [(k, next(names)[0], row) for k, row in enumerate(scores["R"]) if any(v is not None for v in row)]

    def cell(k: int | None, j: int, value: Any) -> View | None:
        if value is None:
            return None
        distance = _distance(score, run, j, value)
        low, high = (None, None) if k is None else limits(scores, k, j)
        return {
            "value": value,
            "low": low,
            "high": high,
            "rows": rows[k][j] if rows and k is not None else _rows_of(rows, j),
            "side": "" if not distance else "up" if distance > 0 else "down",
            "share": f"{min(1.0, abs(distance or 0.0) / reach):.3f}",
            "learnt": k is not None and j <= k,
        }

    counts = sorted({count for j in shown if (count := _rows_of(rows, j))})
    return {
        "label": label,
        "stages": [{"name": name, "number": 0 if k is None else k + 1} for k, name, _ in lines],
        "rows": [
            {"label": run["tasks"][j], "number": j + 1, "cells": [cell(k, j, row[j]) for k, _, row in lines]}
            for j in shown
        ],
        "count": "" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
    }


def _rows_of(rows: Sequence[Sequence[int | None]] | None, j: int) -> int | None:
    """Most rows of a task at any stage; None if the results do not tell."""
    counts = [count for row in rows or () if (count := row[j]) is not None]
    return max(counts, default=None)


def _distance(score: str, run: Mapping[str, Any], j: int, value: float) -> float | None:
    """How much better than the middle a value is; None without a middle."""
    found, R = catalog.score(score), run["scores"][score]["R"]
    middle = R[j][j] if found.chance is None else found.chance
    return None if middle is None else found.sign * (value - middle)


def _distances(score: str, run: Mapping[str, Any]) -> list[list[float | None]]:
    scores = run["scores"][score]
    rows = [*scores["R"], scores.get("before") or []]
    return [[None if v is None else _distance(score, run, j, v) for j, v in enumerate(row)] for row in rows]
