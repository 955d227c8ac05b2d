"""Geometry of the report's charts: coordinates for the inline SVG of report.html.j2. See `report`.

All lengths are in units of the SVG's view box; y grows downwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.evaluation import catalog

View = dict[str, Any]
Point = tuple[float, float]

COLOURS = 8
"""Number of line colours in the template; further lines are dashed."""
_LABEL_GAP = 13.0  # between the names at the ends of lines
_FEWEST_TO_SMOOTH = 8  # points of a stage; a running mean of fewer is a line across the steps themselves
_MOST_POINTS = 300  # of one line; more steps than that are averaged in groups
TRACES = {"loss": "Loss", "margin": "Reward margin", "focal_weight": "Focal weight"}


class Frame:
    """A plot's data range and its place in the view box."""

    def __init__(self, x: Point, y: Point, size: Point, *, right: float, top: float = 10) -> None:
        """Ranges of the data, size of the view box, and room to the right and on top; y is widened to its ticks."""
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = 44.0, size[0] - right, top, size[1] - 26
        self.ticks = ticks(*y)
        self.x, self.y = x, (self.ticks[0], self.ticks[-1])

    def at(self, x: float, y: float) -> Point:
        """Place of a point of the data, rounded to a tenth."""
        span_x, span_y = self.x[1] - self.x[0] or 1, self.y[1] - self.y[0] or 1
        return (
            round(self.left + (x - self.x[0]) / span_x * (self.right - self.left), 1),
            round(self.bottom - (y - self.y[0]) / span_y * (self.bottom - self.top), 1),
        )

    def view(self) -> View:
        """Values that the template draws."""
        marks = [
            {"y": self.at(self.x[0], t)[1], "text": text}
            for t, text in zip(self.ticks, tick_texts(self.ticks), strict=True)
        ]
        keys = ("width", "height", "left", "right", "top", "bottom")
        return {**{k: getattr(self, k) for k in keys}, "ticks": marks}


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that enclose the range."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - max(0.5, abs(low) * 0.1), high + max(0.5, abs(high) * 0.1)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, final + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """The numbers of `ticks`, all with as many decimals as their step needs."""
    step = values[1] - values[0]
    digits = next(d for d in range(13) if d == 12 or abs(round(step, d) - step) < 1e-9 * step)
    return [f"{value:.{digits}f}" for value in values]


def path(points: Sequence[Point]) -> str:
    """SVG path through the points."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""


def by_task(score: str, held: Sequence[tuple[Mapping[str, Any], str]], scale: tuple[float, float]) -> list[View]:
    """For each task one small chart with all runs in it: its score from the stage that learnt it to the last.

    Axes are the same in all charts; those of a rate end at 0 and 100. The line of a run has the same colour and the same
    marker in all of them, in the order of `held`.
    """
    most = max((len(run["tasks"]) for run, _ in held), default=0)
    if most < 2:
        return []
    found = catalog.score(score)
    bounds = (0.0, found.scale) if found.rate else scale
    views = []
    for task in dict.fromkeys(task for run, _ in held for task in run["tasks"]):
        frame = Frame((1, most), bounds, (260, 150), right=12, top=8)
        lines = []
        for place, (run, label) in enumerate(held):
            j = run["tasks"].index(task) if task in run["tasks"] else most
            known = [
                (k + 1, row[j]) for k, row in enumerate(run["scores"][score]["R"]) if k >= j and row[j] is not None
            ]
            if known:
                marks = [
                    {"at": (at := frame.at(*p)), "stage": p[0], "value": p[1], "d": marker(place, at)} for p in known
                ]
                rows = run["scores"][score].get("rows")
                lines.append(
                    {
                        "label": label,
                        "colour": place % COLOURS,
                        "dashed": place >= COLOURS,
                        "marks": marks,
                        "rows": rows[known[-1][0] - 1][j] if rows else None,
                        "path": path([m["at"] for m in marks]),
                    }
                )
        if lines:
            chance = None if found.chance is None else frame.at(1, found.chance)[1]
            axis = [{"x": frame.at(k, 0)[0], "text": str(k)} for k in range(1, most + 1)]
            views.append({"task": task, "frame": frame.view(), "lines": lines, "axis": axis, "chance": chance})
    return views


