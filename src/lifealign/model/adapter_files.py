"""The files of a PEFT adapter: whether a base model's name means one, and what of its configuration is not taken. Imports no torch by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifealign.core.config import ModelConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.files import file_sha256
from lifealign.core.hub import from_cache_if_unreachable
from lifealign.model.base_files import read_object
from lifealign.model.names import WHEELS

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MERGE = "merge it into its base model with PEFT and give the merged model as the base"

_PLAIN_INIT = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights as they are."""
_TAKEN = frozenset(
    [
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "fan_in_fan_out",
        "use_rslora",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "init_lora_weights",
        "peft_type",
        "task_type",
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "peft_version",
        "megatron_core",
        "qalora_group_size",
        "eva_config",
        "runtime_config",
    ]
)
"""Keys of `adapter_config.json` that are read, or that do not change what a finished adapter computes."""
_REASONS: Mapping[str, str] = {
    "use_dora": "it is a DoRA adapter, whose magnitudes divide by the norm of the whole weight, so that it is no sum B A",
    "modules_to_save": "it holds whole modules, which are no low-rank update",
    "bias": "it holds biases, which are no low-rank update",
    "lora_bias": "it holds biases, which are no low-rank update",
    "target_parameters": "it changes single parameters, such as fused experts",
    "trainable_token_indices": "it holds rows of the embeddings, which are no low-rank update",
    "alora_invocation_tokens": "it is an activated LoRA, which works on a part of the text alone",
    "layer_replication": "it repeats layers of the base model",
    "use_qalora": "it is a QA-LoRA adapter, which pools its inputs",
}


def adapter_config_of(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """`adapter_config.json` of a folder or hub id; None: it has none, or there is no such folder or id."""
    if name in WHEELS:
        return None
    local = Path(name).expanduser()
    file = local / CONFIG if local.exists() else None
    try:
        if file is None:
            from transformers.utils.peft_utils import find_adapter_config_file

            from lifealign.model.wheels import quiet

            with quiet(), from_cache_if_unreachable():
                found = find_adapter_config_file(name, revision=revision)
            file = None if found is None else Path(found)
    except (OSError, ValueError):
        return None  # loading the model gives the reason
    return None if file is None or not file.exists() else read_object(file)


def adapter_files_sha256(folder: Path) -> str:
    """SHA-256 of an adapter: its configuration and its weights."""
    digest = hashlib.sha256()
    for file in [folder / CONFIG, *(folder / name for name in WEIGHTS if (folder / name).is_file())]:
        digest.update(bytes.fromhex(file_sha256(file, ModelError, file.stat().st_size)))
    return digest.hexdigest()


def refuse_adapter(name: str, revision: str | None) -> None:
    """Refuse an adapter as a base model: transformers loads the base that it names, and the adapter would be lost.

    Raises:
        ModelError: tells how to give it.
    """
    config = adapter_config_of(name, revision)
    if config is not None:
        base = config.get("base_model_name_or_path") or "BASE"
        raise ModelError(
            f"base model {name!r} holds a PEFT adapter ({CONFIG}) and is no base model; make a new memory with --base-model {base} "
            f"--from-adapter {name} (model.adapter in a configuration)"
        )


def split_adapter(config: ModelConfig) -> ModelConfig:
    """The configuration with base model and adapter apart, where `name` is the folder or hub id of an adapter.

    Raises:
        ConfigError: an adapter is given twice.
        ModelError: the folder holds a model too, or the adapter does not name its base.
    """
    found = adapter_config_of(config.name, config.revision)
    if found is None:
        return config
    if config.adapter is not None and config.adapter != config.name:
        raise ConfigError(
            f"the base model {config.name!r} is itself a PEFT adapter, and the adapter {config.adapter!r} is given too; a memory "
            "begins with one adapter: give the base model of both, and one adapter"
        )
    folder = Path(config.name).expanduser()
    if (folder / "config.json").is_file():
        raise ModelError(
            f"base model {config.name!r} holds both a model (config.json) and a PEFT adapter ({CONFIG}); put the adapter's files into "
            "a folder of their own and give both: --base-model MODEL --from-adapter ADAPTER"
        )
    base = found.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{config.name}/{CONFIG} names no base model; give it: --base-model BASE --from-adapter {config.name}"
        )
    return config.model_copy(update={"name": base, "adapter": config.name, "revision": found.get("revision")})


def refuse_config(source: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that is more than a LoRA of linear modules.

    Raises:
        ModelError: names the setting and the reason.
    """
    import peft

    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"adapter {source!r} is of the type {kind}, not LORA: it is no low-rank update of linear modules; if its type can be "
            f"merged, {MERGE}"
        )
    init = config.get("init_lora_weights", True)
    if init not in _PLAIN_INIT and not isinstance(init, bool):
        raise ModelError(
            f"adapter {source!r} has init_lora_weights={init!r}, which changed the base weights too; save it with PEFT's "
            f"path_initial_model_for_weight_conversion as a plain LoRA, or {MERGE}"
        )
    defaults = peft.LoraConfig().to_dict()
    for key, value in config.items():
        if key in _TAKEN or not value or value == defaults.get(key) or (key == "bias" and value == "none"):
            continue
        reason = _REASONS.get(key, "it is not known what this changes")
        raise ModelError(f"adapter {source!r} has {key}={json.dumps(value)[:80]}: {reason}; {MERGE}")
