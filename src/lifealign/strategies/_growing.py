"""Shared by methods that add a new adapter for each task and keep the earlier ones, frozen, beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import concatenated, fresh_factors, restore, set_past, trainable
from lifealign.training.strategy import History, Strategy


def joined(past: Mapping[str, Tensor], newest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two sums of products as one: A [K, I] and A' [K', I] become [K + K', I], B [O, K + K']; `past` may be empty."""
    return {
        name: torch.cat([past[name], new], 0 if name.endswith(".lora_A") else 1) if past else new
        for name, new in newest.items()
    }


class Growing(Strategy):
    """W0 + (alpha/r) (B_t A_t + sum_{i<t} B_i A_i), of which the current task trains the first product.

    The state holds the earlier products side by side, `past/<module>.lora_A` [(t-1) R, I] and `past/<module>.lora_B`.
    """

    sums_updates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._past: dict[str, Tensor] = {}

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Move HEAD's adapter to the past and put a new one, which changes nothing yet, in its place."""
        if history.tasks:
            self._past = joined(self._past, self._finished(history))
            self.mount(model)
            restore(model, self._fresh(model, history))

    def state_dict(self) -> dict[str, Tensor]:
        """The products of earlier tasks."""
        return {f"past/{name}": tensor for name, tensor in self._past.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._past = {name.removeprefix("past/"): t for name, t in state.items() if name.startswith("past/")}

    def mount(self, model: nn.Module) -> None:
        """Put the products of earlier tasks beside the adapter."""
        set_past(model, self._past, self.lora)

    def to_peft(self, model: nn.Module) -> nn.Module:
        """One adapter of rank t r."""
        return concatenated(model)

    def _finished(self, history: History) -> Mapping[str, Tensor]:
        """The factors that HEAD's task leaves behind."""
        return history.adapter()

    def _fresh(self, model: nn.Module, history: History) -> dict[str, Tensor]:
        """Start of a task: A newly drawn for each task, B zero."""
        digest = hashlib.sha256(f"{self.seed}|{len(history.tasks)}".encode()).digest()
        shapes = {name: tuple(p.shape) for name, p in trainable(model).items()}
        return fresh_factors(shapes, int.from_bytes(digest[:4], "big"))
