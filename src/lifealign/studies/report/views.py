"""Heatmaps, dots, curves and points that a study's page and figures show besides the tables.

Plain values; the page's charts (`charts`) and the figures (`figures`) are drawn from the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lifealign.core.json_codec import plain
from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import Interval, seeds_interval
from lifealign.evaluation.numbers import number
from lifealign.report.render import interval
from lifealign.studies.report.cells import Json, order_label, setting
from lifealign.studies.report.form import own_method
from lifealign.studies.report.lines import Group, groups, is_bound, runs_of, scores_of

View = dict[str, Any]
BAR_SUMMARIES = ("last", "bwt")
"""Summaries shown as dots by method and as sensitivity curves."""
LEARNING, RETENTION = "learning_accuracy", "bwt"


# --- score matrices ---------------------------------------------------------------------------------------------------


def heatmaps(results: Json) -> list[View]:
    """Score matrices of every score, order, model and method: means over the finished runs, each seed in the title."""
    keys = dict.fromkeys(
        (str(run["order"]), str(run.get("model")), str(run["method"]))
        for run in results.get("runs") or ()
        if run.get("status") == "done"
    )
    views = []
    for score in scores_of(results):
        found = [v for key in keys if (v := _heatmap(results, score, *key))]
        for view in found:
            _shade(view, score)
        cells = [c for v in found for row in v["rows"] for c in row["cells"] if c is not None]
        distances = [abs(c["distance"]) for c in cells if c["distance"] is not None]
        rate = catalog.score(score).rate and catalog.score(score).chance is not None
        reach = 50.0 if rate else max(distances, default=0.0) or 1.0
        for cell in cells:
            distance = cell.pop("distance")
            cell["side"] = "" if not distance else "up" if distance > 0 else "down"
            cell["share"] = round(min(1.0, abs(distance or 0.0) / reach), 3)
        views += found
    return views


def _shade(view: View, score: str) -> None:
    """How much better each cell is than chance, or than when its task was learnt if the score knows no chance."""
    found = catalog.score(score)
    for j, task in enumerate(view["tasks"]):
        learnt = next((row["cells"][j] for row in view["rows"] if row["label"] == f"after {task}"), None)
        middle = found.chance if found.chance is not None else learnt["value"] if learnt else None
        for cell in (row["cells"][j] for row in view["rows"]):
            if cell is not None:
                cell["distance"] = None if middle is None else found.sign * (cell["value"] - middle)


def _heatmap(results: Json, score: str, order: str, model: str, method: str) -> View | None:
    runs = [
        run
        for run in runs_of(results, order=order, method=method)
        if str(run.get("model")) == model and (run.get("scores") or {}).get(score)
    ]
    if not runs:
        return None
    tasks = list(runs[0]["tasks"])
    scores = [run["scores"][score] for run in runs]
    seeds = [run.get("seed") for run in runs]
    rows = []
    before = [s.get("before") or [None] * len(tasks) for s in scores]
    if any(value is not None for row in before for value in row):
        cells = [_mean_of([row[j] for row in before], seeds, score, False) for j in range(len(tasks))]
        rows.append({"label": "before", "cells": cells})
    for k, task in enumerate(tasks):
        stage = [s["R"][k] for s in scores]
        if any(value is not None for row in stage for value in row):
            cells = [_mean_of([row[j] for row in stage], seeds, score, j <= k) for j in range(len(tasks))]
            rows.append({"label": f"after {task}", "cells": cells})
    show = {"score": score, "order": order, "model": model, "method": method}
    return {"title": f"{method}, {order_label(order)}", "show": show, "tasks": tasks, "rows": rows, "seeds": seeds}


def _mean_of(values: Sequence[float | None], seeds: Sequence[Any], score: str, learnt: bool) -> View | None:
    present = [value for value in values if value is not None]
    if not present:
        return None
    singles = [f"seed {s}: {number(v, score) or 'not measured'}" for s, v in zip(seeds, values, strict=True)]
    return {
        "value": sum(present) / len(present),
        "singles": "; ".join(singles),
        "learnt": learnt,
        "partial": len(present) < len(values),
    }


# --- orders -----------------------------------------------------------------------------------------------------------


def bars(results: Json) -> list[View]:
    """For each score, model and summary: the methods' means in every order, None if not measured."""
    comparable, views = groups(results), []
    for score in scores_of(results):
        for model in dict.fromkeys(g.model for g in comparable):
            own = [g for g in comparable if g.model == model]
            methods = list(dict.fromkeys(str(line["method"]) for g in own for line in g.lines))
            bounds = {str(line["method"]) for g in own for line in g.bounds()}
            for key in BAR_SUMMARIES:
                rows: list[View] = [
                    {"method": m, "bound": m in bounds, "values": [_of_method(g, m, score, key) for g in own]}
                    for m in methods
                ]
                rows.sort(key=lambda row: _place(row, score, key))
                if any(value is not None for row in rows for value in row["values"]):
                    show: View = {"score": score, "model": model}
                    orders = [g.order for g in own]
                    views.append(
                        {
                            "show": show,
                            "key": key,
                            "title": _title(score, key),
                            "orders": orders,
                            "rows": rows,
                            "own": own_method(results),
                            "baseline": results.get("baseline"),
                        }
                    )
    return views


def _place(row: View, score: str, key: str) -> tuple[bool, float]:
    """Upper bounds first, then the best mean over the orders; a method without a value comes last."""
    values = [v["value"] for v in row["values"] if v is not None]
    sign = -1 if catalog.best_is_lowest(score, key) else 1
    return not row["bound"], -sign * sum(values) / len(values) if values else float("inf")


