"""Tables of every score, summary and text metric, from where they are defined."""

from __future__ import annotations

from lifealign.evaluation.catalog import (
    _NOTES,
    LOWER_IS_BETTER,
    METRICS,
    NEITHER_IS_BETTER,
    PERCENT,
    SUMMARIES,
    metric_label,
)
from lifealign.evaluation.text_metrics import TEXT_METRICS
from site_text import escape, table

UNITS = {"margin": "reward", "nll": "nats per token", "length_words": "words"}


def score_table() -> str:
    """Every score of a row."""
    rows = ((f"`{n}`", _label(n), _unit(n), _better(n), _needs(n), escape(_NOTES[n])) for n in METRICS)
    return table(("name", "label", "unit", "better", "needs", "meaning"), rows)


def summary_table() -> str:
    """Every summary of R."""
    rows = (
        (
            f"`{name}`",
            escape(s.label),
            "as the score" if s.higher else "the opposite of the score",
            escape(s.text) + ".",
        )
        for name, s in SUMMARIES.items()
    )
    return table(("name", "label", "better", "meaning"), rows)


def _label(name: str) -> str:
    return escape(metric_label(name).rpartition(",")[0] or metric_label(name))


def _unit(name: str) -> str:
    if name in PERCENT or metric_label(name).endswith("%"):
        return "%"
    return UNITS.get(name, metric_label(name).rpartition(", ")[2])


def _better(name: str) -> str:
    if name in NEITHER_IS_BETTER:
        return "neither"
    return "lower" if name in LOWER_IS_BETTER else "higher"


def _needs(name: str) -> str:
    if name == "pass_rate":
        return "a task with a rule, `evaluate.generations`"
    metric = TEXT_METRICS.get(name)
    if metric is None:
        return ""
    packages = ", ".join(p.replace("_", "-") for p in metric.packages)
    return f"`evaluate.text_metrics`{', ' + packages if packages else ''}"
