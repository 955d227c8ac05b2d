"""Durable files: canonical JSON, checksums, atomic writes, safetensors, checkpoints. Imports no torch.

One promise holds for everything written here: a file or directory under its final name is complete and on the disk.
New content goes to a name that starts with `TEMPORARY`, is fsynced, and is renamed once. What a killed process leaves
behind therefore always carries that prefix, and `sweep` can remove it without looking inside.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".tmp-"
_CHUNK = 1 << 20  # bytes read at a time while hashing
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of one file.

    Attributes:
        sha256: of the content, 64 hex digits.
        size: in bytes.
    """

    sha256: str
    size: int


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (full disk, read-only, no permission, quota) into a StoreError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StoreError(
            f"{error.filename or path}: cannot be written: {reason} ({name}); what was stored before is untouched"
        ) from error


def keep_apart(out: Path, *read: Path) -> None:
    """Refuse to write over what is read.

    Raises:
        ConfigError: `out` is one of the files.
    """
    if out.resolve() in [path.resolve() for path in read]:
        raise ConfigError(f"--out {out} is read by this command; write to another file, or it would be lost")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The same for reads."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename or path}: missing") from None
    except OSError as error:
        raise StoreError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


def cache_dir() -> Path:
    """Where converted models, reference log-probs and judges' replies are kept: $LIFEALIGN_CACHE, or the user's cache directory."""
    if given := os.environ.get("LIFEALIGN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lifealign"


# --- JSON ---


def encode_json(value: Any) -> bytes:
    """One line of JSON whose bytes depend on the value only: sorted keys, fixed separators, ASCII.

    NaN and infinities are written as Python's json does (`NaN`, `Infinity`), so that a missing score does not lose a
    commit.
    """
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")


def decode_json(path: Path, data: bytes) -> Any:
    """The inverse of `encode_json`; StoreError names `path` if the bytes are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise StoreError(f"{path}: damaged: not JSON ({error})") from None


def seal(record: Mapping[str, Any]) -> bytes:
    """A JSON object that carries the checksum of its own bytes as its last key, ``"sha256"``.

    A sealed file needs no second file to be checked: one changed byte is seen in the file itself and can be laid to it.
    """
    assert record and "sha256" not in record, "the seal is added here"
    body = encode_json(record).removesuffix(b"\n")
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def sealed(data: bytes) -> bool:
    """Whether `data` is what `seal` wrote, every byte of it."""
    match = _SEAL.search(data)
    return match is not None and hashlib.sha256(data[: match.start()] + b"}").hexdigest().encode() == match.group(1)


# --- reading ---


def read_bytes(path: Path) -> bytes:
    """The whole file; StoreError names it if it is missing or unreadable."""
    with reading(path):
        return path.read_bytes()


def check_bytes(path: Path, data: bytes, entry: FileEntry) -> None:
    """Refuse content that differs from the manifest's entry, by the name of its file."""
    _compare(path, FileEntry(hashlib.sha256(data).hexdigest(), len(data)), entry)


def check_file(path: Path, entry: FileEntry) -> None:
    """`check_bytes` without holding the file in memory."""
    digest, size = hashlib.sha256(), 0
    with reading(path), path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    _compare(path, FileEntry(digest.hexdigest(), size), entry)


def _compare(path: Path, got: FileEntry, entry: FileEntry) -> None:
    if got != entry:
        raise StoreError(
            f"{path}: damaged: {got.size} bytes with sha256 {got.sha256}, "
            f"the manifest says {entry.size} bytes with {entry.sha256}"
        )


# --- writing ---


def write_file(path: Path, data: bytes) -> FileEntry:
    """Write and fsync one file; not atomic by itself (see `replace_file`, `staged_directory`)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # the kernel may take less than it is given
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


def fsync_directory(path: Path) -> None:
    """Make renames in a directory outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        write_file(temporary, data)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


@contextmanager
def staged_directory(final: Path) -> Iterator[Path]:
    """A temporary directory beside `final` that is renamed to it when the block ends well, and removed when not."""
    temporary = final.with_name(TEMPORARY + final.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier failure that could not be cleaned up
        temporary.mkdir()
        yield temporary
        fsync_directory(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)


def discard_directory(path: Path) -> None:
    """Remove a directory; it disappears from under its name at once, whenever the process is killed."""
    aside = path.with_name(TEMPORARY + "discarded-" + path.name)
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    fsync_directory(path.parent)
    shutil.rmtree(aside)


def sweep(directory: Path) -> None:
    """Remove what killed writers left behind in a directory."""
    for child in sorted(directory.glob(TEMPORARY + "*")):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


# --- tensors ---


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes that depend on names, types, shapes and values only."""
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
    """Tensors on the CPU, owning their memory; StoreError names `path` if the bytes are not safetensors."""
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


# --- checkpoints of unfinished work ---

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
    """Tensors and state of the newest checkpoint whose checksums hold; None if there is none. Writes nothing."""
    for path in reversed(_checkpoints(directory)):
        with suppress(StoreError):  # torn or damaged: an older one, or a fresh start, gives the same result
            manifest = read_bytes(path / _MANIFEST)
            if not sealed(manifest):
                continue
            contents = {name: read_bytes(path / name) for name in (_TENSORS, _STATE)}
            for name, data in contents.items():
                check_bytes(path / name, data, FileEntry(**decode_json(path, manifest)["files"][name]))
            return decode_tensors(path / _TENSORS, contents[_TENSORS]), decode_json(path, contents[_STATE])
    return None


def _checkpoints(directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _CHECKPOINT.fullmatch(path.name))
