"""Dense oracles for methods that begin a new adapter for each task:
weights W + (alpha/r) sum_i c_i B_i A_i, added up from what the store holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lifealign.core.config import RunConfig
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from support.rows import make_task
from support.tiny import make_model

TASKS = [make_task(name, train=6, test=3) for name in ("bread", "stars", "music")]
IDS = torch.arange(3, 43)[None]
SCALE = 4 / 2  # alpha / r of the `config` fixture
Build = Callable[..., RunConfig]


def factors(store: MemoryStore, task: str) -> dict[str, Tensor]:
    """Stored A and B of a task's own adapter, wherever the method keeps them."""
    manifest = store.find(task)
    state = store.load_tensors(manifest, STATE)
    kept = {k.removeprefix("reading/"): v for k, v in state.items() if k.startswith("reading/")}
    return {**kept, **{k: v for k, v in store.load_tensors(manifest, ADAPTER).items() if ".lora_" in k}}


def modules(adapter: Mapping[str, Tensor]) -> list[str]:
    return sorted(n.removesuffix(".lora_A") for n in adapter if n.endswith(".lora_A"))


def dense_logits(*deltas: Mapping[str, Tensor]) -> Tensor:
    """Logits of the tiny base model with these matrices [O, I] by module added to its weights."""
    model = make_model()
    weights = dict(model.named_modules())
    for delta in deltas:
        for name, value in delta.items():
            weights[name].weight.data += value
    return logits(model)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def products(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {m: SCALE * adapter[f"{m}.lora_B"] @ adapter[f"{m}.lora_A"] for m in modules(adapter)}


def training(store: MemoryStore, task: str) -> list[dict[str, Any]]:
    return store.load_lines(store.find(task), "training.jsonl")


def second_start(session: Session, store: MemoryStore) -> dict[str, Tensor]:
    """What the second task starts from."""
    session.load(store, store.head)
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    return snapshot(session.model)
