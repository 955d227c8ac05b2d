"""The report's part on drift as plain values for its template: small charts over the points of each memory's life."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.evaluation.drift import FURTHER, SMOOTH
from lifealign.report.charts import COLOURS, Frame, View, marker, path

CHARTED: Mapping[str, tuple[str, ...]] = {
    "branching": ("branching_factor",),
    "shift": ("shifted_share", "shifted_since_previous"),
    "ledger": ("kl_total", "kl_step"),
    "principles": (),
}
"""Measure -> columns in its charts; of others the columns that share the first one's unit."""
MOST_LINES = 4
"""Columns in a chart of a measure from outside."""
CURVES: Mapping[str, str] = {
    "entropy": "Choice at each position of the answers, nats",
    "shifted_share": "Share of shifted tokens at each position of the answers",
    "shift_kl": "KL at each position of the answers, nats",
}
ALL = "all prompts"
Points = Sequence[Mapping[str, Any] | None]


def drift(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[View]:
    """The drift of each run that was measured; charts of one measure share their axes within a run."""
    found = []
    for run, label in zip(runs, labels, strict=True):
        if measured := run.get("drift"):
            points = measured["points"]
            parts = [_part(name, one, points) for name, one in measured["measures"].items()]
            found.append({"label": label, "points": list(enumerate(points)), "parts": parts})
    return found


def _part(name: str, measure: Mapping[str, Any], points: Sequence[str]) -> View:
    """One measure: its sentences, its charts, and the texts that it met."""
    shown = measure["columns"]
    first = next(iter(shown), "")
    columns = CHARTED.get(name) or [c for c in shown if shown[c]["unit"] == shown[first]["unit"]][:MOST_LINES]
    columns = () if name == "principles" else [c for c in columns if c in shown]
    # In quotes, so that a space before a word is seen.
    texts = {
        what: [(json.dumps(t, ensure_ascii=False), n) for t, n in at[-1]] for what, at in measure["tallies"].items()
    }
    return {
        "name": name,
        **{key: measure[key] for key in ("label", "meaning", "worry")},
        "now": [_sentence(shown[c], measure["all"][c], points) for c in columns],
        "legend": [shown[c]["label"] for c in columns],
        "unit": shown[first]["unit"] if first else "",
        "charts": _by_task(measure, columns, points),
        "wide": [*_priorities(measure["summary"]), *_curves(measure["curves"], points)],
        "tallies": [(what, found) for what, found in texts.items() if found],
        "counts": measure["summary"][-1].get("pairs", {}),
        "further": [
            (FURTHER.get(k, k), v) for k, v in measure["summary"][-1].items() if k not in ("priorities", "pairs")
        ],
        "options": measure["options"],
        "prompts": max((cell["rows"] for at in measure["all"].values() for cell in at if cell), default=0),
        "left_out": measure["left_out"],
    }


def _sentence(shown: Mapping[str, Any], cells: Points, points: Sequence[str]) -> str:
    """The first and the newest value in words."""
    there = [(k, cell["value"]) for k, cell in enumerate(cells) if cell is not None]
    if not there:
        return f"{shown['label']}: not measured."
    unit = "%" if shown["unit"] == "%" else f" {shown['unit']}".rstrip()
    (start, value), (end, now) = there[0], there[-1]
    at = "before any task" if start == 0 else f"after {points[start]}"
    if start == end:
        return f"{shown['label']}: {value:.3g}{unit} {at}."
    return f"{shown['label']}: {value:.3g}{unit} {at}, {now:.3g}{unit} after {points[end]}."


def _by_task(measure: Mapping[str, Any], columns: Sequence[str], points: Sequence[str]) -> list[View]:
    """A small chart of all prompts and one of each task's, with the columns as lines and equal axes."""
    tasks = measure["tasks"]
    rows = [(ALL, {c: measure["all"][c] for c in columns})] if len(tasks) > 1 else []
    rows += [(task, {c: [at[j] for at in measure["cells"][c]] for c in columns}) for j, task in enumerate(tasks)]
    ends = [
        cell[end] for _, own in rows for at in own.values() for cell in at if cell for end in ("value", "low", "high")
    ]
    if not ends or len(points) < 2:
        return []
    charts = []
    for title, own in rows:
        frame = Frame((0, len(points) - 1), (min(0.0, *ends), max(ends) or 1.0), (260, 150), right=12, top=8)
        lines = [_line(frame, place, measure["columns"][c], own[c], points) for place, c in enumerate(columns)]
        learnt = frame.at(points.index(title), 0)[0] if title in points else None
        axis = [{"x": frame.at(k, 0)[0], "text": str(k)} for k in range(len(points))]
        charts.append({"title": title, "frame": frame.view(), "lines": lines, "axis": axis, "learnt": learnt})
    return charts


def _line(frame: Frame, place: int, shown: Mapping[str, Any], cells: Points, points: Sequence[str]) -> View:
    """One column's line with its markers, and the band of its intervals."""
    there = [(k, cell) for k, cell in enumerate(cells) if cell is not None]
    ups = [frame.at(k, cell["high"]) for k, cell in there]
    downs = [frame.at(k, cell["low"]) for k, cell in reversed(there)]
    marks = [
        {"d": marker(place, frame.at(k, cell["value"])), "text": f"{shown['label']}, {points[k]}: {cell['value']:.3g}"}
        for k, cell in there
    ]
    return {
        "colour": place % COLOURS,
        "path": path([frame.at(k, cell["value"]) for k, cell in there]),
        "band": path([*ups, *downs]) + "Z" if len(there) > 1 else "",
        "marks": marks,
    }


def _priorities(summaries: Sequence[Mapping[str, Any]]) -> list[View]:
    """Strength of each principle over the points."""
    names = list(next((one["priorities"] for one in summaries if "priorities" in one), {}))
    if not names or len(summaries) < 2:
        return []
    measured = [(k, one["priorities"]) for k, one in enumerate(summaries) if "priorities" in one]
    own = {n: [(k, found[n]["value"]) for k, found in measured if found[n]["value"] is not None] for n in names}
    title = "Priority of each principle; the higher line wins where two of them disagree"
    return [_wide(title, own, (0, len(summaries) - 1), [(k, str(k)) for k in range(len(summaries))])]


def _curves(curves: Mapping[str, Sequence[Sequence[float]]], points: Sequence[str]) -> list[View]:
    """What was measured along the answers, smoothed: at the first point that has it, and at the newest one."""
    views = []
    for name, at in curves.items():
        there = [k for k, curve in enumerate(at) if len(curve) > 1]
        if there:
            chosen = dict.fromkeys((there[0], there[-1]))
            own = {
                ("before any task" if k == 0 else f"after {points[k]}"): list(enumerate(smooth(at[k]), 1))
                for k in chosen
            }
            last = max(len(at[k]) for k in chosen)
            views.append(_wide(CURVES.get(name, name), own, (1, last), [(1, "token 1"), (last, str(last))]))
    return views


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average with weight `SMOOTH` for each new value."""
    found: list[float] = []
    for value in values:
        found.append(value if not found else SMOOTH * value + (1 - SMOOTH) * found[-1])
    return found


def _wide(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x: tuple[float, float],
    axis: Sequence[tuple[float, str]],
) -> View:
    values = [value for own in lines.values() for _, value in own]
    frame = Frame(x, (min(0.0, *values), max(values) or 1.0), (400, 222), right=12, top=12)
    few = max(map(len, lines.values())) <= 2 * COLOURS
    return {
        "title": title,
        "frame": frame.view(),
        "axis": [{"x": frame.at(at, 0)[0], "text": text} for at, text in axis],
        "lines": [
            {
                "label": label,
                "place": place,
                "colour": place % COLOURS,
                "dashed": place >= COLOURS,
                "path": path([frame.at(*p) for p in own]),
                "marks": [{"d": marker(place, frame.at(*p)), "text": f"{label}: {p[1]:.3g}"} for p in own]
                if few
                else [],
            }
            for place, (label, own) in enumerate(lines.items())
        ],
    }