def marker(place: int, at: Point, size: float = 4.0) -> str:
    """SVG path of a run's marker: one shape for each colour, so that colour is never the only difference."""
    shapes = {
        "circle": [(math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12)],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "up": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.3), (1.1, 0), (0, 1.3), (-1.1, 0)],
        "down": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "plus": list(_PLUS),
        "star": [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate([1.4, 0.6] * 5)],
        "bar": [(-1.3, -0.5), (1.3, -0.5), (1.3, 0.5), (-1.3, 0.5)],
    }
    points = list(shapes.values())[place % len(shapes)]
    return path([(round(at[0] + size * x, 1), round(at[1] + size * y, 1)) for x, y in points]) + "Z"


_PLUS: tuple[Point, ...] = (
    *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
    *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
)


def spread_names(lines: list[View], frame: Frame) -> None:
    """Names at the ends of the lines, moved apart where they would cover each other."""
    ordered = sorted(lines, key=lambda line: (line["marks"][-1]["at"][1], line["task"]))
    places: list[float] = []
    for line in ordered:
        y = line["marks"][-1]["at"][1]
        places.append(max(y, places[-1] + _LABEL_GAP) if places else y)
    limit = frame.bottom
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - _LABEL_GAP
    for line, place in zip(ordered, places, strict=True):
        name = line["task"]
        line |= {"label_y": round(place, 1), "short": name if len(name) <= 18 else name[:17] + "…"}


