"""SD-LoRA: directions and magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lifealign.store.layout import ADAPTER, STATE
from lifealign.strategies.sdlora import direction
from support.growing import (
    SCALE,
    TASKS,
    Build,
    dense_logits,
    logits,
    modules,
)
from support.lives import learn, start

pytestmark = pytest.mark.usefixtures("one_thread")


def test_direction_by_hand() -> None:
    """||B|| = 5, ||A|| = 2."""
    b, a, size = direction(torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, -2.0]]))
    assert b.tolist() == [[pytest.approx(0.6)], [pytest.approx(0.8)]] and a.tolist() == [[0, -1]] and float(size) == 10
    zero, _, size = direction(torch.zeros(2, 1), torch.ones(1, 2))
    assert zero.tolist() == [[0], [0]] and float(size) == 0


def test_sdlora_adds_unit_directions_by_trained_magnitudes(config: Build) -> None:
    session, store = start(config("strategy.name=sdlora", "train.learning_rate=0.05", "train.epochs=2"))
    store = learn(session, store, *TASKS)
    adapters = [store.load_tensors(store.find(t.name), ADAPTER) for t in TASKS]
    deltas: list[dict[str, Tensor]] = []
    for k, adapter in enumerate(adapters):
        deltas.append({})
        for m in modules(adapter):
            a, b, size = adapter[f"{m}.lora_A"], adapter[f"{m}.lora_B"], adapters[2][f"{m}.magnitudes"][k]
            scale = float(a.norm() * b.norm()) if k < 2 else 1.0
            deltas[k][m] = SCALE * size * b @ a / scale
    torch.testing.assert_close(logits(session.model), dense_logits(*deltas), atol=1e-5, rtol=0)
    for m in modules(adapters[0]):
        ended, now = adapters[1][f"{m}.magnitudes"], adapters[2][f"{m}.magnitudes"]
        assert ended.shape == (2,) and now.shape == (3,)
        norm = float(adapters[1][f"{m}.lora_A"].norm() * adapters[1][f"{m}.lora_B"].norm())
        start_at = torch.tensor([float(ended[0]), float(ended[1]) * norm, 1.0])
        moved = (now - start_at).abs()
        assert float(moved.min()) > 1e-4 and float(moved.max()) < 0.25  # four steps of at most 0.05
        state = store.load_tensors(store.head, STATE)
        assert state[f"past/{m}.lora_A"].shape == (4, 32)
        assert float(state[f"past/{m}.lora_A"][2:].norm()) == pytest.approx(1, abs=1e-6)
