"""Rows and tasks that a tiny model can learn, and word vectors that need no model."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifealign.data.tasks import Message, Row, Task


class HashedWords:
    """Stands for a sentence encoder where the wheel is not installed: texts that share words are alike."""

    width = 16

    def __call__(self, texts: Sequence[str]) -> Any:
        import torch

        found = torch.zeros(len(texts), self.width)
        for row, text in enumerate(texts):
            for word in ["", *re.findall(r"[a-z]+", text.lower())]:
                generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                found[row] += torch.randn(self.width, generator=generator)
        return torch.nn.functional.normalize(found, dim=-1)


def rows(task: str, count: int) -> tuple[Row, ...]:
    """Rows that a tiny model can learn to tell apart: the chosen answer names the task."""
    return tuple(
        Row(
            (Message("user", f"{task} question {i}?"),),
            f"{task} answer {i} is right",
            f"no idea of {i * 7 % 11} at all",
            f"{task}.jsonl:{i + 1}",
        )
        for i in range(count)
    )


def make_task(name: str, train: int = 8, test: int = 4, validation: int = 2) -> Task:
    every = rows(name, train + test + validation)
    return Task(name, every[:train], every[train : train + validation], every[train + validation :])


def write_two_files(directory: Path, count: int) -> Path:
    """Rows of two tasks, one.jsonl and two.jsonl, in a directory; returns it."""
    for name in ("one", "two"):
        lines = [json.dumps(row.to_json()) for row in rows(name, count)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines))
    return directory
