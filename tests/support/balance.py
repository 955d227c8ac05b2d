"""Small runs for the tests of CPPO and COPR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Row
from lifealign.memory.session import Session
from lifealign.store.writer import MemoryStore
from support.golden import golden_numbers
from support.rows import make_task

Build = Callable[..., RunConfig]
BREAD, STARS = (make_task(name, train=6, test=2) for name in ("bread", "stars"))


def golden(name: str) -> dict[str, Any]:
    return golden_numbers("strategies")[name]  # type: ignore[no-any-return]


def losses(store: MemoryStore) -> list[list[float]]:
    return [[line["loss"] for line in store.load_lines(m, "training.jsonl")] for m in store.lineage()[1:]]


def lengths(session: Session, rows: tuple[Row, ...]) -> Tensor:
    pairs, _ = session.encoder.encode(rows)
    return torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs]).float()
