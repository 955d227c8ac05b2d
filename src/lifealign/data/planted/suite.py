"""The embedded planted suite: six domains, one behaviour each, scored by rules. Built from `planted.json`.

Both answers of a row carry the same content; the chosen one shows its task's behaviour, the rejected one that of
another task. Each topic gives five rows, one for each other behaviour, so over the suite every behaviour is chosen as
often as it is rejected, and only prompt and behaviour together tell which answer is preferred.
See docs/explanation/planted-suite.md.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.planted.rules import CHECKERS, TASKS
from lifealign.data.planted.voice import Split, Topic, Voice
from lifealign.data.tasks import DataReport, Message, Row, Task, TaskStream, as_feedback

__all__ = ["CHECKERS", "TASKS", "planted_stream"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# The topics of a task go to the splits in this pattern: 36 / 12 / 12 of 60.
_PATTERN: tuple[Split, ...] = ("train", "train", "test", "train", "validation")
_MAX_PIECES = 45
_DRAWS = 1000


def _lengths(text: str) -> tuple[int, int, int]:
    """Characters, words, and pieces: words and runs of marks, which is close to the number of tokens."""
    return len(text), len(text.split()), len(re.findall(r"\w+|[^\w\s]+", text))


def _answers(voice: Voice, topic: Topic, other: str, longer: bool) -> tuple[str, str]:
    """Draw (chosen, rejected) until chosen is the longer answer (or the shorter one) in characters, words and pieces.

    If no draw meets all three, use the first that meets characters and words, else the first of all.
    """
    spare: tuple[str, str] | None = None
    spare_holds = False
    for _ in range(_DRAWS):
        chosen, rejected = voice.render(topic, topic.task), voice.render(topic, other)
        holds = [a > b if longer else a < b for a, b in zip(_lengths(chosen), _lengths(rejected), strict=True)]
        if spare is not None and not all(holds) and (spare_holds or not all(holds[:2])):
            continue
        if max(_lengths(chosen)[2], _lengths(rejected)[2]) > _MAX_PIECES:
            continue
        if not (CHECKERS[topic.task](chosen) and CHECKERS[other](rejected)):
            continue  # a short sentence may have come out too long
        if all(holds):
            return chosen, rejected
        spare, spare_holds = (chosen, rejected), all(holds[:2])
    assert spare is not None, (topic, other)
    return spare


@functools.cache
def _content() -> Any:
    return json.loads(resources.files("lifealign.data.planted").joinpath("planted.json").read_text(encoding="utf-8"))


@functools.cache
def _rows(task: str, split: Split) -> tuple[tuple[str, bool, Row], ...]:
    """All rows of one split in file order, each with its rejected behaviour and whether chosen is the longer answer.

    They depend only on the package, so they are drawn once per process.
    """
    content = _content()
    rng = random.Random(f"planted/{task}/{split}")
    voice = Voice(content["wordings"], rng)
    others = [name for name in TASKS if name != task]
    rows: list[tuple[str, bool, Row]] = []
    for index, entry in enumerate(content["topics"][task]):
        if _PATTERN[index % len(_PATTERN)] != split:
            continue
        topic = Topic.from_entry(task, entry)
        prompts = voice.prompts(topic, len(others))
        for place, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
            longer = (len(rows) // len(others) + place) % 2 == 0
            chosen, rejected = _answers(voice, topic, other, longer)
            source = f"planted/{task}/{split}:{len(rows) + 1}"
            row = Row((Message("user", prompt),), chosen, rejected, source)
            rows.append((other, len(chosen) > len(rejected), row))
    return tuple(rows)


def _take(rows: Sequence[tuple[str, bool, Row]], count: int | None, where: str, seed: int) -> tuple[Row, ...]:
    """A seeded subset in seeded order that balances the rejected behaviours and the lengths."""
    if count is None:
        count = len(rows)
    if not 0 <= count <= len(rows):
        raise ConfigError(f"planted suite, {where}: {count} rows requested; allowed: 0 to {len(rows)}")
    rng = random.Random(f"planted/{where}/{seed}")
    strata: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for other, longer, row in rows:
        strata[other, longer].append(row)
    keys = sorted(strata)
    rng.shuffle(keys)
    for key in keys:
        rng.shuffle(strata[key])
    # One row of each stratum in turn, so that any count is balanced to within one row if the strata are.
    turns = [strata[key][turn] for turn in range(len(rows)) for key in keys if turn < len(strata[key])]
    taken = turns[:count]
    rng.shuffle(taken)
    return tuple(taken)


def planted_stream(
    train_rows: int | None = None,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 0,
    unpaired: bool = False,
) -> TaskStream:
    """The six planted tasks in the order of `TASKS`.

    The full set of rows is fixed; the seed decides only which rows a smaller count takes, and their order.

    Args:
        train_rows: rows per task, 0 to 180; None takes all.
        validation_rows: rows per task, 0 to 60; None takes all.
        test_rows: rows per task, 0 to 60; None takes all.
        seed: any integer; equal arguments give equal streams.
        unpaired: split each training pair into two rows of feedback on one answer, so that a task has twice as many.

    Returns:
        The stream ``planted``; each task's checker is its own name.

    Raises:
        ConfigError: a number of rows is out of range.
    """
    tasks = []
    for name in TASKS:
        taken: dict[str, tuple[Row, ...]] = {}
        for split, count in zip(SPLITS, (train_rows, validation_rows, test_rows), strict=True):
            taken[split] = _take(_rows(name, split), count, f"{name}/{split}", seed)
        if unpaired:
            taken["train"] = as_feedback(taken["train"])
        total = sum(map(len, taken.values()))
        report = DataReport(source=f"planted/{name}", read=total, kept=total)
        requirement = _content()["requirements"][name]
        tasks.append(
            Task(name, *(taken[split] for split in SPLITS), checker=name, reports=(report,), requirement=requirement)
        )
    return TaskStream("planted", tuple(tasks))
