"""The guard's questions as a task of inspect_ai: the model answers freely; right if the right choice stands in the answer.

See docs/how-to/export.md for the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

QUESTIONS = Path(__file__).resolve().parents[1] / "guard" / "questions.jsonl"


def sample(record: dict[str, Any]) -> Sample:
    """One row of the guard's file."""
    return Sample(input=record["question"], target=record["choices"][record["answer"]])


@task
def lifealign_guard() -> Task:
    """Share of answers that the right choice stands in."""
    return Task(dataset=json_dataset(str(QUESTIONS), sample), solver=generate(), scorer=includes())
