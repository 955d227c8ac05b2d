"""What learning a task would take, told before it is learnt, from the rows and from what earlier tasks took; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifealign.core.config import RunConfig
from lifealign.core.progress import duration
from lifealign.data.tasks import Row, Task
from lifealign.store.layout import HEAD, REPLAY, TRAINING
from lifealign.store.reader import MemoryReader

CHARACTERS_PER_TOKEN = 4
"""Of English text with a common tokenizer; other languages have fewer."""


@dataclass(frozen=True)
class Estimate:
    """What learning a task would take.

    Attributes:
        rows: split -> rows of the task.
        replayed: rows of earlier tasks that the memory keeps, at most all of which are replayed.
        tokens: of the training rows, by their characters.
        steps: optimizer steps with all kept rows replayed.
        seconds: training time by that of the newest task here; None: nothing was learnt here yet.
        bytes: of the commit, by that of the newest task here; None: nothing was learnt here yet.
        source: directory of the task that time and size are taken from; None: nothing was learnt here yet.
    """

    rows: dict[str, int]
    replayed: int
    tokens: int
    steps: int
    seconds: float | None
    bytes: int | None
    source: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Lines for people; each says what it is taken from."""
        kept = f", and up to {self.replayed} kept rows of earlier tasks" if self.replayed else ""
        held = ", ".join(f"{count} {split}" for split, count in self.rows.items() if split != "train" and count)
        lines = [
            "dry run: nothing is learnt",
            f"rows: {self.rows['train']} to train on{kept}; held out: {held or 'none'}",
            f"tokens: about {self.tokens:,} in the training rows, at {CHARACTERS_PER_TOKEN} characters each",
            f"steps: {self.steps:,} at most",
        ]
        if self.seconds is None or self.bytes is None:
            return [*lines, "time and disk space: not known before a first task was learnt here"]
        return [
            *lines,
            f"training time: about {duration(self.seconds)}, by the steps of {self.source}; scoring comes on top",
            f"disk space: about {self.bytes / 1e6:.1f} MB, as {self.source} takes",
        ]


def estimate(task: Task, memory: Path, config: RunConfig) -> Estimate:
    """What learning a task into a memory would take; the memory need not exist.

    Args:
        task: its rows.
        memory: directory.
        config: with the settings for this task.
    """
    store = MemoryReader.open(memory) if (memory / HEAD).exists() else None
    learnt = [m for m in store.lineage()[1:] if TRAINING in m.files and "seconds" in m.meta] if store else []
    replayed = sum(1 for _ in store.load_lines(store.head, REPLAY)) if store and REPLAY in store.head.files else 0
    size = config.train.pairs_per_step
    epochs = config.train.epochs + config.sft.epochs
    steps = math.ceil((len(task.train) + replayed) / size) * epochs
    seconds = last = None
    if store and learnt:
        done = len(store.load_lines(learnt[-1], TRAINING))
        seconds = learnt[-1].meta["seconds"] / done * steps if done else None
        last = learnt[-1].directory
    sizes = {entry["directory"]: entry["bytes"] for entry in store.log()} if store else {}
    return Estimate(
        {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        replayed,
        sum(map(_characters, task.train)) // CHARACTERS_PER_TOKEN,
        steps,
        seconds,
        sizes.get(last) if last else None,
        last,
    )


def _characters(row: Row) -> int:
    """Of all texts that are read: the prompt once for each answer, as it is without shared prefixes."""
    answers = [text for text in (row.chosen, row.rejected) if text]
    return len(answers) * sum(len(turn.content) for turn in row.prompt) + sum(map(len, answers))
