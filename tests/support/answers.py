"""Answers of a model at points of its life, written down by hand."""

from __future__ import annotations

from lifealign.data.answers import AnswerRecord
from lifealign.data.tasks import Message

POINTS = ("base", "one", "two", "three")


def life(
    question: str, passed: str, *, task: str = "one", source: str = "ours", answer: str = "answer"
) -> list[AnswerRecord]:
    """One prompt's answers at `POINTS`; + passed the rule, - failed, . nothing known."""
    return [
        AnswerRecord.of(
            task,
            [Message("user", question)],
            f"{answer} at {point}",
            source=source,
            point=point,
            stage=stage,
            reference="the chosen one",
            scores={} if sign == "." else {"pass_rate": float(sign == "+")},
        )
        for stage, (point, sign) in enumerate(zip(POINTS, passed, strict=True))
    ]
