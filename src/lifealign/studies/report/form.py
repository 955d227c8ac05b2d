"""What a report of a study shows, if it is not everything: one score, some summaries and methods, and how it prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.evaluation import catalog
from lifealign.studies.report.cells import Json

KEY = "form"
"""Key of the narrowed results."""
MEAN_SD = "mean-sd"
STYLES = ("interval", MEAN_SD)
INCHES = (1.5, 20.0)
"""Narrowest and widest figure."""


@dataclass(frozen=True)
class Form:
    """What is shown.

    Attributes:
        metric: the one score; None: all.
        summaries: names of summaries, in the order of the columns; empty: the usual ones.
        methods: in the order of the rows; empty: all.
        highlight: the method that is set off; None: the study's baseline.
        style: `interval` prints 95% intervals, `mean-sd` the standard deviation over seeds.
        width: of the figures, inches; None: as wide as they need.
    """

    metric: str | None = None
    summaries: Sequence[str] = ()
    methods: Sequence[str] = ()
    highlight: str | None = None
    style: str = "interval"
    width: float | None = None


def form_of(results: Json) -> Form:
    """The form of results that were narrowed; the usual one of others."""
    return Form(**(results.get(KEY) or {}))


def own_method(results: Json) -> str | None:
    """The method that is set off."""
    return form_of(results).highlight or results.get("baseline")


def width(text: str | None) -> float | None:
    """Inches of a text such as ``3.3in`` or ``84mm``; None for None.

    Raises:
        ConfigError: neither, or out of range.
    """
    if text is None:
        return None
    number, scale = text.strip().removesuffix("in"), 1.0
    if text.strip().endswith("mm"):
        number, scale = text.strip().removesuffix("mm"), 1 / 25.4
    try:
        inches = float(number) * scale
    except ValueError:
        inches = 0.0
    if not INCHES[0] <= inches <= INCHES[1]:
        raise ConfigError(
            f"--width {text!r}: give inches or millimetres, such as 3.3in or 84mm; {INCHES[0]:g} to {INCHES[1]:g}in"
        )
    return inches


def narrowed(results: Json, form: Form) -> dict[str, Any]:
    """The results with nothing but what the form names; the results themselves are not changed.

    Raises:
        ConfigError: a name that the results do not have, or an unknown style.
    """
    table = results.get("table") or ()
    methods = list(dict.fromkeys(str(line["method"]) for line in table))
    scores = catalog.in_order(score for line in table for score in line.get("metrics") or {})
    _known("--metric", [form.metric] if form.metric else [], scores)
    _known("--summaries", form.summaries, list(catalog.summaries()))
    _known("--methods", form.methods, methods)
    _known("--highlight", [form.highlight] if form.highlight else [], list(form.methods) or methods)
    _known("--style", [form.style], STYLES)
    found = {**results, KEY: asdict(form)}
    if form.methods:
        found["table"] = sorted(
            (line for line in table if line["method"] in form.methods),
            key=lambda line: list(form.methods).index(str(line["method"])),
        )
        found["runs"] = [run for run in results.get("runs") or () if str(run.get("method")) in form.methods]
        for part in ("interference", "cost", "selection", "orders_spread"):
            found[part] = {name: v for name, v in (results.get(part) or {}).items() if name in form.methods}
    if form.metric:
        only = form.metric
        found["table"] = [
            {**line, **{part: _only(line.get(part), only) for part in ("metrics", "difference")}}
            for line in found.get("table") or ()
        ]
        found["runs"] = [
            {**run, **{part: _only(run.get(part), only) for part in ("scores", "summary")}}
            for run in found.get("runs") or ()
        ]
        spread = found.get("orders_spread") or {}
        found["orders_spread"] = {name: _only(by, only) for name, by in spread.items()}
    return found


def _only(held: Mapping[str, Any] | None, score: str) -> dict[str, Any] | None:
    return None if held is None else {name: value for name, value in held.items() if name == score}


def _known(option: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ConfigError(f"{option} {name!r}: choose from: {', '.join(allowed) or 'none'}")
