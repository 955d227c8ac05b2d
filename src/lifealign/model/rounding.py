"""How far a model's own rounding moves log-probs: forwards in float32 to compare with, and rows in another padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lifealign.model.packing import Pack


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32: each module gets its weights in float32 while it runs, one module at a time."""
    handles = []
    for module in model.modules():
        whole = hasattr(module, "lora_A")  # PEFT's layers read the types of weights below them before they call these
        own = [p for p in module.parameters(recurse=whole) if p.is_floating_point() and p.dtype.itemsize < 4]
        if own:
            handles += _hooks(module, own)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(module: nn.Module, own: list[nn.Parameter]) -> list[Any]:
    kept: list[list[Tensor]] = []

    def before(*_: Any) -> None:
        kept.append([p.data for p in own])
        for parameter in own:
            parameter.data = parameter.data.float()

    def after(*_: Any) -> None:
        for parameter, data in zip(own, kept.pop(), strict=True):
            parameter.data = data

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def widened(pack: Pack, columns: int) -> Pack:
    """A plain batch with more columns of padding at the right."""
    assert pack.mask is not None
    rows, width = pack.input_ids.shape
    return replace(
        pack,
        input_ids=F.pad(pack.input_ids, (0, columns)),
        mask=F.pad(pack.mask, (0, columns)),
        position_ids=torch.arange(width + columns).expand(rows, width + columns),
        source_T=pack.source_T // width * (width + columns) + pack.source_T % width,
    )


def rms(difference_T: Tensor) -> float:
    """Root mean square, which weighs the few tokens that a leak reaches more than a mean does."""
    return float(difference_T.double().pow(2).mean().sqrt())
