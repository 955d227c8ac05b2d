"""Opinions of judges and people about answers: judgements and ratings from files, in one shape. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lifealign.core.documents import Document, Name, Number, Text, check
from lifealign.core.errors import DataError
from lifealign.data.sources import Record, read_file
from lifealign.judging.llm import judgements
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.llm.reply import REASONS

Outcome = Literal["won", "lost", "tie"]
_TURNED: dict[Outcome, Outcome] = {"won": "lost", "lost": "won", "tie": "tie"}
_OF_A: dict[str, Outcome] = {"a": "won", "left": "won", "b": "lost", "right": "lost", "tie": "tie"}


@dataclass(frozen=True)
class Opinion:
    """One judgement or rating of one answer: a score, or how it did against another answer.

    Attributes:
        answer: id of the answer (`data.answers.AnswerRecord`).
        who: a judge model, or a person.
        name: name of the judge or annotator.
        score: on the rubric's scale; None: no score was given.
        versus: id of the answer that it was compared with; None: it was judged alone.
        outcome: how this answer did in the comparison; None: undecided or not compared.
        words: the judge's explanation (unscored: what came instead of a verdict), or the person's comment.
        unscored: why a judge gave neither score nor winner; None: it gave one.
        rubric: name of the rubric.
    """

    answer: str
    who: Literal["judge", "people"]
    name: str
    score: float | None = None
    versus: str | None = None
    outcome: Outcome | None = None
    words: str = ""
    unscored: str | None = None
    rubric: str = ""

    def both_sides(self) -> Iterator[Opinion]:
        """This opinion and, for a comparison, the same opinion about the other answer."""
        yield self
        if self.versus is not None:
            turned = None if self.outcome is None else _TURNED[self.outcome]
            yield replace(self, answer=self.versus, versus=self.answer, outcome=turned)


def read_judgements(path: str | Path) -> list[Opinion]:
    """Read opinions of judge models from a file that `lifealign judge` wrote.

    Raises:
        JudgeError: no such file, or a line that is not a judgement; names the file and the line.
    """
    return [side for one in judgements.read_judgements(path) for side in _judgement(one).both_sides()]


def read_ratings(path: str | Path) -> list[Opinion]:
    """Read opinions of people from a file that `lifealign ratings export` wrote; rows that are only flagged have none.

    Raises:
        DataError: no such file, no row, or a row that is not a rating; names the file and the row.
    """
    return [side for row, where in _rows(path) for one in _rating(row, where) for side in one.both_sides()]


def _rows(path: str | Path) -> list[tuple[Record, str]]:
    rows = read_file(str(path))
    if not rows:
        raise DataError(f"{path}: no rows; export the ratings with `lifealign ratings export`")
    return [(row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]


def _judgement(found: Judgement) -> Opinion:
    pairwise = found.mode == "pairwise"
    return Opinion(
        found.id,
        "judge",
        found.judge,
        None if found.score is None else float(found.score),
        found.other if pairwise else None,
        None if found.winner is None else _OF_A[found.winner],
        found.words or found.detail,
        next((text for reason, text in REASONS.items() if reason == found.unscored), None),
        found.rubric,
    )


class RatingLine(Document):
    """What is read of a row of `lifealign ratings export`."""

    annotator: Name
    mode: Literal["pairwise", "absolute"]
    left: Name | None = None
    right: Name | None = None
    winner: Literal["left", "right", "tie"] | None = None
    answer: Name | None = None
    score: Number | None = None
    comment: Text | None = None
    rubric: Name | None = None


def _rating(row: Record, where: str) -> Iterator[Opinion]:
    _require(row, ("annotator", "mode"), where)
    line = check(RatingLine, row, where, DataError)
    common: dict[str, Any] = {
        "name": line.annotator,
        "words": line.comment or "",
        "rubric": line.rubric or "",
    }
    if line.mode == "pairwise":
        _require(row, ("left", "right"), where)
        if line.winner is not None:
            yield Opinion(str(line.left), "people", versus=str(line.right), outcome=_OF_A[line.winner], **common)
    elif line.score is not None:
        _require(row, ("answer",), where)
        yield Opinion(str(line.answer), "people", score=line.score, **common)


def _require(row: Record, names: Sequence[str], where: str) -> None:
    if missing := [name for name in names if row.get(name) is None]:
        raise DataError(f"{where}: missing {missing[0]!r}; got {', '.join(sorted(row))}")
