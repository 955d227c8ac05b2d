"""Geometry of the charts on a study's page: coordinates for the inline SVG. See `lifealign.report.charts`.

All lengths are in units of the SVG's view box; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lifealign.report.charts import COLOURS, Frame, Point, path, spread_names, tick_texts, ticks

View = dict[str, Any]
_BAR, _GAP = 11.0, 9.0  # height of a bar; between methods
_WIDTH = 480.0
_LETTER = 5.9  # width of one, about
_LONGEST = 24  # letters of a name that is shown in full


def short(name: str) -> str:
    """A name cut to fit; the full one is in the title."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def ends(values: Iterable[Mapping[str, Any] | None]) -> list[float]:
    """Every mean and every end of an interval, to find the range of an axis."""
    return [v[key] for v in values if v is not None for key in ("value", "low", "high") if v[key] is not None]


def bars(view: Mapping[str, Any]) -> View:
    """Horizontal bars from zero, a block for each method and a bar for each order; whiskers are intervals."""
    rows, orders = view["rows"], view["orders"]
    held = ends(v for row in rows for v in row["values"])
    marks = ticks(min([0.0, *held]), max([0.0, *held]))
    left = 12 + _LETTER * max(len(short(row["method"])) for row in rows)
    right = _WIDTH - 14

    def at(x: float) -> float:
        return round(left + (x - marks[0]) / (marks[-1] - marks[0]) * (right - left), 1)

    blocks, y = [], 6.0
    for row in rows:
        drawn = []
        for i, value in enumerate(row["values"]):
            place = y + i * _BAR
            one: View = {"y": place, "middle": place + _BAR / 2, "colour": i % COLOURS, "order": orders[i], "at": value}
            if value is not None:
                start, end = sorted((at(0), at(value["value"])))
                one |= {"x": start, "width": max(round(end - start, 1), 0.8)}
                one["whisker"] = None if value["low"] is None else (at(value["low"]), at(value["high"]))
            drawn.append(one)
        height = _BAR * len(orders)
        name = row["method"]
        blocks.append({"name": name, "short": short(name), "y": round(y + height / 2 + 3.5, 1), "bars": drawn})
        y += height + _GAP
    axis = [{"x": at(t), "text": text} for t, text in zip(marks, tick_texts(marks), strict=True)]
    return {
        **view,
        "width": _WIDTH,
        "height": round(y + 18),
        "bottom": round(y, 1),
        "left": left,
        "zero": at(0),
        "axis": axis,
        "blocks": blocks,
    }


def pareto(view: Mapping[str, Any]) -> View:
    """Points with their intervals (cut at the edge), names where there is room, and the line through the front."""
    points, limits = view["points"], view["limits"]
    marks = ticks(*limits["x"])
    frame = Frame((marks[0], marks[-1]), limits["y"], (_WIDTH, 340), right=20, top=12)

    def inside(value: float, low: float, high: float) -> float:
        return min(max(value, low), high)

    drawn = []
    for p in points:
        x, y = p["x"], p["y"]
        lines = []
        if x["low"] is not None:
            lines.append([frame.at(inside(x[end], marks[0], marks[-1]), y["value"]) for end in ("low", "high")])
        if y["low"] is not None:
            lines.append([frame.at(x["value"], inside(y[end], *limits["y"])) for end in ("low", "high")])
        drawn.append({**p, "at": frame.at(x["value"], y["value"]), "whiskers": lines, "short": short(p["method"])})
    _place_names(drawn, frame)
    front = sorted(p["at"] for p in drawn if p["front"])
    axis = [{"x": frame.at(t, 0)[0], "text": text} for t, text in zip(marks, tick_texts(marks), strict=True)]
    return {**view, "frame": frame.view(), "drawn": drawn, "front": path(front) if len(front) > 1 else "", "axis": axis}


def _place_names(points: Sequence[View], frame: Frame) -> None:
    """Each name at the first place around its point where it covers neither another name nor a point."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in (p["at"] for p in points)]
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
