"""Small runs for the tests of l2p and ready2blend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Task
from lifealign.memory.session import Session
from lifealign.store.writer import MemoryStore
from support.rows import make_task

Build = Callable[..., RunConfig]
BREAD, STARS, MUSIC = (make_task(name, train=6, test=2) for name in ("bread-baking", "stars", "music"))
TASKS = [replace(BREAD, requirement="Say how bread is baked."), STARS, MUSIC]


def steps(store: MemoryStore, index: int) -> list[dict[str, Any]]:
    return store.load_lines(store.lineage()[index], "training.jsonl")


def dpo(session: Session, task: Task, policy: Tensor) -> Tensor:
    """-log sigmoid(0.1 h) [N] of the training rows against the base model without any prompt."""
    pairs, _ = session.encoder.encode(task.train)
    h = policy - session.view.logps(pairs, base=True, title="reference")
    return -F.logsigmoid(0.1 * (h[:, 0] - h[:, 1]))


L2P = ("strategy.name=l2p", "strategy.pool=6", "strategy.length=2", "strategy.top_k=2", "strategy.key_pull=1.0")
READY = ("strategy.name=ready2blend", "strategy.width=8", "train.pairs_per_step=6", "train.warmup=0")
