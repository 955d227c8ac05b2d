"""Methods that train soft prompts before a frozen model (l2p, ready2blend): what they have in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import lifealign.training.loop
from lifealign.core.progress import NullProgress
from lifealign.memory.api import Memory, run_stream
from lifealign.memory.session import Session
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies.configure import read_config
from support.lives import learn, start
from support.prompts import L2P, READY, TASKS, Build, steps

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("settings", [L2P, READY], ids=["l2p", "ready2blend"])
def test_goes_on_from_a_checkpoint_bit_for_bit(
    settings: tuple[str, ...], config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*settings, "sft.epochs=1", "train.pairs_per_step=2", "strategy.reference=task_start")
    session, whole = start(config(*settings, f"memory={config().memory}-whole"))
    whole = learn(session, whole, *TASKS[:2])
    parts = config(*settings)
    session, store = start(parts)
    store = learn(session, store, TASKS[0])
    real, calls = lifealign.training.loop._step, 0

    def dies(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # three of SFT, then the third of the preference stage
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(lifealign.training.loop, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        learn(session, store, TASKS[1])
    monkeypatch.setattr(lifealign.training.loop, "_step", real)
    store = MemoryStore.open(parts.memory)
    store = learn(Session(parts, NullProgress()), store, TASKS[1])
    for stem in (ADAPTER, STATE):
        one, other = store.load_tensors(store.head, stem), whole.load_tensors(whole.head, stem)
        assert set(one) == set(other) and all(torch.equal(one[k], other[k]) for k in one)
    assert [line["loss"] for line in steps(store, 2)] == [line["loss"] for line in steps(whole, 2)]


@pytest.mark.parametrize("name", ["l2p", "ready2blend"])
def test_a_stream_is_learnt_scored_answered_and_found_again(name: str, tiny_dir: Path, tmp_path: Path) -> None:
    """Plain rows and a bfloat16 model, to have been there as well; the trained tensors are float32."""
    config = read_config(
        None,
        base={
            "memory": str(tmp_path / "memory"),
            "model": {"name": str(tiny_dir), "dtype": "bfloat16"},
            "data": {"max_length": 400},
            "strategy": {"name": name},
            "train": {"epochs": 1, "pairs_per_step": 2, "learning_rate": 5e-2, "shared_prefix": "never"},
            "evaluate": {"bootstrap": 5, "generations": 1, "max_new_tokens": 4, "unseen": True},
            "stream": {"planted": {"train_rows": 4, "validation_rows": 1, "test_rows": 2}, "order": [1, 2, 3]},
        },
    )
    memory = run_stream(config)
    assert not any(math.isnan(v) for row in memory.scores() for v in row)
    reopened = Memory.open(tmp_path / "memory")
    assert reopened.scores("margin") == memory.scores("margin")
    scored = reopened.evaluate(split="validation")
    assert set(scored.tasks) == {"data-json", "how-to-steps", "short-facts"}
    tensors = reopened._store.load_tensors(reopened._store.head, ADAPTER)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    answer = reopened.generate(["How do I boil an egg?"], max_new_tokens=4)
    assert len(answer) == 1 and answer == memory.generate(["How do I boil an egg?"], max_new_tokens=4)
