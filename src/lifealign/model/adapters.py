"""The base model (local path, hub id, or a name of `wheels`) and the adapter's tensors.

Shapes: R rank, I input features, O output features of an adapted linear module. An adapter is a flat mapping
``{"<module path>.lora_A": [R, I], "<module path>.lora_B": [O, R]}``, float32.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lifealign.core.config import LoraConfig, ModelConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.files import cache_dir
from lifealign.model.encoding import Template
from lifealign.model.frozen_linear import LEAD, freeze, product, seconds
from lifealign.model.wheels import WHEELS, quiet, wheel_model


@dataclass(frozen=True)
class BaseModel:
    """A frozen base model in eval mode with its tokenizer.

    Attributes:
        model: the transformers model; no parameter requires a gradient.
        tokenizer: its tokenizer.
        template: `chat` or `plain`, resolved.
        identity: name, revision, dtype and SHA-256 of the weights; what a memory is tied to.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    identity: Mapping[str, Any]

    @property
    def positions(self) -> int:
        """Tokens of the longest text that the model takes."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize)


def load_base(config: ModelConfig) -> BaseModel:
    """Load the base model, frozen and in eval mode, on the CPU.

    Raises:
        ModelError: no such model, or it cannot be loaded; says what was tried.
    """
    path = wheel_model(config.name) if config.name in WHEELS else config.name
    local = Path(path).expanduser()
    if local.exists() and config.revision is not None:
        raise ConfigError(f"model.revision={config.revision!r} is for hub ids; {config.name!r} is a local model")
    source = str(local) if local.exists() else config.name
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[resolve_dtype(config.dtype)]
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(source, revision=config.revision, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=config.revision)
    except (OSError, ValueError, SafetensorError) as error:
        known = ", ".join(sorted(WHEELS))
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"base model {config.name!r} cannot be loaded: {first}; allowed: a local directory, a hub id, or one of {known}"
        ) from error
    freeze(model)
    model.eval()
    template = config.template
    if template == "auto":
        template = "chat" if tokenizer.chat_template else "plain"
    commit = getattr(model.config, "_commit_hash", None) or config.revision
    weights = weights_sha256(local) if local.is_dir() else f"hub:{config.name}@{commit}"
    identity = {
        "model": config.name,
        "revision": config.revision,
        "weights": weights,
        "dtype": str(dtype).removeprefix("torch."),
        "model_type": model.config.model_type,
    }
    return BaseModel(model, tokenizer, template, identity)


def resolve_dtype(dtype: str) -> str:
    """`auto` -> whichever of float32 and bfloat16 this device multiplies faster (bfloat16 needs a clear lead)."""
    if dtype != "auto":
        return dtype
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    speed = {}
    for kind in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(256, 576, dtype=kind), torch.ones(576, 576, dtype=kind)
        speed[kind] = 1 / seconds(functools.partial(product, x, weight))
    return "bfloat16" if speed[torch.bfloat16] > LEAD * speed[torch.float32] else "float32"


def weights_sha256(directory: Path) -> str:
    """SHA-256 over the weight files and the config of a local model; remembered by path, size and time of change."""
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("*.bin"))
    files += [f for f in (directory / "config.json",) if f.is_file()]  # its rope or norm settings change every value
    key = json.dumps([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    name = hashlib.sha256(key.encode()).hexdigest()
    remembered = cache_dir() / "hashes" / name
    if remembered.is_file() and len(text := remembered.read_text().strip()) == 64:
        return text
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    remembered.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=remembered.parent, delete=False) as out:
        out.write(digest.hexdigest())
    Path(out.name).replace(remembered)
    return digest.hexdigest()


def attach_lora(base: PreTrainedModel, lora: LoraConfig, seed: int) -> nn.Module:
    """Put one LoRA adapter on `base` with PEFT: A uniform in +-1/sqrt(I) from `seed`, B zero; both float32.

    Raises:
        ConfigError: no module has such a name, or the target shares its weights with another module (tied embeddings).
    """
    tied = {"lm_head", "embed_tokens", "wte"} if getattr(base.config, "tie_word_embeddings", False) else set()
    if shared := sorted(t for t in lora.target_modules if t.rpartition(".")[-1] in tied):
        raise ConfigError(
            f"lora.target_modules: {shared} share their weights in this model (tied embeddings); leave them out"
        )
    fan_in_fan_out = any(
        type(module).__name__ == "Conv1D" and name.split(".")[-1] in lora.target_modules
        for name, module in base.named_modules()
    )
    settings = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=fan_in_fan_out,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own use of a transformers name that is going away
            model = peft.get_peft_model(base, settings)
    except ValueError as error:
        leaves = sorted({n.split(".")[-1] for n, m in base.named_modules() if isinstance(m, nn.Linear)})
        raise ConfigError(
            f"lora.target_modules={list(lora.target_modules)}: {str(error).splitlines()[0]}; linear modules of this model: {leaves}"
        ) from error
    if other := sorted(n for n in trainable(model) if not n.endswith((".lora_A", ".lora_B"))):
        raise ConfigError(f"lora.target_modules={list(lora.target_modules)}: {other[0]} is no linear module's")
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    assert isinstance(model, nn.Module)
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
        factors: `<module>.lora_A` [K, I] and `<module>.lora_B` [O, K], one K >= 1 for all modules; empty takes them away.
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
            lora_alpha=rank * lora.alpha / lora.r,
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
    """The adapter in training and the `PAST` one as a single PEFT adapter of their ranks' sum, for export."""
    tuner = cast(Any, model)
    if PAST in tuner.peft_config:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", UserWarning)  # that deleting an active adapter activates another one
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
    """The model with these tensors (see `snapshot`) in the place of its trained ones, for forwards without a graph.

    The trained tensors are set aside, not written to: graphs made before stay valid.
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
                f"the adapter does not belong to this model: {name} is {list(tensors[name].shape)}, the model's is {list(parameter.shape)}"
            )
        parameter.copy_(tensors[name])


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The base model alone (adapter off, dropout off); trainable flags are as before afterwards."""
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
