"""The bytes of a commit's files, and the names and lines that are made of a task's; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lifealign.core.json_codec import encode_json
from lifealign.core.tensors import encode_tensors
from lifealign.store import manifest

if TYPE_CHECKING:
    from torch import Tensor


def encode(
    tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], lines: Mapping[str, Iterable[Any]]
) -> dict[str, bytes]:
    """File name -> bytes, all in memory: invalid JSON or a lack of memory shows before the disk is touched."""
    contents = {f"{stem}.safetensors": encode_tensors(named) for stem, named in tensors.items()}
    contents |= {name: encode_json(value) for name, value in documents.items()}
    contents |= {name: b"".join(map(encode_json, values)) for name, values in lines.items()}
    for name in contents:
        suffix = ".json" if name in documents else ".jsonl" if name in lines else ".safetensors"
        assert manifest.is_file_name(name) and name.endswith(suffix), f"{name!r} is not a valid name for a task's file"
    return dict(sorted(contents.items()))


def head_line(directory: str, sha256: str) -> bytes:
    """What HEAD and PENDING hold."""
    return f"{directory} {sha256}\n".encode()


def slug(name: str) -> str:
    """The part of a directory's name that comes from the task's."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-_")[:40] or "task"