def training(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[View]:
    """For each run its training curves over optimizer steps.

    Losses of different methods are different functions, so each has an axis of its own; other quantities share one. A
    focal weight that never changes is left out.
    """
    shown: dict[str, list[float]] = {key: [] for key in TRACES}
    gathered = []
    for run, label in zip(runs, labels, strict=True):
        parts = _parts(run.get("training") or {})
        gathered.append((label, parts, {key: _trace(parts, key) for key in TRACES}))
        for key in TRACES:
            shown[key] += [y for trace in gathered[-1][2][key] for _, y in trace[0]]
    views = []
    for label, parts, traces in gathered:
        charts = []
        for key, title in TRACES.items():
            own = [y for trace in traces[key] for _, y in trace[0]]
            if own and not (key == "focal_weight" and len({round(v, 9) for v in own}) == 1):
                values = own if key == "loss" else shown[key]
                frame = Frame(
                    (0, max(parts[-1]["end"], 1)), (min(*values, 0.0), max(values)), (400, 222), right=12, top=34
                )
                charts.append(_training_chart(key, title, frame, parts, traces[key]))
        if charts:
            views.append({"label": label, "charts": charts, "parts": [p["name"] for p in parts]})
    return views


def _training_chart(key: str, title: str, frame: Frame, parts: Sequence[View], traces: Sequence[Any]) -> View:
    bands = [
        {"x": (x := frame.at(p["start"], 0)[0]), "width": round(frame.at(p["end"], 0)[0] - x, 1), "name": p["name"]}
        for p in parts
    ]
    return {
        "key": key,
        "title": title,
        "frame": frame.view(),
        "bands": bands,
        "raw": [path([frame.at(*q) for q in raw]) for raw, _ in traces],
        "smooth": [path([frame.at(*q) for q in smooth]) for raw, smooth in traces if len(raw) >= _FEWEST_TO_SMOOTH],
        "last_step": parts[-1]["end"],
    }


def _parts(commits: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[View]:
    """Stages of all commits one after the other: name, lines, first and last step."""
    parts: list[View] = []
    for name, lines in commits.items():
        for stage in dict.fromkeys(str(line.get("stage", "")) for line in lines):
            own = [line for line in lines if str(line.get("stage", "")) == stage]
            start = parts[-1]["end"] if parts else 0
            title = f"{name}, {stage}" if stage not in ("", "preference") else name
            parts.append({"name": title, "lines": own, "start": start, "end": start + len(own)})
    return parts


def _trace(parts: Sequence[View], key: str) -> list[tuple[list[Point], list[Point]]]:
    """Values and running mean of each stage, thinned."""
    total = parts[-1]["end"] if parts else 0
    group = max(1, math.ceil(total / _MOST_POINTS))
    traces = []
    for part in parts:
        known = [
            (part["start"] + i + 1, line[key]) for i, line in enumerate(part["lines"]) if line.get(key) is not None
        ]
        chunks = [known[i : i + group] for i in range(0, len(known), group)]
        raw = [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]
        half = max(2, len(raw) // 16)
        smooth = []
        for i, (x, _) in enumerate(raw):
            near = [y for _, y in raw[max(0, i - half) : i + half + 1]]
            smooth.append((x, sum(near) / len(near)))
        if raw:
            traces.append((raw, smooth))
    return traces


MAPS = {"rank": "Rank kept", "overlap": "Overlap with the past"}
_CELL = (13, 15)
_LAYER = re.compile(r"^(?P<before>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)$")


def layer_maps(commits: Mapping[str, Any]) -> list[View]:
    """Rank kept and overlap of every matrix: rows are kinds of matrix, columns are layers; one for each commit.

    The scale of a quantity, from 0 to its largest value, is the same for all commits of the run.
    """
    matrices = {name: c.get("matrices") or {} for name, c in commits.items()}
    views = []
    for key, title in MAPS.items():
        found = [d[key] for m in matrices.values() for d in m.values() if d.get(key) is not None]
        if not found:
            continue
        top = max(found)
        maps = [_layer_map(name, m, key, top) for name, m in matrices.items() if m]
        views.append({"key": key, "title": title, "top": top, "maps": maps})
    return views


def _layer_map(commit: str, matrices: Mapping[str, Mapping[str, Any]], key: str, top: float) -> View:
    places = {name: _place(name) for name in matrices}
    kinds = sorted({kind for kind, _ in places.values()})
    layers = sorted({layer for _, layer in places.values()})
    left = 8.0 + 6.2 * max(map(len, kinds))
    cells = []
    for name, (kind, layer) in places.items():
        value = matrices[name].get(key)
        if value is not None:
            x, y = left + layers.index(layer) * _CELL[0], kinds.index(kind) * _CELL[1]
            share = f"{value / top:.2f}" if top else "0.00"
            cells.append({"x": round(x, 1), "y": y, "value": value, "share": share, "name": name})
    values = [c["value"] for c in cells]
    bottom = len(kinds) * _CELL[1]
    return {
        "commit": commit,
        "cells": cells,
        "kinds": [{"y": i * _CELL[1] + 11, "text": kind, "x": left - 5} for i, kind in enumerate(kinds)],
        "layers": [
            {"x": round(left + i * _CELL[0] + _CELL[0] / 2, 1), "text": str(n)}
            for i, n in enumerate(layers)
            if n >= 0 and (i % 5 == 0 or len(layers) < 12)
        ],
        "width": round(left + len(layers) * _CELL[0] + 4, 1),
        "height": bottom + 16,
        "mean": sum(values) / len(values) if values else None,
        "low": min(values, default=None),
        "high": max(values, default=None),
    }


def _place(name: str) -> tuple[str, int]:
    """Kind and layer of a matrix, e.g. ("self_attn.q_proj.A", 3); layer -1 if the name has no number."""
    short = name.replace(".lora_A", ".A").replace(".lora_B", ".B")
    match = _LAYER.match(short)
    return (match["rest"], int(match["layer"])) if match else (short, -1)
