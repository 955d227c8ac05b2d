"""Single-task learning: every task as if it were the first."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lifealign.memory.api import Memory
from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER
from support.growing import (
    TASKS,
    Build,
    dense_logits,
    logits,
    training,
)
from support.lives import learn, start

pytestmark = pytest.mark.usefixtures("one_thread")


def test_single_learns_each_task_as_if_it_were_the_first(config: Build, tmp_path: Path) -> None:
    session, store = start(config("strategy.name=single", f"memory={tmp_path / 'stream'}"))
    store = learn(session, store, *TASKS)
    for task in TASKS:
        other, alone = start(config("strategy.name=sequential", f"memory={tmp_path / task.name}"))
        alone = learn(other, alone, task)
        a, b = store.load_tensors(store.find(task.name), ADAPTER), alone.load_tensors(alone.head, ADAPTER)
        assert all(torch.equal(a[n], b[n]) for n in b)
        session.strategy.select(session.model, task.name)
        assert all(torch.equal(t, b[n]) for n, t in snapshot(session.model).items())
        assert training(store, task.name)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    session.strategy.select(session.model, "bread")
    session.strategy.select(session.model, None)
    assert all(torch.equal(t, b[n]) for n, t in snapshot(session.model).items())  # the latest
    session.strategy.select(session.model, "unknown")
    torch.testing.assert_close(logits(session.model), dense_logits(), atol=1e-6, rtol=0)


def test_single_forgets_nothing_and_passes_nothing_on(config: Build, tmp_path: Path) -> None:
    settings = ("strategy.name=single", "train.learning_rate=0.05", "evaluate.unseen=true")
    memory = Memory.create(tmp_path / "memory", config(*settings))
    for task in TASKS:
        memory.learn(task)
    table = memory.scores("margin")
    assert table[0][0] == table[1][0] == table[2][0] != 0 and table[1][1] == table[2][1] != 0
    assert memory.summary()["accuracy"]["bwt"]["value"] == 0


def test_single_keeps_the_order_of_more_than_ten_tasks(config: Build) -> None:
    session, _ = start(config("strategy.name=single"))
    names = [f"task-{i}" for i in range(12)]
    one = snapshot(session.model)
    state = {f"{i}/{name}/{k}": v + i for i, name in enumerate(names) for k, v in one.items()}
    session.strategy.load_state_dict(dict(sorted(state.items())))
    session.strategy.select(session.model, None)
    assert all(torch.equal(t, one[n] + 11) for n, t in snapshot(session.model).items())
    assert list(session.strategy.state_dict()) == list(state)
