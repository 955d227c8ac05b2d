"""Scores as text for people: no decimals and no interval that the held-out rows do not carry. Used by pages and terminal.

One row of 12 moves a rate by 8.3 points, so "91.67%" would claim more than is known; "92" or "11/12" does not.
"""

from __future__ import annotations

from typing import Any

from lifealign.evaluation import catalog

FEWEST_ROWS = 8
"""Fewer rows than this have no interval: it would reach over most of the scale."""
ROWS_OF_A_DECIMAL = 1000
"""From this number of rows on, a row moves a rate by no more than one decimal of a percentage."""


def number(value: Any, score: str = "", rows: int | None = None) -> str:
    """A number for people; "" for None.

    Args:
        value: in the score's unit.
        score: its name. Percent have no decimals, or one from `ROWS_OF_A_DECIMAL` rows on; other scores have three, and
            more if the value is small.
        rows: held-out rows behind the value; None: unknown, as for means over seeds, which get one decimal.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if catalog.score(score).unit == "%":
        text = f"{value:.{0 if rows is not None and rows < ROWS_OF_A_DECIMAL else 1}f}"
    else:
        text = f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"
    return text.removeprefix("-") if float(text) == 0 else text


def share(value: float | None, score: str, rows: int | None) -> str:
    """Right rows of all rows, such as "11/12", for a rate over rows that are right or wrong; "" where the value is no such share."""
    if value is None or not rows or not catalog.score(score).rate:
        return ""
    right = value * rows / 100
    return f"{round(right)}/{rows}" if abs(right - round(right)) < 1e-6 else ""


def limits_text(low: float | None, high: float | None, score: str = "", rows: int | None = None) -> str:
    """An interval such as "72 to 89"; "" where there is no interval or fewer than `FEWEST_ROWS` rows."""
    if low is None or high is None or (rows is not None and rows < FEWEST_ROWS):
        return ""
    return f"{number(low, score, rows)} to {number(high, score, rows)}"
