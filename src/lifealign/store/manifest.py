"""The records of a memory (store.json, task.json, HEAD, evaluations): format versions, seals and the hash chain.

HEAD names a task directory and the sha256 of its manifest; each manifest names its parent and the sha256 of the
parent's manifest; the root's holds the sha256 of store.json. So HEAD vouches for everything before it, like a commit in
git. This is the reading side: it writes nothing and imports no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lifealign.core.documents import check
from lifealign.core.errors import StoreError
from lifealign.core.files import FileEntry, read_bytes, reading
from lifealign.core.json_codec import decode_json, sealed
from lifealign.core.option_names import as_stored, current_names
from lifealign.store.layout import EVALUATIONS, HEAD, ROOT, STORE, TASK, TASKS
from lifealign.store.schema import DIRECTORY, Envelope, TaskRecord

FORMAT_VERSION = 2
NOTE = "note"
"""Key in a manifest's `meta`: a sentence by the user about the task; missing if none was given."""

Kind = Literal["store", "task", "evaluation", "tags"]
Migration = Callable[[Kind, dict[str, Any]], dict[str, Any]]
_DEPTHS: Mapping[Kind, int] = {"store": 0, "tags": 0, "evaluation": 1, "task": 2}
"""Directories between the memory and a record."""
Change = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
"""(name of a strategy, its options) -> its options."""


