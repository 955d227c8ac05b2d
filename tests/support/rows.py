"""Rows and tasks that a tiny model can learn, and word vectors that need no model."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifealign.testing import tiny_rows as rows
from lifealign.testing import tiny_task as make_task

__all__ = ["HashedWords", "make_task", "rows", "write_two_files"]


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


def write_two_files(directory: Path, count: int) -> Path:
    """Rows of two tasks, one.jsonl and two.jsonl, in a directory; returns it."""
    for name in ("one", "two"):
        lines = [json.dumps(row.to_json()) for row in rows(name, count)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines))
    return directory
