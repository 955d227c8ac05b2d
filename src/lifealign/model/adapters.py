"""LoRA on a base model: attach, snapshot, restore, switch off.

Shapes: R rank, I input features, O output features of an adapted linear module. An adapter is a flat mapping
``{"<module path>.lora_A": [R, I], "<module path>.lora_B": [O, R]}``, float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import peft
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
)

from lifealign.core.config import LoraConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.model.lora_targets import find_targets

NOTES = "lifealign_notes"
"""Attribute of a model with an adapter: sentences about modules that got none."""


def attach_lora(base: PreTrainedModel, lora: LoraConfig, seed: int) -> nn.Module:
    """Put one LoRA adapter on `base` with PEFT: A uniform in +-1/sqrt(I) from `seed`, B zero; both float32.

    Raises:
        ConfigError: no module has that name, the target shares its weights with another module (tied embeddings), or PEFT
            refuses it for this kind of model.
    """
    tied = {"lm_head", "embed_tokens", "wte"} if getattr(base.config, "tie_word_embeddings", False) else set()
    if shared := sorted(t for t in lora.target_modules if t.rpartition(".")[-1] in tied):
        raise ConfigError(
            f"lora.target_modules: {shared} share their weights in this model (tied embeddings); leave them out"
        )
    targets = find_targets(base, lora.target_modules)
    settings = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.numerator,
        lora_dropout=lora.dropout,
        target_modules=list(targets.modules),
        fan_in_fan_out=targets.transposed,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft itself uses a deprecated transformers name
        try:
            model = peft.get_peft_model(base, settings)
        except ValueError as error:  # e.g. modules of Mamba whose weights a fused kernel reads past the adapter
            raise ConfigError(
                f"lora.target_modules={list(lora.target_modules)}: PEFT refuses them for {type(base).__name__}: {error}"
            ) from error
    if other := sorted(n for n in trainable(model) if not n.endswith((".lora_A", ".lora_B"))):
        raise ConfigError(
            f"lora.target_modules={list(lora.target_modules)}: {other[0]} does not belong to a linear module"
        )
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    assert isinstance(model, nn.Module)
    setattr(model, NOTES, targets.notes)
    restore(model, fresh_factors({name: tuple(p.shape) for name, p in trainable(model).items()}, seed))
    return model


def fresh_factors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """A LoRA adapter that changes nothing yet: A [R, I] uniform in +-1/sqrt(I) from `seed`, B [O, R] zero."""
    tensors = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        if name.endswith(".lora_A"):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            tensors[name] = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
        else:
            tensors[name] = torch.zeros(shape)
    return tensors


PAST = "past"
"""Name of the second, frozen PEFT adapter of methods that keep earlier tasks' factors beside the one in training."""


def set_past(model: nn.Module, factors: Mapping[str, Tensor], lora: LoraConfig) -> None:
    """Put frozen factors beside the adapter in training: h = W x + (alpha/r) (B A + B_past A_past) x.

    Args:
        model: of `attach_lora`.
        factors: `<module>.lora_A` [K, I] and `<module>.lora_B` [O, K], one K >= 1 for all modules; empty removes them.
        lora: shape of the adapter in training, for its scale.
    """
    tuner = cast(Any, model)
    flags = {name: p.requires_grad for name, p in model.named_parameters() if f".{PAST}." not in name}
    if PAST in tuner.peft_config:
        tuner.delete_adapter(PAST)
    if factors:
        rank = next(t.shape[0] for name, t in factors.items() if name.endswith(".lora_A"))
        own = tuner.peft_config["default"]
        settings = peft.LoraConfig(
            r=rank,
            lora_alpha=rank * lora.numerator / lora.r,
            target_modules=own.target_modules,
            fan_in_fan_out=own.fan_in_fan_out,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():  # peft draws values for it, which the factors replace
            tuner.add_adapter(PAST, settings)
        # Only the tuner takes several names; the model's own method takes one.
        tuner.base_model.set_adapter(["default", PAST])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if f".{PAST}." in name:
                    key = name.removeprefix("base_model.model.").replace(f".{PAST}.weight", "")
                    parameter.data = parameter.data.float()
                    parameter.copy_(factors[key])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))


def concatenated(model: nn.Module) -> nn.Module:
    """Join the adapter in training and the `PAST` one into a single PEFT adapter for export; its rank is their sum."""
    tuner = cast(Any, model)
    if PAST in tuner.peft_config:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", UserWarning)  # deleting an active adapter activates another one
            tuner.add_weighted_adapter(["default", PAST], [1.0, 1.0], "sum", combination_type="cat")
            for name in ("default", PAST):
                tuner.delete_adapter(name)
            # Under the name that `save_pretrained` writes at the top of a directory.
            tuner.add_weighted_adapter(["sum"], [1.0], "default", combination_type="cat")
            tuner.delete_adapter("sum")
            tuner.set_adapter("default")
    return model


@contextmanager
def holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Use these tensors (see `snapshot`) instead of the trained ones, for forwards without a graph.

    The trained tensors are set aside, not written to, so graphs made before stay valid.
    """
    own = trainable(model)
    assert set(own) == set(tensors)
    aside = {name: parameter.data for name, parameter in own.items()}
    try:
        for name, parameter in own.items():
            parameter.data = tensors[name].to(parameter.device)
        yield
    finally:
        for name, parameter in own.items():
            parameter.data = aside[name]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by names that do not depend on PEFT's wrapping; sorted."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[name.removeprefix("base_model.model.").replace(".default.weight", "")] = parameter
    return dict(sorted(found.items()))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trained tensors, on the CPU."""
    return {name: p.detach().to("cpu", copy=True) for name, p in trainable(model).items()}


@torch.no_grad()
def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of `snapshot` back into the model.

    Raises:
        ModelError: names or shapes differ from the model's.
    """
    own = trainable(model)
    if set(own) != set(tensors):
        odd = sorted(set(own) ^ set(tensors))[:3]
        raise ModelError(
            f"the adapter does not belong to this model: {len(set(own) ^ set(tensors))} names differ, e.g. {odd}"
        )
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise ModelError(
                f"the adapter does not belong to this model: {name} has shape {list(tensors[name].shape)}, "
                f"expected {list(parameter.shape)}"
            )
        parameter.copy_(tensors[name])


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Use the base model alone, without adapter and dropout; trainable flags are restored afterwards."""
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    training = model.training
    model.eval()
    try:
        if hasattr(model, "disable_adapter"):
            with cast(Any, model).disable_adapter():
                yield
        else:
            yield
    finally:
        # disable_adapter has been seen to switch requires_grad of frozen adapters on (peft#3447).
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        model.train(training)


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT model (or the model itself)."""
    inner: Any = cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model
    assert isinstance(inner, PreTrainedModel)
    return inner


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode and restore each afterwards (in training, only the adapter's dropout is on)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