def rename_options(kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
    """Migrate version 1 to 2: give strategies' options their current names (see `core.option_names`)."""
    return {**_options_by(current_names, kind, record), "format_version": 2}


def _options_by(change: Change, kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
    """A copy of a record with its strategy's options changed, wherever they are in it."""
    if kind == "store" and isinstance(identity := record.get("identity"), Mapping):
        return {**record, "identity": _changed(change, _changed(change, identity), "config")}
    return _changed(change, record, "config") if kind == "task" else record


def _changed(change: Change, holder: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    """A copy with changed options in the entry `strategy` of `holder`, or of `holder[key]` if a key is given."""
    inner = holder if key is None else holder.get(key)
    if not isinstance(inner, Mapping) or not isinstance(choice := inner.get("strategy"), Mapping):
        return dict(holder)
    changed = {**inner, "strategy": change(choice.get("name"), choice)}
    return changed if key is None else {**holder, key: changed}


MIGRATIONS: dict[int, Migration] = {1: rename_options}
"""Version n -> named function that turns a record of version n into one of n + 1, in memory; files stay as written."""


_DIRECTORY = re.compile(DIRECTORY)
_FILE = re.compile(r"[a-z0-9][a-z0-9_-]*\.(safetensors|jsonl?)")
_EVALUATION = re.compile(r"[0-9]{6,15}\.json")
_HEAD = re.compile(rb"([^ \n]+) ([0-9a-f]{64})\n")


@dataclass(frozen=True)
class TaskManifest:
    """The contents of task.json: one link of the chain.

    Attributes:
        directory: name under tasks/, ``<index>-<slug>``.
        index: number of the directory, 0 for the root; grows with every commit, so it has gaps after a rollback.
        name: of the task; a later task may have the same name.
        members: names of the tasks learnt in it (joint training has several; the root has none).
        parent: directory of the task it was learnt on top of; None for the root.
        parent_sha256: of the parent's task.json; for the root, of store.json.
        files: file name -> checksum and size.
        seed: of the run that made it.
        config: the run configuration that made it.
        meta: anything else the caller noted.
        versions: package -> version that wrote it.
        created: UTC, ISO 8601.
        sha256: of this task.json; what HEAD and children hold.
    """

    directory: str
    index: int
    name: str
    members: tuple[str, ...]
    parent: str | None
    parent_sha256: str
    files: Mapping[str, FileEntry]
    seed: int
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    versions: Mapping[str, str | None]
    created: str
    sha256: str


def read_record(path: Path, kind: Kind) -> tuple[dict[str, Any], str]:
    """One sealed record in today's format, and the sha256 of its file.

    Raises:
        StoreError: missing, damaged, of a newer format, or of an older one without a registered migration.
    """
    data = read_bytes(path, inside=path.parents[_DEPTHS[kind]])
    record = decode_json(path, data)
    version = record.get("format_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version < 10**9:
        raise StoreError(f"{path}: damaged: it has no format_version")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {version}, but this lifealign reads up to version {FORMAT_VERSION}; "
            "upgrade lifealign to open this memory"
        )
    if not sealed(data):
        raise StoreError(f"{path}: damaged: its content does not match the sha256 in it")
    for older in range(version, FORMAT_VERSION):
        if older not in MIGRATIONS:
            raise StoreError(
                f"{path}: format version {version} cannot be read: there is no migration from {older} to {older + 1}"
            )
        record = MIGRATIONS[older](kind, record)
    return _options_by(as_stored, kind, record), hashlib.sha256(data).hexdigest()


def read_manifest(memory: Path, directory: str) -> TaskManifest:
    """The manifest of one task directory; StoreError if it is missing or damaged."""
    path = memory / TASKS / directory / TASK
    if not _DIRECTORY.fullmatch(directory):
        raise StoreError(f"{path}: {directory!r} is not the name of a task directory")
    record, sha256 = read_record(path, "task")
    found = check(TaskRecord, record, f"{path}: damaged")
    manifest = TaskManifest(
        directory=found.directory,
        index=found.index,
        name=found.name,
        members=tuple(found.members),
        parent=found.parent,
        parent_sha256=found.parent_sha256,
        files={name: FileEntry(entry.sha256, entry.size) for name, entry in found.files.items()},
        seed=found.seed,
        config=record["config"],
        meta=record["meta"],
        versions=found.versions,
        created=found.created,
        sha256=sha256,
    )
    if manifest.directory != directory:
        raise StoreError(f"{path}: damaged: it is the manifest of {manifest.directory!r}, but is in {directory!r}")
    if manifest.index != directory_number(directory):
        raise StoreError(f"{path}: damaged: index: it is {manifest.index}, but the directory is {directory!r}")
    if (manifest.parent is None) != (directory == ROOT):
        raise StoreError(f"{path}: damaged: {ROOT} must have no parent, and every other task must have one")
    for name in manifest.files:
        if not is_file_name(name):  # a memory may come from someone else: no path may lead out of its directory
            raise StoreError(f"{path}: damaged: {name!r} is not an allowed file name")
    return manifest


def read_head(memory: Path) -> TaskManifest:
    """The manifest that HEAD names; StoreError if HEAD is damaged or does not match it."""
    path = memory / HEAD
    data = read_bytes(path, inside=memory)
    match = _HEAD.fullmatch(data)
    directory = match.group(1).decode(errors="replace") if match else ""
    if match is None or not _DIRECTORY.fullmatch(directory):
        raise StoreError(f"{path}: damaged: expected one line '<task directory> <sha256>', got {data[:120]!r}")
    if not has_task(memory, directory):
        raise StoreError(f"{path}: damaged: it names {directory!r}, which is not in tasks/")
    manifest = read_manifest(memory, directory)
    if manifest.sha256 != match.group(2).decode():
        raise StoreError(
            f"{path}: does not match {memory / TASKS / directory / TASK}: HEAD names sha256 {match.group(2).decode()}, "
            f"the file has {manifest.sha256}; one of the two was changed"
        )
    return manifest


def read_lineage(memory: Path, tip: TaskManifest) -> tuple[TaskManifest, ...]:
    """The chain from the root to `tip`, every link checked, store.json included."""
    chain = [tip]
    while (parent := check_parent(memory, chain[-1])) is not None:
        if parent.index >= chain[-1].index:  # else a forged chain could go round for ever
            path = memory / TASKS / chain[-1].directory / TASK
            raise StoreError(f"{path}: damaged: parent: {parent.directory!r} is not older than the task itself")
        chain.append(parent)
    return tuple(reversed(chain))


def check_parent(memory: Path, child: TaskManifest) -> TaskManifest | None:
    """The parent's manifest, None for the root; StoreError if it is not the one the child was learnt on."""
    if child.parent is None:
        path, parent = memory / STORE, None
        sha256 = read_record(path, "store")[1]
    else:
        path, parent = memory / TASKS / child.parent / TASK, read_manifest(memory, child.parent)
        sha256 = parent.sha256
    if sha256 != child.parent_sha256:
        raise StoreError(
            f"{path}: does not match {memory / TASKS / child.directory / TASK}: that file expects sha256 "
            f"{child.parent_sha256}, this one has {sha256}; one of the two was changed"
        )
    return parent


def has_task(memory: Path, directory: str) -> bool:
    """Whether a directory of this name is in tasks/; StoreError if the disk does not tell."""
    with reading(memory / TASKS / directory):
        return (memory / TASKS / directory).is_dir()


def is_file_name(name: str) -> bool:
    """Whether a task may have a file of this name."""
    return name != TASK and _FILE.fullmatch(name) is not None


def is_directory_name(name: str) -> bool:
    """Whether `name` has the form of a task directory's name."""
    return _DIRECTORY.fullmatch(name) is not None


def task_directories(memory: Path) -> list[str]:
    """Names of the directories under tasks/ that hold a manifest (valid or not), in the order of their numbers."""
    with reading(memory / TASKS):
        found = [p.name for p in (memory / TASKS).iterdir() if is_directory_name(p.name) and (p / TASK).exists()]
    return sorted(found, key=directory_number)


def next_number(memory: Path) -> int:
    """One more than the highest number under tasks/, whether or not that task is valid."""
    with reading(memory / TASKS):
        names = [p.name for p in (memory / TASKS).iterdir() if is_directory_name(p.name)]
    return 1 + max(map(directory_number, names), default=0)


def directory_number(directory: str) -> int:
    """3 for ``0003-helpful``."""
    return int(directory.split("-", 1)[0])


def evaluation_files(memory: Path) -> list[Path]:
    """Files of evaluations/, oldest first."""
    with reading(memory / EVALUATIONS):
        found = [p for p in (memory / EVALUATIONS).iterdir() if _EVALUATION.fullmatch(p.name)]
    return sorted(found, key=lambda path: int(path.stem))


def read_evaluation(path: Path) -> dict[str, Any]:
    """The record in one file of evaluations/; StoreError if it was changed or renamed."""
    envelope, _ = read_record(path, "evaluation")
    number = check(Envelope, envelope, f"{path}: damaged").number
    if number != int(path.stem):
        raise StoreError(f"{path}: damaged: not the record of evaluation {int(path.stem)} (its number is {number})")
    record: dict[str, Any] = envelope["record"]
    return record
