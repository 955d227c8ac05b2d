"""Ratings as plain rows, for other programs. No torch, no web server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lifealign.core.files import replace_file, writing
from lifealign.data.answers import AnswerRecord
from lifealign.judging.people.batch import group_of
from lifealign.judging.people.database import Assignment, Rating, Ratings

NAN = float("nan")


def export_rows(ratings: Ratings) -> list[dict[str, Any]]:
    """One row for each valid rating, oldest first; `left` and `right` are the answers as they were shown."""
    return [_row(ratings.mode, *held) for held in ratings.held()]


def _row(mode: str, annotator: str, assignment: Assignment, rating: Rating, created: str) -> dict[str, Any]:
    question = assignment.question
    sides: tuple[AnswerRecord | None, ...] = assignment.sides if mode == "pairwise" else (None, None)
    return {
        "item": question.a.item,
        "task": question.a.task,
        "rubric": question.rubric,
        "mode": mode,
        "annotator": annotator,
        **{name: side.id if side else None for name, side in zip(("left", "right"), sides, strict=True)},
        **{name: group_of(side) if side else None for name, side in zip(("left_by", "right_by"), sides, strict=True)},
        "winner": rating.winner,
        "answer": question.a.id if mode == "absolute" else None,
        "answer_by": group_of(question.a) if mode == "absolute" else None,
        "score": rating.score,
        "steps": dict(rating.steps),
        "flag": rating.flag,
        "comment": rating.comment,
        "seconds": rating.seconds,
        "gold_ok": gold_ok(assignment, rating),
        "created": created,
    }


def outcome(assignment: Assignment, rating: Rating) -> float:
    """Result of answer `a` in a pair, on either side: 1 won, 0 lost, 0.5 tie; NaN if not judged."""
    if rating.winner is None:
        return NAN
    if rating.winner == "tie":
        return 0.5
    return float((rating.winner == "right") == assignment.swapped)


def gold_ok(assignment: Assignment, rating: Rating) -> bool | None:
    """Whether a gold question was rated correctly; None if it is not gold or was not judged."""
    gold = assignment.question.gold
    if gold is None or not rating.judged:
        return None
    if rating.score is not None:
        low, _, high = gold.partition("-")
        return int(low) <= rating.score <= int(high)
    return outcome(assignment, rating) == {"a": 1.0, "b": 0.0, "tie": 0.5}[gold]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a jsonl file as a whole.

    Raises:
        StoreError: the file cannot be written.
    """
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data.encode("utf-8"))
