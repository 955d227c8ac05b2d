"""Scores of one task's held-out rows, one value per row, so that every interval can be computed later.

Preference scores compare with the base model (adapter off), whatever reference training used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lifealign.data.prompts import decoding_of, finish_of
from lifealign.data.tasks import Message, Row
from lifealign.evaluation import catalog
from lifealign.evaluation.answer_scores import floor_answers, score_answers
from lifealign.evaluation.metrics import Array
from lifealign.evaluation.outside import values_of
from lifealign.evaluation.pair_scores import PairLogProbs
from lifealign.evaluation.score import SCORES, Score
from lifealign.model.encoding import EncodedPair, Encoder


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task at one point of the memory's life.

    Attributes:
        task: name.
        rows: score -> one value per held-out row, in the rows' order; scores of answers have as many as were generated. None for a
            row for which the score is not defined, as accuracy is not for a demonstration.
        answers: the generated answers, as {"prompt", "answer", "passed", "scores"}, `finish`, "length", if it was cut, and `decoding`, how a decoder chose it;
            `passed` is None without a rule, `scores` has the text metrics' values.
        floors: trivial answer (`answer_scores.FLOORS`) -> score -> values on the same rows as the answers.
        rows_sha256: hash of the held-out rows' content, so that scores of other rows are not mistaken for these.
    """

    task: str
    rows: Mapping[str, Sequence[float | None]]
    answers: Sequence[Mapping[str, Any]] = ()
    rows_sha256: str = ""
    floors: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task,
            "rows": {k: list(v) for k, v in self.rows.items()},
            "answers": list(self.answers),
            "rows_sha256": self.rows_sha256,
            "floors": {floor: {k: list(v) for k, v in values.items()} for floor, values in self.floors.items()},
        }


def score_rows(
    policy: Tensor,
    reference: Tensor,
    pairs: Sequence[EncodedPair],
    beta: float,
    names: Sequence[str] = (),
    rows: Sequence[Row] = (),
    point: float = 0.0,
) -> dict[str, list[float | None]]:
    """Compute every built-in score that depends on log-probs only, and those named: score -> one value per row.

    A score that is defined for none of the rows is left out. Scores from outside see the pairs alone.

    Args:
        policy: [N, 2] (chosen, rejected), summed over the answer's tokens, nats.
        reference: [N, 2], of the base model.
        pairs: the encoded rows, for their lengths.
        beta: reward per nat.
        names: scores from outside.
        rows: the rows of the pairs; scores from outside may read them.
        point: KTO's reference point of these rows, nats.

    Raises:
        ConfigError: see `outside.values_of`.
    """
    tokens = torch.tensor([[p.chosen_tokens, p.rejected_tokens] for p in pairs], dtype=torch.float64).reshape(-1, 2)
    values = policy.detach().double().numpy(), reference.detach().double().numpy(), tokens.numpy()
    logps = PairLogProbs(*values, beta, tuple(rows), point)
    whole = logps.has("pair")
    own = (values[0][whole], values[1][whole], values[2][whole])
    of_pairs = PairLogProbs(*own, beta, tuple(row for row in rows if row.kind == "pair"))

    def compute(score: Score) -> Array:
        assert score.of_pairs is not None, score.label
        return score.of_pairs(of_pairs)

    ours = {name: found.of_pairs(logps).tolist() for name, found in catalog.BUILT_IN.items() if found.of_pairs}
    found = {name: [None if math.isnan(value) else value for value in values] for name, values in ours.items()}
    for name in names if whole.any() else ():
        given = iter(values_of(SCORES, name, compute, int(whole.sum())))
        found[name] = [next(given) if is_pair else None for is_pair in whole]
    return {name: values for name, values in found.items() if not values or set(values) != {None}}


@dataclass(frozen=True)
class AnswerScorer:
    """Scores generated answers by a rule and text metrics.

    Attributes:
        rule: true for an answer that shows the task's behaviour; None: the task has no rule.
        metrics: names of text metrics.
    """

    rule: Callable[[str], bool] | None = None
    metrics: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to score."""
        return self.rule is not None or bool(self.metrics)

    def __call__(self, answers: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float | None]]:
        """Score -> one value per answer, with each row's chosen answer as the reference; None for a row that has none."""
        there = [i for i, row in enumerate(rows) if row.chosen]
        given = score_answers(self.metrics, [answers[i] for i in there], [rows[i].chosen for i in there])
        found: dict[str, list[float | None]] = {}
        if self.rule:
            found["pass_rate"] = [float(self.rule(answer)) for answer in answers]
        for name, values in given.items() if there else ():
            found[name] = [None] * len(rows)
            for i, value in zip(there, values, strict=True):
                found[name][i] = value
        return found


def answer_rows(
    answer: Callable[[Sequence[Sequence[Message]], Sequence[bool]], Sequence[str]],
    encoder: Encoder,
    rows: Sequence[Row],
    scorer: AnswerScorer,
    count: int,
) -> TaskScores:
    """Greedy answers to the prompts of the first `count` rows, their scores, and the scores of trivial answers.

    Args:
        answer: answers prompts; the second argument is `reasons` of `generate.generate`.
        encoder: template and tokenizer.
        rows: held-out rows of one task; other rows' answers are drawn from all of them.
        scorer: how answers are scored.
        count: largest number of rows to answer.
    """
    rows = [encoder.as_learnt(row) for row in rows]
    asked = rows[:count]
    texts = answer([r.prompt for r in asked], [encoder.reasons(row) for row in asked])
    scores = scorer(texts, asked)
    answers = [
        {
            "prompt": row.prompt[-1].content,
            "answer": str(text),
            **finish_of(text),
            **decoding_of(text),
            "passed": bool(scores["pass_rate"][i]) if scorer.rule else None,
            "scores": {m: scores[m][i] for m in scorer.metrics if m in scores and scores[m][i] is not None},
        }
        for i, (row, text) in enumerate(zip(asked, texts, strict=True))
    ]
    floors = {name: scorer(trivial, asked) for name, trivial in floor_answers(asked, rows).items()}
    return TaskScores("", scores, answers, floors=floors)
