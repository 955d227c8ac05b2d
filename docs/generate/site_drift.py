"""Table of every drift measure and its columns, from the registry."""

from __future__ import annotations

from lifealign.evaluation.drift import MEASURES, OWN
from site_text import escape, table


def measure_table() -> str:
    """Every built-in measure: what it reads, and its numbers."""
    rows = (
        (
            f"`{name}`" if place == 0 else "",
            f"`{column}`",
            escape(shown.label + (f", {shown.unit}" if shown.unit else "")),
            measure.material if place == 0 else "",
            escape(shown.note),
        )
        for name in OWN
        for measure in (MEASURES[name],)
        for place, (column, shown) in enumerate(measure.columns.items())
    )
    return table(("measure", "column", "label", "answers", "meaning"), rows)
