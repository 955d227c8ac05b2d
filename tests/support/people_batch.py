"""Answers of two methods, and a browserless client, for the tests about ratings by people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifealign.data.answers import AnswerRecord, write_answers
from lifealign.data.tasks import Message
from lifealign.judging.people.batch import make_batch
from lifealign.judging.people.database import Ratings

EVIL = "<script>document.title = 'evil'</script> \u202edesrever\u202c \u200fשלום\u200f <img src=x onerror=alert(1)> ]]> {{ 7 * 7 }}"


def record(number: int, source: str, answer: str | None = None, task: str = "myths", **more: Any) -> AnswerRecord:
    """An answer to question `number`; what it says tells who gave it, so that tests can see which side is whose."""
    text = f"answer {number} of {source}" if answer is None else answer
    prompt = (Message("user", f"{task} question {number}?"),)
    more = {"reference": f"reference {number}", "rejected": f"rejected {number}", **more}
    return AnswerRecord.of(task, prompt, text, source=source, point="last", stage=6, **more)


def two_methods(count: int, tasks: Sequence[str] = ("myths",)) -> list[AnswerRecord]:
    return [record(i, source, task=task) for task in tasks for i in range(count) for source in ("ours", "theirs")]


def write(path: Path, records: Sequence[AnswerRecord]) -> Path:
    write_answers(path, records)
    return path


def ratings_of(
    path: Path, records: Sequence[AnswerRecord], people: Sequence[str] = ("ada",), overlap: float = 1.0, **more: Any
) -> Ratings:
    return Ratings.create(path, make_batch(records, **{"mode": "pairwise", **more}), people, overlap)


def hidden(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found, f"no field {name}"
    return found.group(1)
