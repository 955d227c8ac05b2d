"""Files: the one door through which every file is read, checksums, and atomic writes. Imports no torch.

Only regular files are read, never more of one than a limit (`core.limits`), and text is UTF-8. Libraries that open a
file by its name get it after `check_regular`.

Everything written here keeps one promise: a file or directory under its final name is complete and on the disk. New
content goes to a name that starts with `TEMPORARY`, is fsynced, and is renamed once. Leftovers of a killed process
therefore always have that prefix, and `sweep` can remove them without looking inside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lifealign.core import limits
from lifealign.core.errors import ConfigError, StoreError, UserError

TEMPORARY = ".tmp-"
_CHUNK = 1 << 20  # bytes read at a time
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
)
"""First bytes -> name, of what is not UTF-8 text."""


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


def cache_dir() -> Path:
    """Directory of converted models, reference log-probs and judges' replies: $LIFEALIGN_CACHE or the user's cache."""
    if given := os.environ.get("LIFEALIGN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lifealign"


# --- reading: the one door through which every file comes in ---


@contextmanager
def reading(path: Path, error: type[UserError] = StoreError) -> Iterator[None]:
    """Turn read errors of the operating system into one message of class `error`."""
    try:
        yield
    except FileNotFoundError as fault:
        gone = "missing" if error is StoreError else "no such file"
        raise error(f"{fault.filename or path}: {gone}") from None
    except OSError as fault:
        raise error(f"{fault.filename or path}: cannot be read: {fault.strerror or fault}") from fault


def open_file(path: str | Path, error: type[UserError] = StoreError, inside: Path | None = None) -> BufferedReader:
    """Open a regular file for reading. Never waits: a pipe without a writer is refused like a device or a directory.

    Args:
        path: the file; links are followed.
        error: class of the message.
        inside: directory that the file must be in after all links are followed, e.g. the memory that it belongs to.

    Raises:
        UserError: of class `error`: missing, unreadable, no regular file, or outside of `inside`.
    """
    with reading(Path(path), error):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as fault:
            if fault.errno == errno.ENXIO:  # a socket, or a device without a driver
                raise error(f"{path}: not a regular file but a socket or a device; give a regular file") from None
            raise
        except ValueError:  # a NUL in the name
            raise error(f"{limits.shown(str(path))}: not the name of a file") from None
        try:
            # The open file is examined, not its name: that could mean something else a moment later.
            held = os.fstat(descriptor)
            if not stat.S_ISREG(held.st_mode):
                raise error(f"{path}: not a regular file but {_kind(held.st_mode)}; give a regular file")
            if inside is not None and not _is_inside(Path(path), held, inside):
                raise error(f"{path}: a link that leads out of {inside}; put the file itself there")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise


def check_regular(path: str | Path, error: type[UserError] = StoreError, inside: Path | None = None) -> None:
    """`open_file` for a file that a library opens by its name."""
    open_file(path, error, inside).close()


def read_bytes(
    path: str | Path, error: type[UserError] = StoreError, inside: Path | None = None, size: int | None = None
) -> bytes:
    """The whole content of a regular file.

    Args:
        path: the file.
        error: class of the message.
        inside: see `open_file`.
        size: largest size in bytes, where something vouches for it; None: `limits.READ`.

    Raises:
        UserError: of class `error`: see `open_file`; or the file is larger than the limit.
    """
    with reading(Path(path), error), open_file(path, error, inside) as stream:
        given = os.fstat(stream.fileno()).st_size
        _check_size(path, given, size, error)
        data = stream.read(given)
        more = stream.read(_CHUNK)  # it has grown, or it is a file of the kernel, whose size says nothing
        if more and not given:
            raise error(f"{path}: not a regular file but one that the system makes up; give a regular file")
        while more:
            data += more
            _check_size(path, len(data), size, error)
            more = stream.read(_CHUNK)
        return data


def read_text(path: str | Path, error: type[UserError] = StoreError, inside: Path | None = None) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
        UserError: of class `error`: see `read_bytes`; or it is not UTF-8 text.
    """
    return decode_text(read_bytes(path, error, inside), path, error)


def decode_text(data: bytes, path: str | Path, error: type[UserError] = StoreError) -> str:
    """The text of UTF-8 bytes; the message names another encoding, or a compression, that is known by its first bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        known = next((name for mark, name in _MARKS if data.startswith(mark)), None)
        way = "save the file as UTF-8" if known is None or known.startswith("UTF") else "unpack it first"
        kind = f"its first bytes are those of {known}" if known else f"byte {fault.start}"
        raise error(f"{path}: not UTF-8 text ({kind}); {way}") from None


def check_bytes(path: Path, data: bytes, entry: FileEntry) -> None:
    """Raise a StoreError with the file's name if the content differs from the manifest's entry."""
    _compare(path, FileEntry(hashlib.sha256(data).hexdigest(), len(data)), entry)


def read_checked(path: Path, entry: FileEntry, inside: Path | None = None) -> bytes:
    """The content of a file that a manifest lists, if it is what the manifest says.

    Raises:
        StoreError: see `open_file`; or the content differs from the entry.
    """
    with reading(path), open_file(path, inside=inside) as stream:
        _check_listed(path, stream, entry)
        data = stream.read(entry.size)
    check_bytes(path, data, entry)
    return data


def check_file(path: Path, entry: FileEntry, inside: Path | None = None) -> None:
    """`read_checked` without holding the file in memory."""
    with reading(path), open_file(path, inside=inside) as stream:
        _check_listed(path, stream, entry)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    _compare(path, FileEntry(sha256, entry.size), entry)


def file_sha256(path: str | Path, error: type[UserError] = StoreError, size: int | None = None) -> str:
    """SHA-256 of a regular file's content, which is not held in memory; 64 hex digits. `size`: see `read_bytes`."""
    with reading(Path(path), error), open_file(path, error) as stream:
        _check_size(path, os.fstat(stream.fileno()).st_size, size, error)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _compare(path: Path, got: FileEntry, entry: FileEntry) -> None:
    if got != entry:
        raise StoreError(
            f"{path}: damaged: {got.size} bytes with sha256 {got.sha256}, "
            f"but the manifest lists {entry.size} bytes with {entry.sha256}"
        )


def _check_listed(path: Path, stream: BufferedReader, entry: FileEntry) -> None:
    """Compare the size first: a file that was made larger may be larger than the memory."""
    size = os.fstat(stream.fileno()).st_size
    if size != entry.size:
        raise StoreError(f"{path}: damaged: {size} bytes, but the manifest lists {entry.size} bytes")


def _check_size(path: str | Path, found: int, size: int | None, error: type[UserError]) -> None:
    if size is None:
        limits.READ.refuse(found, lambda limit: f"{path}: larger than {limit} MiB", error)
    elif found > size:
        raise error(f"{path}: {found} bytes, but at most {size} are expected")


def _is_inside(path: Path, held: os.stat_result, directory: Path) -> bool:
    """Whether the open file `held` is the one to which `path` leads, and that is in `directory`."""
    real = path.resolve()
    return real.is_relative_to(directory.resolve()) and os.path.samestat(real.stat(), held)


def _kind(mode: int) -> str:
    """Name of the kind of file that is not regular."""
    return next((name for is_it, name in _KINDS if is_it(mode)), "a special file")


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
