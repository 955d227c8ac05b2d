"""A memory in one archive, with a checksum of every file, and back; no torch.

The archive is an uncompressed tar. Its first file is a sealed list of all others, each with its size and sha256. Work in
progress, locks and what a repair moved aside are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import Field

from lifealign.core import files
from lifealign.core.documents import Document, Sha256, check
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.json_codec import decode_json, seal, sealed
from lifealign.store import manifest
from lifealign.store.contents import head_line
from lifealign.store.layout import EVALUATIONS, HEAD, STORE, TAGS, TASK, TASKS, WORK
from lifealign.store.reader import MemoryReader
from lifealign.store.verify import find_problems

BACKUP_FORMAT = 1
CONTENTS = "lifealign-backup.json"
"""The archive's first file."""
_LONGEST = 64 << 20  # bytes of the list of contents
_CHUNK = 1 << 20
_MEMBER = (
    r"^(store\.json|HEAD|tags\.json|evaluations/[0-9]{6,15}\.json"
    r"|tasks/[0-9]{4,15}-[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9_-]*\.(safetensors|jsonl?))$"
)


class Packed(Document):
    """One file in the archive."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0, le=2**45)]


class Contents(Document):
    """The list of contents."""

    backup_version: Literal[1]
    files: dict[Annotated[str, Field(pattern=_MEMBER, max_length=300)], Packed]


@dataclass(frozen=True)
class Archive:
    """An archive that was written or restored.

    Attributes:
        path: of the archive.
        sha256: of its bytes.
        bytes: its size.
        files: number of files in it.
        head: directory of the memory's point.
    """

    path: Path
    sha256: str
    bytes: int
    files: int
    head: str


def backup(memory: Path, out: Path) -> Archive:
    """Write a memory to a new file, and read that back.

    Takes no lock: a writer may go on, and the archive holds the point that HEAD named at the start.

    Raises:
        ConfigError: `out` exists, or is inside the memory.
        StoreError: the memory is damaged, or the file cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already; choose another file")
    if out.resolve().is_relative_to(memory.resolve()):
        raise ConfigError(f"{out}: is inside the memory; choose a place outside it")
    reader = MemoryReader.open(memory)
    if problems := find_problems(memory):
        raise StoreError(f"{problems[0]}; a damaged memory is not backed up: lifealign repair {memory}")
    contents = _contents(reader)
    listed = {name: {"sha256": entry.sha256, "size": entry.size} for name, (entry, _) in contents.items()}
    head = seal({"backup_version": BACKUP_FORMAT, "files": listed})
    temporary = out.with_name(f"{files.TEMPORARY}{out.name}")
    with files.writing(out):
        try:
            with temporary.open("wb") as stream:
                with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                    _add(archive, CONTENTS, io.BytesIO(head), len(head))
                    for name, (entry, data) in contents.items():
                        with _source(memory / name, data) as source:
                            _add(archive, name, source, entry.size)
                stream.flush()
                os.fsync(stream.fileno())
            _unpack(temporary, None)
            sha256 = _sha256(temporary)
            temporary.rename(out)
            files.fsync_directory(out.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return Archive(out, sha256, out.stat().st_size, len(contents), reader.head.directory)


def restore(archive: Path, memory: Path) -> Archive:
    """Make the memory of an archive at a new place, and verify it there before it gets its name.

    Raises:
        ConfigError: there is something at `memory`.
        StoreError: the archive is damaged, or of a newer format; nothing is left at `memory`.
    """
    target = files.free_directory(memory)
    with files.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmdir()
        with files.staged_directory(target) as staged:
            count = _unpack(archive, staged)
            for name in (TASKS, EVALUATIONS, WORK):
                (staged / name).mkdir(exist_ok=True)
            for folder in [staged, *(path for path in staged.rglob("*") if path.is_dir())]:
                files.fsync_directory(folder)
            if problems := find_problems(staged):
                raise StoreError(f"{archive}: damaged: {problems[0].replace(str(staged), '').lstrip('/')}")
    head = MemoryReader.open(target).head.directory
    return Archive(archive, _sha256(archive), archive.stat().st_size, count, head)


def _contents(reader: MemoryReader) -> dict[str, tuple[files.FileEntry, bytes | None]]:
    """Path in the memory -> its checksum, and its bytes where a writer may replace the file."""
    found: dict[str, tuple[files.FileEntry, bytes | None]] = {}

    def hold(name: str, data: bytes) -> None:
        found[name] = files.FileEntry(hashlib.sha256(data).hexdigest(), len(data)), data

    memory = reader.path
    hold(STORE, files.read_bytes(memory / STORE))
    hold(HEAD, head_line(reader.head.directory, reader.head.sha256))
    tags = memory / TAGS
    if tags.exists():
        hold(TAGS, files.read_bytes(tags))
    evaluations = manifest.evaluation_files(memory)
    for directory in manifest.task_directories(memory):
        task = manifest.read_manifest(memory, directory)
        hold(f"{TASKS}/{directory}/{TASK}", files.read_bytes(memory / TASKS / directory / TASK))
        for name, entry in task.files.items():
            found[f"{TASKS}/{directory}/{name}"] = entry, None
    for path in evaluations:
        hold(f"{EVALUATIONS}/{path.name}", files.read_bytes(path))
    return found


def _source(path: Path, data: bytes | None) -> IO[bytes]:
    return path.open("rb") if data is None else io.BytesIO(data)


def _add(archive: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, source)


def _sha256(path: Path) -> str:
    with files.reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack(path: Path, target: Path | None) -> int:
    """Compare every file with the list, and write it below `target` if given; the number of files."""
    damaged = f"{path}: not a backup, or a damaged one"
    if not path.is_file():
        raise StoreError(f"{path}: no such file")
    try:
        with tarfile.open(path, mode="r:") as archive:
            first = archive.next()
            if first is None or first.name != CONTENTS or first.size > _LONGEST:
                raise StoreError(f"{damaged}: its first file is not {CONTENTS}")
            left = dict(_listed(path, _extracted(archive, first).read()).files)
            total = len(left)
            while (member := archive.next()) is not None:
                entry = left.pop(member.name, None)
                if entry is None or not member.isreg() or member.size != entry.size:
                    raise StoreError(f"{damaged}: {member.name[:200]!r} is not in its list, or of another size")
                _copy(_extracted(archive, member), entry, f"{path}: {member.name}", target and target / member.name)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.filename is not None and target is not None:
            raise  # of the writing side
        raise StoreError(f"{damaged}: {error}") from None
    if left:
        raise StoreError(f"{damaged}: it lacks {next(iter(left))}")
    return total


def _listed(path: Path, data: bytes) -> Contents:
    record: Any = decode_json(f"{path}: {CONTENTS}", data)
    version = record.get("backup_version") if isinstance(record, Mapping) else None
    if isinstance(version, int) and version > BACKUP_FORMAT:
        raise StoreError(
            f"{path}: backup version {version}, but this lifealign reads up to version {BACKUP_FORMAT}; upgrade lifealign"
        )
    if not sealed(data):
        raise StoreError(f"{path}: {CONTENTS}: damaged: its content does not match the sha256 in it")
    return check(Contents, record, f"{path}: {CONTENTS}")


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise StoreError(f"{member.name[:200]!r} in the archive is not a file")
    return stream


def _copy(source: IO[bytes], entry: Packed, where: str, target: Path | None) -> None:
    digest = hashlib.sha256()
    size = 0
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with (target or Path(os.devnull)).open("wb") as out:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
        if target is not None:
            out.flush()
            os.fsync(out.fileno())
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise StoreError(f"{where}: damaged: its content does not match the list of contents")
