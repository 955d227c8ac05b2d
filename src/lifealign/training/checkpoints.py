"""Checkpoints of a task in training, written whole or not at all; the newest good one is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import StoreError
from lifealign.core.tensors import decode_tensors, encode_tensors

if TYPE_CHECKING:
    from torch import Tensor
from lifealign.core.files import (
    FileEntry,
    discard_directory,
    read_bytes,
    read_checked,
    staged_directory,
    sweep,
    write_file,
    writing,
)
from lifealign.core.json_codec import decode_json, encode_json, seal, sealed

_CHECKPOINT = re.compile(r"[0-9]{8}")


_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


def write_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: Any) -> Path:
    """Add a checkpoint and remove the older ones; a kill at any point leaves at least the previous one.

    Args:
        directory: for checkpoints only; made if missing. Other entries in it are left alone.
        tensors: adapter, optimizer moments, RNG states (as uint8 tensors), ...
        state: any JSON value.

    Raises:
        StoreError: the operating system refused a write; the previous checkpoint is still there.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        older = _checkpoints(directory)
        final = directory / f"{int(older[-1].name) + 1 if older else 1:08d}"
        with staged_directory(final) as temporary:
            contents = {_TENSORS: encode_tensors(tensors), _STATE: encode_json(state)}
            entries = {name: vars(write_file(temporary / name, data)) for name, data in contents.items()}
            write_file(temporary / _MANIFEST, seal({"files": entries}))
        for path in older:
            discard_directory(path)
    return final


def read_checkpoint(directory: Path) -> tuple[dict[str, Tensor], Any] | None:
    """Tensors and state of the newest checkpoint whose checksums hold; None if no checkpoint is whole. Writes nothing."""
    for path in reversed(_checkpoints(directory)):
        with suppress(StoreError):  # torn or damaged: an older one, or a fresh start, gives the same result
            manifest = read_bytes(path / _MANIFEST)
            if not sealed(manifest):
                continue
            listed = decode_json(path, manifest)["files"]
            contents = {name: read_checked(path / name, FileEntry(**listed[name])) for name in (_TENSORS, _STATE)}
            return decode_tensors(path / _TENSORS, contents[_TENSORS]), decode_json(path, contents[_STATE])
    return None


def _checkpoints(directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _CHECKPOINT.fullmatch(path.name))
