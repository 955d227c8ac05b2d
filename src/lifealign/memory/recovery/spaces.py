"""The weights in which a task is recovered: the LoRA factors of a memory, or the merged matrices of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.consolidation.restoring import restorable
from lifealign.core.errors import ConfigError
from lifealign.memory.composer import Composer, stored_strategy
from lifealign.memory.recovery.config import Space
from lifealign.memory.recovery.points import Points
from lifealign.memory.routing import routes_prompts
from lifealign.memory.session import Session
from lifealign.model.adapters import adapter_off, causal_lm, restore, snapshot, trainable
from lifealign.store.heldout import without_rows
from lifealign.store.layout import ADAPTER, SLEEP
from lifealign.store.reader import MemoryReader
from lifealign.strategies import Strategy


def check_strategy(store: MemoryReader, points: Points, space: Space) -> None:
    """Refuse a memory that has no weights of this space, before its model is loaded.

    Raises:
        ConfigError: names the strategy, the reason, and what to do instead.
    """
    strategy, name = stored_strategy(store), store.config["strategy"]["name"]
    kind = type(strategy)
    if any(getattr(kind, hook) is not getattr(Strategy, hook) for hook in ("attach", "mount", "prefix", "select")):
        raise ConfigError(
            f"{store.path}: strategy {name} answers by more than one plain LoRA adapter, so there are no two sets of weights to "
            f"choose elements from; lifealign rollback, or generate --as-of {points.task}, gives the task as it was"
        )
    if space == "merged":
        return
    merged = "lifealign recover --space merged --out DIR writes a merged model with the task recovered"
    if routes_prompts(store, points.now):
        raise ConfigError(
            f"{store.path}: this memory routes its prompts: those of {points.task!r} are answered by its own update, which is stored as "
            f"it was learnt, so no later task took anything from it. For a model of one set of weights, {merged}"
        )
    if f"{SLEEP}.safetensors" in points.now.files:
        raise ConfigError(f"{store.path}: {points.now.directory} answers by the adapter of its sleep; {merged}")
    if not strategy.sums_updates or strategy.update_space == "delta_w":
        raise ConfigError(
            f"{store.path}: strategy {name} splits its factors anew after each task, so their elements at two points do not "
            f"belong together; {merged}"
        )


@dataclass
class AdapterSpace:
    """The LoRA factors A and B.

    Attributes:
        weights: the model's own parameters, with the present values.
        earlier: values that still know the task.
    """

    model: nn.Module
    weights: dict[str, nn.Parameter]
    earlier: dict[str, Tensor]

    @contextmanager
    def running(self) -> Iterator[PreTrainedModel]:
        """The model, to be run with these weights."""
        yield causal_lm(self.model)

    def finish(self) -> None:
        """Leave the model ready for use."""


@dataclass
class MergedSpace(AdapterSpace):
    """The matrices W + scale B A of the adapted modules; the adapter itself is zero."""

    @contextmanager
    def running(self) -> Iterator[PreTrainedModel]:
        """The model without its adapter."""
        with adapter_off(self.model):
            yield causal_lm(self.model)

    def finish(self) -> None:
        """Take the matrices out of training."""
        for weight in self.weights.values():
            weight.requires_grad_(False)


def make_space(session: Session, store: MemoryReader, points: Points, space: Space) -> AdapterSpace | MergedSpace:
    """The weights of a session that holds the present ones."""
    now, earlier = snapshot(session.model), _earlier(store, points)
    if space == "adapter":
        own = trainable(session.model)
        names = restorable(own)
        device = session.accelerator.device
        return AdapterSpace(session.model, {n: own[n] for n in names}, {n: earlier[n].to(device) for n in names})
    session.model.float()
    restore(session.model, earlier)
    before = _merged(session.model)
    restore(session.model, now)
    after = _merged(session.model)
    restore(session.model, {n: torch.zeros_like(t) if n.endswith(".lora_B") else t for n, t in now.items()})
    modules = dict(session.model.named_modules())
    weights: dict[str, nn.Parameter] = {}
    for name in restorable(after):
        module: Any = modules[name]
        weights[name] = module.get_base_layer().weight
        weights[name].data.copy_(after[name])
        weights[name].requires_grad_(True)
    return MergedSpace(session.model, weights, {n: before[n] for n in weights})


def _earlier(store: MemoryReader, points: Points) -> Mapping[str, Tensor]:
    """The adapter that knows the task: of its commit, or where prompts are routed that of its update alone."""
    if not routes_prompts(store, points.now):
        return store.load_tensors(points.earlier, ADAPTER)
    composer = Composer(store, points.now)
    wanted = {store.find(points.task).name, *without_rows(store, points.now)}
    return composer({name: float(name in wanted) for name in composer.names}).adapter


@torch.no_grad()
def _merged(model: nn.Module) -> dict[str, Tensor]:
    """Module -> W + scale B A of every adapted module."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "lora_A"):
            layer: Any = module
            found[name] = layer.get_base_layer().weight + layer.get_delta_weight("default")
    return found
