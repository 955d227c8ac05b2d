"""Small runs for the tests of EWC, SI, LwF and DER++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Message, Row
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import restore, snapshot
from lifealign.store.layout import ADAPTER
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from support.lives import TASKS, learn, start

Build = Callable[..., RunConfig]


def learnt(config: Build, *settings: str, tasks: int = 2) -> tuple[Session, MemoryStore]:
    session, store = start(config(*settings))
    return session, learn(session, store, *TASKS[:tasks])


def lines(store: MemoryStore, task: int) -> list[dict[str, Any]]:
    return list(store.load_lines(store.lineage()[task], "training.jsonl"))


def at(store: MemoryStore, task: int, stem: str = ADAPTER) -> dict[str, Tensor]:
    return dict(store.load_tensors(store.lineage()[task], stem))


def watched(session: Session, seen: Callable[[Step], None]) -> None:
    """Call `seen` after each optimizer step, after the strategy's own hook."""
    real = session.strategy.adjust_update

    def adjust_update(step: Step) -> None:
        real(step)
        seen(step)

    session.strategy.adjust_update = adjust_update  # type: ignore[method-assign]


def begun(config: Build, *settings: str) -> tuple[Session, MemoryStore, Any]:
    """A session in the second task, before its training; with the task's training set."""
    session, store = learnt(config, *settings, tasks=1)
    session.load(store, store.head)
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    return session, store, session.strategy.training_set(TASKS[1], StoreHistory(store))


def moved(session: Session, by: float = 0.2) -> None:
    """Every trained entry somewhere else, so that the policy is not the stored one."""
    generator = torch.Generator().manual_seed(5)
    restore(
        session.model,
        {n: t + by * torch.randn(t.shape, generator=generator) for n, t in snapshot(session.model).items()},
    )


def too_long(task: str) -> Row:
    return Row((Message("user", f"{task} " * 400),), "yes", "no", f"{task}.jsonl:99")