def _title(score: str, key: str) -> str:
    return f"{catalog.summary(key).label}, {catalog.score(score).title[:1].lower()}{catalog.score(score).title[1:]}"


def _of_method(group: Group, method: str, score: str, key: str) -> View | None:
    """{"value", "low", "high"} of a method in a group; None if it was not measured."""
    for line in group.lines:
        if line["method"] == method:
            stored = ((line.get("metrics") or {}).get(score) or {}).get(key) or {}
            if stored.get("mean") is not None:
                return interval({**stored, "value": stored["mean"]})
    return None


# --- retention against learning ---------------------------------------------------------------------------------------


def pareto(results: Json) -> list[View]:
    """Backward transfer against learning accuracy, a point for each method; `front`: no other beats it in both.

    Upper bounds have a point, and no part in the front.
    """
    views = []
    for score in scores_of(results):
        for group in groups(results):
            points: list[View] = []
            for line in group.lines:
                x = _of_method(group, line["method"], score, LEARNING)
                y = _of_method(group, line["method"], score, RETENTION)
                if x is not None and y is not None:
                    points.append({"method": str(line["method"]), "x": x, "y": y, "bound": is_bound(line)})
            missing = [
                str(line["method"]) for line in group.lines if line["method"] not in {p["method"] for p in points}
            ]
            if points:
                _mark_front(points, score)
                views.append(
                    {
                        "show": {"score": score, "order": group.order, "model": group.model},
                        "title": f"{catalog.score(score).title}, {group.label}",
                        "points": points,
                        "own": own_method(results),
                        "baseline": results.get("baseline"),
                        # The points decide what is shown: an interval over two seeds can be many times as wide as the rest.
                        "limits": {
                            axis: _around([p[axis]["value"] for p in points], score, key)
                            for axis, key in (("x", LEARNING), ("y", RETENTION))
                        },
                        "missing": missing,
                    }
                )
    return views


def _around(values: Sequence[float], score: str, key: str) -> tuple[float, float]:
    """Limits of an axis with a tenth of the range to either side of the values, inside of what the score can reach."""
    margin = 0.1 * (max(values) - min(values)) or 1.0
    wide = Interval(0.0, min(values) - margin, max(values) + margin)
    return catalog.within(score, key, wide)[1:]


def _mark_front(points: Sequence[View], score: str) -> None:
    signs = [-1 if catalog.best_is_lowest(score, key) else 1 for key in (LEARNING, RETENTION)]
    places = [(signs[0] * p["x"]["value"], signs[1] * p["y"]["value"]) for p in points]
    competing = [place for point, place in zip(points, places, strict=True) if not point["bound"]]
    for point, (x, y) in zip(points, places, strict=True):
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in competing)
        point["front"] = not point["bound"] and not beaten


def stair(view: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Corners of the stair through the front of a view of `pareto`: along it no measured method is better in both."""
    score = view["show"]["score"]
    sign = -1 if catalog.best_is_lowest(score, LEARNING) else 1
    front = sorted(
        ((p["x"]["value"], p["y"]["value"]) for p in view["points"] if p["front"]), key=lambda p: sign * p[0]
    )
    corners = front[:1]
    for (x, _), after in pairwise(front):
        corners += [(x, after[1]), after]
    return corners


# --- swept hyper-parameters -------------------------------------------------------------------------------------------


def sensitivity(results: Json) -> list[View]:
    """For each swept setting, score and summary: means over seeds at its values, in the order of the study.

    A line holds all finished runs that differ only in that setting and in the seed.
    """
    views = []
    for axis, values in (results.get("axes") or {}).items():
        lines = _lines(results, axis)
        for score in scores_of(results):
            for key in BAR_SUMMARIES:
                drawn = []
                for label, runs in lines:
                    points = [_at_value(runs, axis, value, score, key) for value in values]
                    if any(point is not None for point in points):
                        drawn.append({"label": label, "points": points})
                if drawn:
                    texts = [setting(value) for value in values]
                    title = f"{_title(score, key)}, by {axis}"
                    views.append(
                        {
                            "show": {"score": score},
                            "axis": axis,
                            "key": key,
                            "title": title,
                            "values": texts,
                            "lines": drawn,
                        }
                    )
    return views


def _lines(results: Json, axis: str) -> list[tuple[str, list[Json]]]:
    """Runs that have the setting, grouped by everything else; each name tells how its group differs from the others."""
    found: dict[str, list[Json]] = {}
    for run in runs_of(results):
        if axis in (run.get("settings") or {}):
            found.setdefault(json.dumps(_identity(run, axis), sort_keys=True), []).append(run)
    parts = [_identity(runs[0], axis) for runs in found.values()]
    varying = [
        key for key in dict.fromkeys(k for part in parts for k in part) if len({str(p.get(key)) for p in parts}) > 1
    ]
    named = []
    for runs, part in zip(found.values(), parts, strict=True):
        short = [
            str(part[key]) if key in ("strategy", "order", "model") else f"{key}={setting(part[key])}"
            for key in varying
            if key in part
        ]
        named.append((", ".join(short) or str(part["strategy"]), runs))
    return named


def _identity(run: Json, axis: str) -> View:
    rest = {key: value for key, value in run["settings"].items() if key != axis}
    return {"strategy": run.get("strategy"), "order": run.get("order"), "model": run.get("model"), **plain(rest)}


def _at_value(runs: Sequence[Json], axis: str, value: Any, score: str, key: str) -> View | None:
    held = [((run.get("summary") or {}).get(score) or {}).get(key) for run in runs if run["settings"][axis] == value]
    present = [float(v) for v in held if v is not None]
    if not present:
        return None
    found: Mapping[str, Any] = plain(catalog.within(score, key, seeds_interval(present))._asdict())
    return {**interval(found), "count": len(present)}
