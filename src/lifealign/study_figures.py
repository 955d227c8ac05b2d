"""Figures of a study as PNG and PDF, drawn from the same values as the page's charts. Needs matplotlib (extra `figures`).

The same input gives the same bytes: no date in a file, no settings of the user, no names of methods read as formulas.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lifealign import study_views
from lifealign.report_views import SUMMARIES, metric_label, number
from lifealign.study_tables import Json, slug

View = Mapping[str, Any]
_STYLE: dict[str, Any] = {
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
_COLOURS = ("#1f6f78", "#b4572b", "#5a61a8", "#8a7416", "#a23f6d", "#4b7d34", "#6d5a4e", "#2f78b7")
_MARKERS = "osD^vPX*"
_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_DPI = 150
_ACROSS = 4  # score matrices side by side


def figures(results: Json) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure, in a folder for each metric; each as PNG and as PDF."""
    # The user's own settings would change the bytes.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}):
        for name, figure in _all(results):
            for kind, metadata in _NO_DATES.items():
                out = io.BytesIO()
                figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
                yield f"{name}.{kind}", out.getvalue()


def _all(results: Json) -> Iterator[tuple[str, Figure]]:
    seen: set[str] = set()

    def own(folder: str, *parts: str) -> str:
        name = f"{slug(folder)}/{slug(*parts)}"
        count = 1
        while (full := name if count == 1 else f"{name}-{count}").lower() in seen:
            count += 1
        seen.add(full.lower())
        return full

    maps: dict[tuple[str, str, str], list[View]] = {}
    for view in study_views.heatmaps(results):
        show = view["show"]
        maps.setdefault((show["metric"], show["order"], show["model"]), []).append(view)
    models = {model for _, _, model in maps}
    for (metric, order, model), views in maps.items():
        name = own(metric, "scores", order, model if len(models) > 1 else "")
        yield name, _heatmaps(views, f"{metric_label(metric)}, order {order}")
    for view in study_views.bars(results):
        model = view["show"]["model"] if len(models) > 1 else ""
        yield own(view["show"]["metric"], "orders", view["key"], model), _bars(view)
    for view in study_views.pareto(results):
        show = view["show"]
        name = own(show["metric"], "pareto", show["order"], show["model"] if len(models) > 1 else "")
        yield name, _pareto(view)
    for view in study_views.sensitivity(results):
        yield own(view["show"]["metric"], "sensitivity", view["axis"], view["key"]), _sensitivity(view)


def _heatmaps(views: Sequence[View], title: str) -> Figure:
    columns = min(_ACROSS, len(views))
    rows = math.ceil(len(views) / columns)
    longest = max(len(view["tasks"]) for view in views)
    side = 0.8 + 0.5 * longest
    figure = Figure(figsize=(columns * side + 0.6, rows * (side + 0.1) + 0.3))
    places = figure.subplots(rows, columns, squeeze=False).flat
    figure.suptitle(title)
    for axes, view in zip(places, views, strict=False):
        _heatmap(axes, view)
    for axes in list(places)[len(views) :]:
        axes.set_axis_off()
    return figure


def _heatmap(axes: Axes, view: View) -> None:
    shares = [[math.nan if c is None else c["share"] for c in row["cells"]] for row in view["rows"]]
    axes.imshow(shares, cmap="GnBu", vmin=-0.05, vmax=1.6, aspect="auto")
    for k, row in enumerate(view["rows"]):
        for j, cell in enumerate(row["cells"]):
            if cell is not None:
                text = number(cell["value"], view["show"]["metric"])
                axes.text(j, k, text, ha="center", va="center", fontsize=6.5)
    axes.set_xticks(range(len(view["tasks"])), view["tasks"], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(view["rows"])), [row["label"] for row in view["rows"]])
    axes.tick_params(length=0, labelsize=6.5)
    axes.spines[:].set_visible(False)
    axes.set_title(view["show"]["method"])


def _bars(view: View) -> Figure:
    rows, orders = view["rows"], view["orders"]
    figure = Figure(figsize=(6.3, 0.7 + len(rows) * (0.1 + 0.13 * len(orders))))
    axes = figure.subplots()
    height = 0.8 / len(orders)
    for i, order in enumerate(orders):
        held = [(k, row["values"][i]) for k, row in enumerate(rows) if row["values"][i] is not None]
        places = [k - 0.4 + (i + 0.5) * height for k, _ in held]
        axes.barh(places, [v["value"] for _, v in held], height * 0.9, color=_COLOURS[i % 8], label=f"order {order}")
        for place, (_, v) in zip(places, held, strict=True):
            if v["low"] is not None and v["high"] is not None:
                axes.plot([v["low"], v["high"]], [place, place], color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.axvline(0, color="#333333", linewidth=0.6)
    axes.grid(axis="x", color="#dfe3e6", linewidth=0.6)
    axes.set_title(view["title"])
    if len(orders) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _pareto(view: View) -> Figure:
    figure = Figure(figsize=(6.3, 3.8))
    axes = figure.subplots()
    front = sorted((p["x"]["value"], p["y"]["value"]) for p in view["points"] if p["front"])
    axes.plot(*zip(*front, strict=True), color="#9aa4ab", linewidth=1, linestyle="--", zorder=1)
    for i, p in enumerate(view["points"]):
        x, y = p["x"], p["y"]
        style = {"color": _COLOURS[i % 8], "linewidth": 0.8, "alpha": 0.5}
        if x["low"] is not None and x["high"] is not None:
            axes.plot([x["low"], x["high"]], [y["value"]] * 2, **style)
        if y["low"] is not None and y["high"] is not None:
            axes.plot([x["value"]] * 2, [y["low"], y["high"]], **style)
        marker = _MARKERS[(i // 8) % 8]
        axes.plot(x["value"], y["value"], marker, color=_COLOURS[i % 8], markersize=6, label=p["method"])
    axes.set_xlabel(f"{SUMMARIES[study_views.LEARNING].label} (learning accuracy)")
    axes.set_ylabel("BWT (retention)")
    axes.grid(color="#dfe3e6", linewidth=0.6)
    axes.set_title(view["title"])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _sensitivity(view: View) -> Figure:
    figure = Figure(figsize=(5.0, 3.0))
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
