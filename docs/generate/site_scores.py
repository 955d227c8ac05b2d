"""Tables of every score and summary, from the catalog."""

from __future__ import annotations

from lifealign.evaluation.catalog import GATE_SUMMARIES, Score, scores, summaries
from site_text import escape, table


def score_table() -> str:
    """Every score of a row and of a guard."""
    rows = (
        (f"`{name}`", escape(s.label), escape(s.unit), s.better, _needs(name, s), escape(s.note))
        for name, s in scores().items()
    )
    return table(("name", "label", "unit", "better", "needs", "meaning"), rows)


def summary_table() -> str:
    """Every summary of R."""
    rows = (
        (f"`{name}`", escape(s.label), "lower" if s.loss else "as the score", escape(s.note) + ".")
        for name, s in summaries().items()
    )
    return table(("name", "label", "better", "meaning"), rows)


def gate_summary_table() -> str:
    """Every summary that only gates know."""
    return table(("name", "meaning"), ((f"`{name}`", f"{escape(text)}.") for name, text in GATE_SUMMARIES.items()))


def _needs(name: str, score: Score) -> str:
    if name == "pass_rate":
        return "a task with a rule, `evaluate.generations`"
    if score.of_probe is not None:
        return f"`guard.{score.probe}`"
    if score.of_answer is None:
        return ""
    packages = ", ".join(p.replace("_", "-") for p in score.packages)
    return f"`evaluate.text_metrics`{', ' + packages if packages else ''}"
