"""Durable files: checksums and atomic writes. Imports no torch.

Everything written here keeps one promise: a file or directory under its final name is complete and on the disk. New
content goes to a name that starts with `TEMPORARY`, is fsynced, and is renamed once. Leftovers of a killed process
therefore always have that prefix, and `sweep` can remove them without looking inside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.errors import ConfigError, StoreError

TEMPORARY = ".tmp-"
_CHUNK = 1 << 20  # bytes read at a time while hashing


@dataclass(frozen=True)
class FileEntry:
    """A manifest's entry for one file.

    Attributes:
        sha256: of the content, 64 hex digits.
        size: in bytes.
    """

    sha256: str
    size: int


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn write errors of the operating system (full disk, read-only, no permission, quota) into a StoreError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise StoreError(
            f"{error.filename or path}: cannot be written: {reason} ({name}); earlier data is unchanged"
        ) from error


def keep_apart(out: Path, *read: Path, option: str = "--out") -> None:
    """Refuse to overwrite an input.

    Args:
        out: the file to write.
        read: the inputs.
        option: that named `out`, for the message.

    Raises:
        ConfigError: `out` is one of the files.
    """
    if out.resolve() in [path.resolve() for path in read]:
        raise ConfigError(f"{option} {out} is an input of this command and would be overwritten; choose another file")


def free_directory(out: str | Path) -> Path:
    """The directory to write to.

    Raises:
        ConfigError: there is something at `out`.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: not an empty directory; give one that is missing or empty")
    return target


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn read errors of the operating system into a StoreError."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename or path}: missing") from None
    except OSError as error:
        raise StoreError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


def cache_dir() -> Path:
    """Directory of converted models, reference log-probs and judges' replies: $LIFEALIGN_CACHE or the user's cache."""
    if given := os.environ.get("LIFEALIGN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lifealign"


# --- reading ---


def read_bytes(path: Path) -> bytes:
    """The whole file; StoreError names it if it is missing or unreadable."""
    with reading(path):
        return path.read_bytes()


def check_bytes(path: Path, data: bytes, entry: FileEntry) -> None:
    """Raise a StoreError with the file's name if the content differs from the manifest's entry."""
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
            f"but the manifest lists {entry.size} bytes with {entry.sha256}"
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
    """Make renames in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not support it
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
    """Yield a temporary directory beside `final`: renamed to `final` if the block succeeds, removed otherwise."""
    temporary = final.with_name(TEMPORARY + final.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a failure that could not clean up
        temporary.mkdir()
        yield temporary
        fsync_directory(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)


def open_to_umask(directory: Path) -> None:
    """Let whom the umask allows read the files of a new directory, and those below; some libraries write them private."""
    allowed = directory.stat().st_mode & 0o666  # the directory was made under the same umask
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(allowed | (path.stat().st_mode & 0o111))


def discard_directory(path: Path) -> None:
    """Remove a directory; its name is gone at once, even if the process is killed while its files are removed."""
    aside = path.with_name(TEMPORARY + "discarded-" + path.name)
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    try:
        fsync_directory(path.parent)
        shutil.rmtree(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sweep(directory: Path) -> None:
    """Remove what killed writers left behind in a directory."""
    for child in sorted(directory.glob(TEMPORARY + "*")):
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
