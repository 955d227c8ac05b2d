"""Score generated answers with text metrics, and trivial answers as floors to compare with. Imports no torch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from lifealign.data.tasks import Row
from lifealign.evaluation.outside import values_of
from lifealign.evaluation.score import TEXT_METRICS, Score


def score_answers(names: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Text metric -> one value per answer, each against the reference of the same row.

    Raises:
        ConfigError: an unknown text metric, or see `outside.values_of`.
    """

    def compute(score: Score) -> list[float]:
        assert score.of_answer is not None, score.label
        return [score.of_answer(answer, reference) for answer, reference in zip(answers, references, strict=True)]

    return {name: values_of(TEXT_METRICS, name, compute, len(answers)) for name in names}


# --- floors -----------------------------------------------------------------------------------------------------------

FLOORS: Mapping[str, str] = {
    "prompt": "copy of the prompt",
    "other": "another row's chosen answer",
    "rejected": "the rejected answer",
}
"""Trivial answers: name -> description for people."""
FLOOR_SEED = 0
"""Seed for drawing other rows. It is fixed, so that a floor belongs to its rows and is the same in every run on them."""


def floor_answers(rows: Sequence[Row], pool: Sequence[Row]) -> dict[str, list[str]]:
    """The trivial answers to rows, by the names of `FLOORS`.

    `other` is left out if the pool has no other row with a chosen answer, `rejected` if a row has no such answer.

    Args:
        rows: the rows that are scored.
        pool: held-out rows of the same task; another row is drawn from those that are not the row itself.
    """
    answers = {
        "prompt": [row.prompt[-1].content for row in rows],
    }
    if all(row.rejected for row in rows):
        answers["rejected"] = [row.rejected for row in rows]
    good = [row for row in pool if row.chosen]
    if len({row.digest for row in good}) > 1:
        answers["other"] = [_another(row, good).chosen for row in rows]
    return {name: answers[name] for name in FLOORS if name in answers}


def _another(row: Row, pool: Sequence[Row]) -> Row:
    draw = random.Random(f"{FLOOR_SEED}/floor/{row.digest}")
    return draw.choice([other for other in pool if other.digest != row.digest])
