"""JSON for files and output: canonical bytes, seals, and plain values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from lifealign.core.errors import StoreError, UserError
from lifealign.core.json_text import DEEPEST, is_shallow

_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')


def encode_json(value: Any) -> bytes:
    """One line of JSON whose bytes depend on the value only: sorted keys, fixed separators, ASCII.

    NaN and infinities are written as Python's json does (NaN, Infinity), so that a missing score does not
    prevent a commit.
    """
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")


def decode_json(where: Path | str, data: bytes | str, error: type[UserError] = StoreError) -> Any:
    """The inverse of `encode_json`; `error` begins with `where` if the text is not JSON, or nested too deeply."""
    damaged = "damaged: " if error is StoreError else ""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: {damaged}not JSON ({reason})") from None
    if not is_shallow(value):
        raise error(f"{where}: {damaged}lists and objects are nested more than {DEEPEST} deep")
    return value


def seal(record: Mapping[str, Any]) -> bytes:
    """A JSON object that carries the checksum of its own bytes as its last key, ``"sha256"``.

    A sealed file can be checked without a second file: any changed byte is detected from the file alone.
    """
    assert record and "sha256" not in record, "the seal is added here"
    body = encode_json(record).removesuffix(b"\n")
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def sealed(data: bytes) -> bool:
    """Whether `data` is exactly what `seal` wrote."""
    match = _SEAL.search(data)
    return match is not None and hashlib.sha256(data[: match.start()] + b"}").hexdigest().encode() == match.group(1)


def plain(value: Any) -> Any:
    """Convert to plain JSON values; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value


def to_json(value: Any) -> str:
    """Indented JSON; a number that is not finite becomes null (a missing score is not zero)."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
