"""Shared by all pages: templates, numbers as text, labels of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lifealign.evaluation import catalog
from lifealign.evaluation.numbers import limits_text, number, share
from lifealign.report.charts import marker

View = dict[str, Any]


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
    environment.globals |= {"limits_text": limits_text, "share": share, "unit": lambda name: catalog.score(name).unit}
    environment.globals["marker"] = marker
    return environment.get_template(name)
