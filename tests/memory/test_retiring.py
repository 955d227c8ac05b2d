"""Tasks superseded and withdrawn: what goes, what stays, and what every reader of the memory makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.memory.api import Memory
from lifealign.memory.history import StoreHistory
from lifealign.memory.recompose import Composer, stored_signatures
from lifealign.store.heldout import heldout
from lifealign.store.layout import ADAPTER, REPLAY, START, STATE, UPDATE
from support.rows import make_task

BREAD, STARS, MUSIC = (make_task(name, train=8, test=4, validation=2) for name in ("bread", "stars", "music"))
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def build(config: Build, tmp_path: Path) -> Callable[..., Memory]:
    def make(*settings: str) -> Memory:
        options = config(
            "train.learning_rate=0.03",
            "evaluate.before=false",
            "strategy.name=lifealign",
            "strategy.replay_share=0.5",
            *settings,
        )
        memory = Memory.create(tmp_path / "memory", options)
        for task in (BREAD, STARS):
            memory.learn(task)
        return memory

    return make


def adapter(memory: Memory, point: str, stem: str = ADAPTER) -> dict[str, torch.Tensor]:
    return memory._store.load_tensors(memory._store.find(point), stem)


def replayed(memory: Memory) -> list[str]:
    return [e.task for e in StoreHistory(memory._store).replay.exemplars]


def test_a_withdrawn_task_is_taken_out_of_weights_replay_and_scores(build: Any) -> None:
    memory = build()
    before = {p: p.read_bytes() for p in memory.path.rglob("*") if p.is_file() and "tasks" in p.parts}
    done = memory.withdraw("bread", note=" no longer true ")
    assert done.directory == "0003-withdraw-bread" and done.document["taken_out"] is True
    root, bread, stars, now = (adapter(memory, p) for p in ("base", "bread", "stars", "now"))
    for name in now:
        wanted = stars[name].double() - (bread[name].double() - root[name].double())
        assert torch.equal(now[name], wanted.float())
        assert torch.equal(adapter(memory, "now", UPDATE)[name], now[name] - stars[name])
    assert set(replayed(memory)) == {"stars"} and done.document["replay_rows"] == 4
    assert [t.name for t in heldout(memory._store)] == ["stars"]
    assert done.document["held_out_rows"] == {"validation": 2, "test": 4}
    assert all(p.read_bytes() == data for p, data in before.items()), "history stays as it was"
    assert memory.verify() == [] and memory.tasks() == ["stars"] and memory.retired() == {"bread": done.directory}
    assert memory.log()[-1]["note"] == "no longer true" and memory.log()[-1]["retires"] == ["bread"]
    assert memory.show("withdraw:bread")["retired"]["tasks"] == ["bread"]
