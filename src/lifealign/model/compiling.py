"""The decoder layers of packed rows through torch.compile: norms, rotary embeddings and activations become few kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

COMPILED = "lifealign_compiled"
"""Attribute of a model: its decoder layers, each with its compiled forward."""


def compile_layers(model: nn.Module, backend: str = "inductor") -> int:
    """Let `compiled_layers` use a compiled forward for each decoder layer of `model`; returns the number of layers."""
    # The layers share their code, so they are compiled together, once for each width of a row (`packing.row_width`).
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    made = [(layer, torch.compile(layer.forward, dynamic=False, backend=backend)) for layer in layers]
    setattr(model, COMPILED, made)
    return len(made)


def leave_uncompiled(model: nn.Module) -> None:
    """Forget the compiled forwards of a model."""
    setattr(model, COMPILED, [])


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_layers` made compiled forwards for this model."""
    return bool(getattr(model, COMPILED, ()))


@contextmanager
def compiled_layers(model: nn.Module) -> Iterator[None]:
    """Run the compiled forwards instead of the layers' own, where `compile_layers` made them for this model."""
    made: Sequence[tuple[Any, Any]] = getattr(model, COMPILED, ())
    for layer, forward in made:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, _ in made:
            del layer.forward
