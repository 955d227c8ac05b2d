"""Shared by all pages: templates, numbers as text, labels of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lifealign.evaluation import catalog

View = dict[str, Any]


def number(value: Any, score: str = "") -> str:
    """A number for people: two decimals for percent, three otherwise, more if it is small; "" for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if catalog.score(score).unit == "%":
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(cell: Any) -> View:
    """{"value", "low", "high"} of a summary's cell, None if missing."""
    given = cell if isinstance(cell, Mapping) else {"value": cell}
    return {key: given.get(key) for key in ("value", "low", "high")}


def limits(scores: Mapping[str, Any], k: int, j: int) -> tuple[Any, Any]:
    """The interval of R[k][j]; None if missing."""
    low, high = scores.get("low"), scores.get("high")
    return (low[k][j] if low else None, high[k][j] if high else None)


def run_labels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A unique name for each run: the method, with seed, directory and number added only as needed."""
    parts = [
        (str(r.get("method")), f"seed {r.get('seed')}", PurePath(str(r.get("memory") or "")).name, f"#{i + 1}")
        for i, r in enumerate(runs)
    ]
    for depth in range(1, 5):
        labels = [", ".join(p for p in part[:depth] if p) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise AssertionError("numbers differ")


def template(name: str) -> Template:
    """A page's template, one of the package's files; every value put into it is escaped."""
    environment = Environment(
        loader=PackageLoader("lifealign.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(name)
