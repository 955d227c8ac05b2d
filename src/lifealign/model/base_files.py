"""The files of a base model's folder, checked before a library opens them: their kinds, sizes and settings."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifealign.core.errors import ModelError
from lifealign.core.files import check_regular, open_file, read_text, reading
from lifealign.core.json_text import parse_json

SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json")
"""Files that hold one JSON object."""
HEADER = 100 << 20
"""Longest header of a safetensors file, in bytes; the library allows no more."""
PER_BYTE = 4
"""Parameters that a byte of weights may hold: 2 bits each."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a settings file.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    try:
        found = parse_json(read_text(path, ModelError))
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}; copy the file anew") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(found).__name__}; copy the file anew")
    return found


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that no model can be loaded from safely, before its weights are read.

    Raises:
        ModelError: a file is no regular file or holds no JSON object; the weights are pickled, which may run code; or
            they are fewer than `config.json` asks for.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            check_regular(path, ModelError)
    settings = {file: read_object(folder / file) for file in SETTINGS if (folder / file).exists()}
    weights = sorted(folder.glob("*.safetensors"))
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickled and not weights:
        raise ModelError(
            f"base model {name!r}: its weights are pickled ({pickled[0].name}), and a pickle may run any program; give the model "
            "with its weights as safetensors (transformers writes them with save_pretrained)"
        )
    if not weights or "config.json" not in settings:
        return  # loading gives the reason
    _check_index(folder, settings.get("model.safetensors.index.json"))
    _check_size(name, folder, settings["config.json"], weights)


def _check_index(folder: Path, index: Mapping[str, Any] | None) -> None:
    """Refuse an index whose parts are not in the folder."""
    if index is None:
        return
    parts = index.get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise ModelError(f"{folder}/model.safetensors.index.json: weight_map must map tensors to files")
    for part in sorted(set(parts.values())):
        if Path(part).name != part or not (folder / part).is_file():
            raise ModelError(f"{folder}/model.safetensors.index.json: names {part!r}, which is no file of this folder")


def _check_size(name: str, folder: Path, config: Mapping[str, Any], weights: list[Path]) -> None:
    """Refuse settings of a model that is larger than its weights: it would be filled with noise, if it fits at all."""
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    layers = next((text[key] for key in LAYERS if isinstance(text.get(key), int)), 0)
    tensors = sum(len(header(path)) for path in weights)
    if layers > max(tensors, 1):
        raise ModelError(
            f"base model {name!r}: config.json asks for {layers} layers, but its weights are {tensors} tensors"
        )
    size = sum(path.stat().st_size for path in weights)

    # Here, because the files of an adapter are read without them.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lifealign.model.wheels import quiet

    try:
        with quiet(), torch.device("meta"):  # takes no memory for the weights
            shaped = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        count = sum(p.numel() for p in shaped.parameters())
    except Exception:
        return  # loading gives the reason, in the library's words
    if count > PER_BYTE * size:
        raise ModelError(
            f"base model {name!r}: config.json asks for {count} parameters, but its weights are {size} bytes; give the files that "
            "belong together"
        )


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor -> type, shape and place.

    Raises:
        ModelError: it is no safetensors file.
    """
    with reading(path, ModelError), open_file(path, ModelError) as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        data = stream.read(length) if 2 <= length <= HEADER else b""
    try:
        found = parse_json(data.decode())
    except ValueError:
        found = None
    if len(data) != length or not isinstance(found, dict):
        raise ModelError(f"{path}: not a safetensors file, or not whole; copy the file anew")
    return {key: value for key, value in found.items() if key != "__metadata__"}


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model of which a tensor is missing: transformers fills it with noise.

    Args:
        name: of the base model.
        info: what `from_pretrained` tells of its loading.

    Raises:
        ModelError: names a tensor.
    """
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"base model {name!r}: {len(missing)} of its tensors are not in its weights, e.g. {json.dumps(missing[0])}; give the "
            "files that belong together"
        )
