"""Geometry of the charts on a study's page: coordinates for the inline SVG. See `lifealign.report.charts`.

All lengths are in units of the SVG's view box; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lifealign.report.charts import COLOURS, Frame, Point, marker, path, spread_names, tick_texts, ticks
from lifealign.studies.report import views

View = dict[str, Any]
_STEP, _GAP = 11.0, 7.0  # between the dots of a method; between methods
_WIDTH = 480.0
_LETTER = 5.9  # width of one, about
_LONGEST = 24  # letters of a name that is shown in full


def short(name: str) -> str:
    """A name cut to fit; the full one is in the title."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def ends(values: Iterable[Mapping[str, Any] | None]) -> list[float]:
    """Every mean and every end of an interval, to find the range of an axis."""
    return [v[key] for v in values if v is not None for key in ("value", "low", "high") if v[key] is not None]


def dots(view: Mapping[str, Any]) -> View:
    """A row for each method with a dot for each order and its interval; the baseline's mean is a vertical line."""
    rows, orders = view["rows"], view["orders"]
    marks = ticks(*_span(ends(v for row in rows for v in row["values"])))
    left = 12 + _LETTER * max(len(short(row["method"])) for row in rows)
    right = _WIDTH - 14

    def at(x: float) -> float:
        return round(left + (x - marks[0]) / (marks[-1] - marks[0]) * (right - left), 1)

    blocks, y = [], 10.0
    for row in rows:
        drawn = []
        for i, value in enumerate(row["values"]):
            place = y + i * _STEP
            one: View = {"y": round(place, 1), "colour": i % COLOURS, "order": orders[i], "at": value}
            if value is not None:
                one |= {"x": at(value["value"]), "d": marker(i, (at(value["value"]), place), 4.2)}
                one["whisker"] = None if value["low"] is None else (at(value["low"]), at(value["high"]))
            drawn.append(one)
        name, middle = row["method"], y + (len(orders) - 1) * _STEP / 2
        kind = "own" if name == view["own"] else "bound" if row["bound"] else ""
        blocks.append({"name": name, "short": short(name), "y": round(middle + 3.5, 1), "dots": drawn, "kind": kind})
        y += _STEP * len(orders) + _GAP
    base = next((row["values"][0] for row in rows if row["method"] == view["baseline"]), None)
    axis = [{"x": at(t), "text": text} for t, text in zip(marks, tick_texts(marks), strict=True)]
    return {
        **view,
        "width": _WIDTH,
        "height": round(y + 14),
        "bottom": round(y, 1),
        "left": left,
        "base": None if base is None else at(base["value"]),
        "axis": axis,
        "blocks": blocks,
    }


def rank_chart(view: Mapping[str, Any]) -> View:
    """A critical-difference diagram (Demsar 2006, fig. 1), a row for each method so that long names fit.

    A dot is a mean rank, the ruler above is the critical difference, and a line at the right joins each largest set of
    methods that are not told apart.
    """
    methods, critical = view["methods"], view["critical"]
    left = 12 + _LETTER * max(len(short(m["name"])) for m in methods)
    sets = _not_told_apart([m["rank"] for m in methods], critical)
    right = _WIDTH - 14 - _GAP * len(sets)
    step, top = 16.0, 34.0

    def at(rank: float) -> float:
        return round(left + (rank - 1) / (len(methods) - 1) * (right - left - 8), 1)

    rows = [
        {
            "name": m["name"],
            "short": short(m["name"]),
            "x": at(m["rank"]),
            "y": top + i * step,
            "d": marker(0, (at(m["rank"]), top + i * step), 4.2),
            "kind": "own" if m["name"] == view["own"] else "",
        }
        for i, m in enumerate(methods)
    ]
    bars = [
        {"x": round(right + _GAP * (i + 1), 1), "from": top + a * step - 5, "to": top + b * step + 5}
        for i, (a, b) in enumerate(sets)
    ]
    return {
        "width": _WIDTH,
        "height": round(top + step * len(methods) + 10),
        "left": left,
        "right": right,
        "bottom": top + step * len(methods) - 4,
        "axis": [{"x": at(rank), "text": str(rank)} for rank in range(1, len(methods) + 1)],
        "ruler": None if critical > len(methods) - 1 else (at(1), at(1 + critical)),
        "rows": rows,
        "bars": bars,
    }


