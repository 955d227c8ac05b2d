"""Figures of a study as PNG and PDF, drawn from the same values as the page's charts. Needs matplotlib (extra `figures`).

The same input gives the same bytes: no date in a file, none of the user's settings, no method name read as a formula.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lifealign.evaluation import catalog
from lifealign.evaluation.numbers import number
from lifealign.studies.report import views
from lifealign.studies.report.cells import Json, order_label, slug, unused
from lifealign.studies.report.form import form_of

View = Mapping[str, Any]
_STYLE: Any = {
    **{key: value for key, value in dict(matplotlib.rcParamsDefault).items() if key != "backend"},
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8.0,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9.0,
    "pdf.fonttype": 42,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_COLOURS = ("#0072b2", "#d55e00", "#139f4f", "#772b7c", "#4bace6", "#8f3c1d", "#1d2327", "#a86084")
"""The page's colours on white; see style.j2."""
_MARKERS = "os^DvP*_"
_GREY = "#9aa4ab"
_AROUND = LinearSegmentedColormap.from_list("around", ("#eaae80", "#ffffff", "#80b8d8"))
"""Worse than the middle, the middle, better."""
_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_DPI = 150
_ACROSS = 4  # score matrices side by side


def figures(results: Json) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure, in a folder for each score; each as PNG and as PDF."""
    # The user's own settings would change the bytes.
    with matplotlib.rc_context(_STYLE):
        for name, figure in _all(results):
            for kind, metadata in _NO_DATES.items():
                out = io.BytesIO()
                figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
                figure.set_layout_engine("none")  # keeps the places found for the first kind
                yield f"{name}.{kind}", out.getvalue()


def _all(results: Json) -> Iterator[tuple[str, Figure]]:
    seen: set[str] = set()
    wide = form_of(results).width

    def own(folder: str, *parts: str) -> str:
        return unused(f"{slug(folder)}/{slug(*parts)}", seen)

    maps: dict[tuple[str, str, str], list[View]] = {}
    for view in views.heatmaps(results):
        show = view["show"]
        maps.setdefault((show["score"], show["order"], show["model"]), []).append(view)
    models = {model for _, _, model in maps}
    for (score, order, model), shown in maps.items():
        name = own(score, "scores", order, model if len(models) > 1 else "")
        yield name, _heatmaps(shown, f"{catalog.score(score).title}, {order_label(order)}")
    for view in views.bars(results):
        model = view["show"]["model"] if len(models) > 1 else ""
        yield own(view["show"]["score"], "orders", view["key"], model), _dots(view, wide or 6.3)
    for view in views.pareto(results):
        show = view["show"]
        name = own(show["score"], "pareto", show["order"], show["model"] if len(models) > 1 else "")
        yield name, _pareto(view, wide or 6.3)
    for view in views.sensitivity(results):
        yield own(view["show"]["score"], "sensitivity", view["axis"], view["key"]), _sensitivity(view, wide or 5.0)


def _heatmaps(views: Sequence[View], title: str) -> Figure:
    """Score matrices side by side; stages and tasks are named at the edges only, because they are the same for all."""
    tasks = list(views[0]["tasks"])
    there = {row["label"] for view in views for row in view["rows"]}
    stages = [label for label in ("before", *(f"after {task}" for task in tasks)) if label in there]
    columns = min(_ACROSS, len(views))
    rows = math.ceil(len(views) / columns)
    width, height = 0.36 * len(tasks), 0.21 * len(stages)  # of one matrix, inches
    left, below = 0.15 + 0.055 * max(map(len, stages)), 0.15 + 0.055 * max(map(len, tasks))
    whole = (left + columns * (width + 0.12), below + rows * (height + 0.24) + 0.3)
    figure = Figure(figsize=whole)
    figure.set_layout_engine("none")
    figure.suptitle(title, x=0.02, y=1 - 0.08 / whole[1], ha="left", va="top")
    for index, view in enumerate(views):
        row, column = divmod(index, columns)
        x, y = left + column * (width + 0.12), whole[1] - 0.3 - (row + 1) * (height + 0.24)
        axes = figure.add_axes((x / whole[0], y / whole[1], width / whole[0], height / whole[1]))
        _heatmap(axes, view, stages, names=(column == 0, index + columns >= len(views)))
    return figure


def _heatmap(axes: Axes, view: View, stages: Sequence[str], names: tuple[bool, bool]) -> None:
    held = {row["label"]: row["cells"] for row in view["rows"]}
    cells = [held.get(stage) or [None] * len(view["tasks"]) for stage in stages]
    signs = {"up": 1.0, "down": -1.0, "": 0.0}
    shares = [[math.nan if c is None else signs[c["side"]] * c["share"] for c in row] for row in cells]
    axes.imshow(shares, cmap=_AROUND, vmin=-1, vmax=1, aspect="auto")
    for k, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell is not None:
                axes.text(j, k, number(cell["value"], view["show"]["score"]), ha="center", va="center", fontsize=6)
    tasks = range(len(view["tasks"]))
    axes.set_xticks(tasks, view["tasks"] if names[1] else [""] * len(tasks), rotation=90)
    axes.set_yticks(range(len(stages)), stages if names[0] else [""] * len(stages))
    axes.tick_params(length=0, labelsize=6.5, pad=1.5)
    axes.spines[:].set_visible(False)
    axes.set_title(view["show"]["method"], fontsize=7.5, pad=3)


def _dots(view: View, width: float) -> Figure:
    rows, orders = view["rows"], view["orders"]
    figure = Figure(figsize=(width, 0.7 + len(rows) * (0.1 + 0.09 * len(orders))))
    axes = figure.subplots()
    step = 0.7 / len(orders)
    for i, order in enumerate(orders):
        for k, row in enumerate(rows):
            value, place = row["values"][i], k - 0.35 + (i + 0.5) * step
            if value is None:
                continue
            colour = _GREY if row["bound"] else _COLOURS[1] if row["method"] == view["own"] else _COLOURS[0]
            colour = colour if len(orders) == 1 else _COLOURS[i % 8]
            if value["low"] is not None and value["high"] is not None:
                axes.plot([value["low"], value["high"]], [place, place], color=colour, linewidth=1)
            axes.plot(value["value"], place, _MARKERS[i % 8], color=colour, markersize=4)
        if len(orders) > 1:
            axes.plot([], [], _MARKERS[i % 8], color=_COLOURS[i % 8], markersize=4, label=order_label(order))
    base = next((row["values"][0] for row in rows if row["method"] == view["baseline"]), None)
    if base is not None:
        axes.axvline(base["value"], color="#333333", linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["method"] == view["own"] else "normal")
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.grid(axis="x", color="#dfe3e6", linewidth=0.6)
    axes.set_xlabel(view["title"])
    if len(orders) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _pareto(view: View, width: float) -> Figure:
    """As on the page: the stair of the front, names of the methods that stand out, the others grey."""
    figure = Figure(figsize=(width, width * 0.62))
    axes = figure.subplots()
    stair = views.stair(view)
    axes.plot(*zip(*stair, strict=True), color=_GREY, linewidth=1, linestyle="--", zorder=1)
    for p in view["points"]:
        x, y = p["x"], p["y"]
        own = p["method"] == view["own"]
        named = own or p["front"] or p["bound"] or p["method"] == view["baseline"]
        colour = _COLOURS[1] if own else _COLOURS[0] if named and not p["bound"] else _GREY
        style: dict[str, Any] = {"color": colour, "linewidth": 0.8, "alpha": 0.6}
        if named and x["low"] is not None and x["high"] is not None:
            axes.plot([x["low"], x["high"]], [y["value"]] * 2, **style)
        if named and y["low"] is not None and y["high"] is not None:
            axes.plot([x["value"]] * 2, [y["low"], y["high"]], **style)
        marker = "*" if own else "D" if p["bound"] else "o"
        axes.plot(x["value"], y["value"], marker, color=colour, markersize=8 if own else 4.5)
        if named:
            axes.annotate(p["method"], (x["value"], y["value"]), (4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlim(view["limits"]["x"])
    axes.set_ylim(view["limits"]["y"])
    axes.set_xlabel(f"{catalog.summary(views.LEARNING).label} (learning accuracy)")
    axes.set_ylabel("BWT (retention)")
    axes.grid(color="#dfe3e6", linewidth=0.6)
    return figure


def _sensitivity(view: View, width: float) -> Figure:
    figure = Figure(figsize=(width, width * 0.6))
    axes = figure.subplots()
    for i, line in enumerate(view["lines"]):
        means = [math.nan if p is None else p["value"] for p in line["points"]]
        style = "-" if i < 8 else "--"
        axes.plot(range(len(means)), means, style, marker="o", markersize=4, color=_COLOURS[i % 8], label=line["label"])
        for k, p in enumerate(line["points"]):
            if p is not None and p["low"] is not None:
                axes.plot([k, k], [p["low"], p["high"]], color=_COLOURS[i % 8], linewidth=0.8, alpha=0.6)
    axes.set_xticks(range(len(view["values"])), view["values"])
    axes.set_xlabel(view["axis"])
    axes.grid(color="#dfe3e6", linewidth=0.6)
    axes.set_title(view["title"])
    if len(view["lines"]) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
