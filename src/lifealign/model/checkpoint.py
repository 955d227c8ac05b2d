"""A checkpoint's own files, read before its weights: its quantisation, and Python code that it brings along."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AutoHfQuantizer,
    AutoQuantizationConfig,
)

from lifealign.core.errors import ConfigError, ModelError
from lifealign.core.files import file_sha256, read_text
from lifealign.core.json_text import parse_json
from lifealign.model.wheels import quiet

SIDE_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files in which older tools (AutoGPTQ, AutoAWQ, ModelOpt) note a quantisation that `config.json` does not mention."""

CODE_MODULES = "transformers_modules"
"""Package into which transformers imports the code of checkpoints."""


def read_checkpoint(source: str, revision: str | None) -> dict[str, Any]:
    """`config.json` of a local directory or hub id as plain values; empty if there is none. Runs no code of its own."""
    try:
        with quiet():
            found: dict[str, Any] = PreTrainedConfig.get_config_dict(source, revision=revision)[0]
    except Exception:  # what the library raises for settings of another shape
        return {}  # loading the model gives the reason
    return found if isinstance(found, dict) else {}


def quantisation_of(config: Mapping[str, Any], directory: Path) -> dict[str, Any] | None:
    """Settings of a checkpoint's quantisation, with its `quant_method`; None: its weights are not quantised."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            if part.get(key) is not None:
                return _named(part[key], "mlx" if key == "quantization" else None)
    for name in SIDE_FILES:
        if (file := directory / name).is_file():
            try:
                return _named(parse_json(read_text(file, ModelError)), name)
            except (ValueError, ModelError):
                return {"quant_method": name}
    return None


def _named(settings: Any, unnamed: str | None) -> dict[str, Any]:
    """The settings with a `quant_method`, which older files leave out."""
    if not isinstance(settings, Mapping):
        return {"quant_method": repr(settings)}
    if settings.get("quant_method") is not None:
        return dict(settings)
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return {**settings, "quant_method": "bitsandbytes"}
    mlx = set(settings) <= {"group_size", "bits", "mode"}
    return {**settings, "quant_method": unnamed or ("mlx" if mlx else "method not named")}


def describe(settings: Mapping[str, Any]) -> str:
    """A quantisation in a few words, e.g. `gptq, 4 bits`."""
    bits = settings.get("bits", settings.get("w_bit"))
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else bits
    return str(settings["quant_method"]) + (f", {bits} bits" if isinstance(bits, int) else "")


def check_quantisation(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a quantised checkpoint that cannot be run, or trained through, as it is.

    Raises:
        ModelError: names the quantisation and the missing package or device.
    """
    refuse = functools.partial(refuse_quantised, name, settings)
    method = settings["quant_method"]
    if (
        not settings.get("load_in_4bit")
        and not settings.get("load_in_8bit")
        and method not in AUTO_QUANTIZATION_CONFIG_MAPPING
    ):
        raise refuse(f"transformers {transformers.__version__} does not know this quantisation")
    try:
        with quiet():
            found = AutoQuantizationConfig.from_dict(dict(settings))
            quantizer = AutoHfQuantizer.from_config(found, pre_quantized=True)
            quantizer.validate_environment(device_map=None, weights_only=True)
            dequantises = bool(getattr(quantizer.quantization_config, "dequantize", False))
            trainable = bool(quantizer.is_trainable)
    except Exception as error:  # each quantisation's own checks, in packages of their own, raise what they like
        raise refuse(one_line(error)) from error
    if dequantises:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        raise refuse(f"it does not run on this device ({device}), so transformers would dequantise the weights")
    if not trainable:
        raise refuse("transformers cannot train through it")


def refuse_quantised(name: str, settings: Mapping[str, Any], reason: str) -> ModelError:
    """The error for a quantised checkpoint that cannot be used; `reason` names what is missing."""
    return ModelError(
        f"base model {name!r} is quantised ({describe(settings)}) and cannot be used here: {reason}; "
        "install what is missing, or give the checkpoint that is not quantised"
    )


def code_sha256(*loaded: Any) -> str | None:
    """SHA-256 of a checkpoint's own Python files behind these objects; None if all of them are transformers' own."""
    folders = set()
    for part in loaded:
        module = sys.modules.get(type(part).__module__)
        if type(part).__module__.partition(".")[0] == CODE_MODULES and module is not None and module.__file__:
            folders.add(Path(module.__file__).parent)
    if not folders:
        return None
    digest = hashlib.sha256()
    for file in sorted((f for folder in folders for f in folder.glob("*.py")), key=lambda f: f.name):
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(file_sha256(file, ModelError)))
    return digest.hexdigest()


def check_code(name: str, config: Mapping[str, Any], trusted: bool, ran: str | None) -> list[str]:
    """Compare what the user allowed with what was run, and return a sentence if code was left alone.

    Args:
        name: of the base model.
        config: `read_checkpoint`.
        trusted: `model.trust_remote_code`.
        ran: `code_sha256` of what was loaded.

    Raises:
        ConfigError: code is allowed, but the checkpoint has none.
    """
    if trusted and ran is None:
        raise ConfigError(
            f"model.trust_remote_code=true has no effect: base model {name!r} has no code of its own; remove the setting"
        )
    if not trusted and config.get("auto_map"):
        return [f"base model {name!r} brings code of its own, which is not run; transformers' own class reads it"]
    return []


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; its type if it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