def _not_told_apart(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last place of each largest run of at least two mean ranks, in order, that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < critical)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def pareto(view: Mapping[str, Any]) -> View:
    """Points with the stair through the front; only methods that stand out have a name and their intervals.

    These are the own method, the baseline, the upper bounds and the front. A front of points is a stair: nothing between
    two methods was measured, so no line joins them straight.
    """
    points, limits = view["points"], view["limits"]
    marks = ticks(*limits["x"])
    frame = Frame((marks[0], marks[-1]), limits["y"], (_WIDTH, 340), right=20, top=12)

    def inside(value: float, low: float, high: float) -> float:
        return min(max(value, low), high)

    drawn = []
    for p in points:
        x, y = p["x"], p["y"]
        kind = "own" if p["method"] == view["own"] else "bound" if p["bound"] else "front" if p["front"] else ""
        kind = kind or ("base" if p["method"] == view["baseline"] else "")
        lines = []
        if kind and x["low"] is not None:
            lines.append([frame.at(inside(x[end], marks[0], marks[-1]), y["value"]) for end in ("low", "high")])
        if kind and y["low"] is not None:
            lines.append([frame.at(x["value"], inside(y[end], *limits["y"])) for end in ("low", "high")])
        at = frame.at(x["value"], y["value"])
        shape = {"own": 6, "bound": 3, "base": 1}.get(kind, 0)
        drawn.append(
            {
                **p,
                "at": at,
                "kind": kind,
                "d": marker(shape, at, 6.0 if kind == "own" else 4.2),
                "whiskers": lines,
                "short": short(p["method"]),
            }
        )
    named = sorted((p for p in drawn if p["kind"]), key=lambda p: p["kind"] != "own")
    _place_names(named, [p["at"] for p in drawn], frame)
    stair = [frame.at(*corner) for corner in views.stair(view)]
    axis = [{"x": frame.at(t, 0)[0], "text": text} for t, text in zip(marks, tick_texts(marks), strict=True)]
    drawn.sort(key=lambda p: bool(p["kind"]))
    return {**view, "frame": frame.view(), "drawn": drawn, "front": path(stair) if len(stair) > 1 else "", "axis": axis}


def _place_names(points: Sequence[View], every: Sequence[Point], frame: Frame) -> None:
    """Each name at the first place around its point where it covers neither another name nor a point."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in every]
    for p in points:
        x, y = p["at"]
        width = _LETTER * len(p["short"])
        places = [(x + dx if dx > 0 else x + dx - width, y + dy) for dy in (-8, 15, -20, 27) for dx in (6, -6)]
        inside = [
            at
            for at in places
            if frame.left < at[0] and at[0] + width < frame.width and frame.top < at[1] < frame.bottom
        ]
        free = [at for at in inside if not any(_covers(at, width, box) for box in taken)]
        left, base = (free or inside or places)[0]
        p["name_at"] = (round(left, 1), round(base, 1))
        taken.append((left, base - 9, left + width, base + 2))


def _covers(at: Point, width: float, box: tuple[float, float, float, float]) -> bool:
    return at[0] < box[2] and at[0] + width > box[0] and at[1] - 9 < box[3] and at[1] + 2 > box[1]


def sensitivity(view: Mapping[str, Any]) -> View:
    """Lines over the values of a setting, evenly spaced; a line is broken where nothing was measured."""
    held = ends(point for line in view["lines"] for point in line["points"])
    last = max(len(view["values"]) - 1, 1)
    several = len(view["lines"]) > 1
    frame = Frame((0, last), (min(held), max(held)), (_WIDTH, 260), right=130 if several else 24, top=12)
    lines = []
    for index, line in enumerate(view["lines"]):
        marks = [
            {
                "at": frame.at(i, p["value"]),
                "whisker": None if p["low"] is None else (frame.at(i, p["low"]), frame.at(i, p["high"])),
                "value": view["values"][i],
                **{key: p[key] for key in ("low", "high", "count")},
                "mean": p["value"],
            }
            for i, p in enumerate(line["points"])
            if p is not None
        ]
        paths = [path(part) for part in _unbroken(line["points"], frame) if len(part) > 1]
        lines.append(
            {
                "task": line["label"],
                "marks": marks,
                "paths": paths,
                "colour": index % COLOURS,
                "dashed": index >= COLOURS,
            }
        )
    spread_names(lines, frame)
    axis = [{"x": frame.at(i, 0)[0], "text": text} for i, text in enumerate(view["values"])]
    return {**view, "frame": frame.view(), "drawn": lines, "axis_marks": axis, "several": several}


def _unbroken(points: Sequence[Mapping[str, Any] | None], frame: Frame) -> list[list[Point]]:
    parts: list[list[Point]] = [[]]
    for i, point in enumerate(points):
        if point is None:
            parts.append([])
        else:
            parts[-1].append(frame.at(i, point["value"]))
    return parts
