"""People's ratings as rows to learn from: the answer that most people prefer against the other. No torch, no web server."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.answers import AnswerRecord
from lifealign.judging.people.batch import Question
from lifealign.judging.people.database import Ratings
from lifealign.judging.people.export import gold_ok, outcome

EQUAL = "both answers have the same text"
FLAGGED = "flagged by an annotator"
UNRATED = "not rated by anybody"
NO_MAJORITY = "a tie, or no answer chosen by more than half"
TOO_FEW = "less agreement than asked for"
ALONE = "fewer than two answers to the prompt have a score"


@dataclass(frozen=True)
class Exported:
    """Rows made of ratings.

    Attributes:
        rows: prompt, chosen and rejected as messages, and the task of the prompt; of scores, all answers with their mean scores.
        left_out: reason -> number of questions (of scores: of prompts) that made no row.
        people: annotators who were left out, because they got too few gold questions right.
        held_out: tasks from whose held-out rows the prompts come.
    """

    rows: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    people: tuple[str, ...]
    held_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the rows."""
        return {
            "rows": len(self.rows),
            "left_out": dict(self.left_out),
            "people_left_out": list(self.people),
            "held_out": list(self.held_out),
        }

    def lines(self) -> list[str]:
        """What became no row, and what to know before learning the others."""
        lines = [f"left out {count}: {reason}" for reason, count in self.left_out.items()]
        if self.people:
            lines.append(f"annotators left out: {', '.join(self.people)}")
        if self.held_out:
            lines.append(
                f"the prompts are held-out rows of {', '.join(self.held_out)}; after learning them, the scores of these "
                "tasks are no longer on unseen prompts"
            )
        return lines


def pair_rows(ratings: Ratings, min_agreement: float | None = None, min_gold: float = 0.0) -> Exported:
    """Rows of a batch: of comparisons a pair for each question with a majority, of scores the answers to each prompt.

    An answer must be chosen by more than half of those who judged the question, ties included. Gold questions make no row,
    nor do questions that somebody flagged.

    Args:
        ratings: the batch with its ratings.
        min_agreement: smallest share of the judged ratings for the chosen answer, 0 to 1; None: more than half.
        min_gold: smallest share of correct gold questions, 0 to 1; annotators below it are left out.

    Raises:
        ConfigError: `min_agreement` for a batch of scores, which has no majority.
        DataError: no row is left; gives the reasons.
    """
    if ratings.mode == "absolute" and min_agreement is not None:
        raise ConfigError("--min-agreement has no effect on scores: it is a share of votes between two answers")
    held = ratings.held()
    gold: dict[str, list[bool]] = defaultdict(list)
    for name, assignment, rating, _ in held:
        ok = gold_ok(assignment, rating)
        if ok is not None:
            gold[name].append(ok)
    people = tuple(sorted(name for name, right in gold.items() if fmean(right) < min_gold))
    votes: dict[str, list[float]] = defaultdict(list)
    flagged = set()
    for name, assignment, rating, _ in held:
        key = assignment.question.key
        if rating.flag:
            flagged.add(key)
        if rating.judged and name not in people:
            votes[key].append(outcome(assignment, rating) if rating.score is None else float(rating.score))
    asked = [question for question in ratings.questions() if question.gold is None]
    left: Counter[str] = Counter()
    if equal := len(ratings.equal()):
        left[EQUAL] = equal
    rated = []
    for question in asked:
        if question.key in flagged or not votes[question.key]:
            left[FLAGGED if question.key in flagged else UNRATED] += 1
        else:
            rated.append(question)
    make = _preferred if ratings.mode == "pairwise" else _scored
    rows = make(rated, votes, min_agreement or 0.0, left)
    if not rows:
        reasons = "".join(f"\n  {count}: {reason}" for reason, count in left.items())
        raise DataError(f"{ratings.path}: no rating makes a row{':' if reasons else ''}{reasons}")
    held_out = dict.fromkeys(q.a.task for q in rated if q.a.reference is not None)
    return Exported(tuple(rows), dict(left), people, tuple(held_out))


def _preferred(
    questions: Sequence[Question], votes: Mapping[str, Sequence[float]], least: float, left: Counter[str]
) -> list[dict[str, Any]]:
    rows = []
    for question in questions:
        given = votes[question.key]
        shares = given.count(1.0) / len(given), given.count(0.0) / len(given)
        if max(shares) <= 0.5 or max(shares) < least:
            left[NO_MAJORITY if max(shares) <= 0.5 else TOO_FEW] += 1
            continue
        assert question.b is not None
        chosen, rejected = (question.a, question.b) if shares[0] > shares[1] else (question.b, question.a)
        rows.append(
            {
                **_prompt(chosen),
                "chosen": [{"role": "assistant", "content": chosen.answer}],
                "rejected": [{"role": "assistant", "content": rejected.answer}],
                "task": chosen.task,
            }
        )
    return rows


def _scored(
    questions: Sequence[Question], votes: Mapping[str, Sequence[float]], least: float, left: Counter[str]
) -> list[dict[str, Any]]:
    items: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        items[question.a.item, question.rubric].append(question)
    rows = []
    for several in items.values():
        scores = {question.a.answer: fmean(votes[question.key]) for question in several}
        if len(scores) < 2:
            left[ALONE] += 1
            continue
        answers = {"responses": list(scores), "scores": list(scores.values())}
        rows.append({**_prompt(several[0].a), **answers, "task": several[0].a.task})
    return rows


def _prompt(answer: AnswerRecord) -> dict[str, Any]:
    return {"prompt": [{"role": turn.role, "content": turn.content} for turn in answer.prompt]}
