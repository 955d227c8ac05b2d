"""Scores of one task's held-out rows, one value per row, so that every interval can be computed later.

Preference scores compare with the base model (adapter off), whatever reference training used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lifealign.data import EncodedPair, Encoder
from lifealign.generate import Prefix, generate
from lifealign.progress import Progress
from lifealign.tasks import Row


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task at one point of the memory's life.

    Attributes:
        task: name.
        rows: metric -> one value per held-out row, in the rows' order; `pass_rate` has as many as were generated.
        answers: the generated answers behind `pass_rate`, as {"prompt", "answer", "passed"}.
        rows_sha256: content of the held-out rows, so that scores of other rows are not taken for these.
    """

    task: str
    rows: Mapping[str, Sequence[float]]
    answers: Sequence[Mapping[str, Any]] = ()
    rows_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task,
            "rows": {k: list(v) for k, v in self.rows.items()},
            "answers": list(self.answers),
            "rows_sha256": self.rows_sha256,
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


def answer_rows(
    model: nn.Module,
    encoder: Encoder,
    rows: Sequence[Row],
    checker: Callable[[str], bool],
    max_new_tokens: int,
    progress: Progress | None = None,
    title: str = "answers",
    prefix: Prefix | None = None,
) -> list[dict[str, Any]]:
    """Greedy answers to the rows' prompts, each with what the rule says of it."""
    texts = generate(
        model,
        encoder,
        [r.prompt for r in rows],
        max_new_tokens=max_new_tokens,
        progress=progress,
        title=title,
        prefix=prefix,
    )
    return [
        {"prompt": row.prompt[-1].content, "answer": text, "passed": checker(text)}
        for row, text in zip(rows, texts, strict=True)
    ]
