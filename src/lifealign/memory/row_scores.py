"""Scores of one task's held-out rows, one value per row, so that every interval can be computed later.

Preference scores compare with the base model (adapter off), whatever reference training used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lifealign.core.progress import Progress
from lifealign.data.tasks import Row
from lifealign.evaluation.text_metrics import floor_answers, score_answers
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.generate import Prefix, generate


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task at one point of the memory's life.

    Attributes:
        task: name.
        rows: metric -> one value per held-out row, in the rows' order; those of answers have as many as were generated.
        answers: the generated answers, as {"prompt", "answer", "passed", "scores"}; `passed` is None without a rule,
            `scores` has the text metrics' values.
        floors: trivial answer (`text_metrics.FLOORS`) -> metric -> values on the same rows as the answers.
        rows_sha256: content of the held-out rows, so that scores of other rows are not taken for these.
    """

    task: str
    rows: Mapping[str, Sequence[float]]
    answers: Sequence[Mapping[str, Any]] = ()
    rows_sha256: str = ""
    floors: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task,
            "rows": {k: list(v) for k, v in self.rows.items()},
            "answers": list(self.answers),
            "rows_sha256": self.rows_sha256,
            "floors": {floor: {k: list(v) for k, v in values.items()} for floor, values in self.floors.items()},
        }


def score_rows(policy: Tensor, reference: Tensor, pairs: Sequence[EncodedPair], beta: float) -> dict[str, list[float]]:
    """Per-row scores from summed log-probs.

    Args:
        policy: [N, 2] (chosen, rejected), nats, float32.
        reference: [N, 2], of the base model.
        pairs: the encoded rows, for their lengths.
        beta: reward per nat.

    Returns:
        accuracy: 1 where the implicit reward margin is > 0, 0.5 where it is 0 (policy == reference), else 0.
        margin: beta * (log-ratio of chosen - log-ratio of rejected).
        likelihood_accuracy: 1 where the chosen answer has the higher mean log-prob per token; no reference.
        nll: negative log-likelihood per token of the chosen answer.
    """
    length_N = torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs], dtype=torch.float64).reshape(-1, 2)
    ratio = policy.double() - reference.double()
    margin = beta * (ratio[:, 0] - ratio[:, 1])
    mean = policy.double() / length_N
    return {
        "accuracy": _wins(margin).tolist(),
        "margin": margin.tolist(),
        "likelihood_accuracy": _wins(mean[:, 0] - mean[:, 1]).tolist(),
        "nll": (-mean[:, 0]).tolist(),
    }


def _wins(difference: Tensor) -> Tensor:
    return (difference > 0).double() + 0.5 * (difference == 0).double()


@dataclass(frozen=True)
class AnswerScorer:
    """What is asked of a generated answer.

    Attributes:
        rule: true of an answer that shows the task's behaviour; None: the task has none.
        metrics: names of text metrics.
    """

    rule: Callable[[str], bool] | None = None
    metrics: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to ask."""
        return self.rule is not None or bool(self.metrics)

    def __call__(self, answers: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float]]:
        """Metric -> one value per answer, with each row's chosen answer as the reference."""
        scores = score_answers(self.metrics, answers, [row.chosen for row in rows])
        return ({"pass_rate": [float(self.rule(a)) for a in answers]} if self.rule else {}) | scores


def answer_rows(
    model: nn.Module,
    encoder: Encoder,
    rows: Sequence[Row],
    scorer: AnswerScorer,
    count: int,
    max_new_tokens: int,
    progress: Progress | None = None,
    title: str = "answers",
    prefix: Prefix | None = None,
) -> TaskScores:
    """Greedy answers to the prompts of the first `count` rows, what they score, and what trivial answers score.

    Args:
        model: with or without adapter.
        encoder: template and tokenizer.
        rows: held-out rows of one task; other rows' answers are drawn from all of them.
        scorer: what is asked of an answer.
        count: rows that are answered, at most.
        max_new_tokens: longest answer, tokens.
        progress: where to report.
        title: of the progress stage.
        prefix: see `generate.generate`.
    """
    asked = rows[:count]
    texts = generate(
        model,
        encoder,
        [r.prompt for r in asked],
        max_new_tokens=max_new_tokens,
        progress=progress,
        title=title,
        prefix=prefix,
    )
    scores = scorer(texts, asked)
    answers = [
        {
            "prompt": row.prompt[-1].content,
            "answer": text,
            "passed": bool(scores["pass_rate"][i]) if scorer.rule else None,
            "scores": {name: scores[name][i] for name in scorer.metrics},
        }
        for i, (row, text) in enumerate(zip(asked, texts, strict=True))
    ]
    floors = {name: scorer(trivial, asked) for name, trivial in floor_answers(asked, rows).items()}
    return TaskScores("", scores, answers, floors=floors)
