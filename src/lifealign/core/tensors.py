"""Convert named tensors to and from safetensors bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lifealign.core.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Encode as safetensors bytes that depend only on names, types, shapes and values."""
    from safetensors.torch import save

    flat: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:  # safetensors refuses tensors that share memory
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        flat[name] = tensor
    encoded: bytes = save(flat, metadata={"format": "pt"})
    return encoded


def decode_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """Decode to tensors on the CPU that own their memory; StoreError names `path` if the bytes are not safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except SafetensorError as error:
        raise StoreError(f"{path}: damaged: not a safetensors file ({error})") from None


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file, from its header and without torch; StoreError if it does not parse."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(
            path, framework="numpy"
        ) as stream:  # the header only: numpy has no bfloat16, and needs none here
            return sorted(stream.keys())
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: damaged: not a safetensors file ({error})") from None
