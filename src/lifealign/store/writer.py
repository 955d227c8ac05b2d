"""MemoryStore: the durable memory on disk. Append-only, checksummed, atomic; opens without torch.

    memory/store.json             identity: base model, tokenizer, template, LoRA shape, strategy, configuration
    memory/tasks/0000-initial/    the adapter before any task
    memory/tasks/0003-<slug>/     tensors, documents and rows after a task; task.json (the manifest) is written last
    memory/evaluations/000007.json
    memory/tags.json              names for points, if any were given
    memory/HEAD                   "<task directory> <sha256 of its task.json>"
    memory/work/                  checkpoints of unfinished work, not verified
    memory/.lock                  held by the one writer

A task is committed when HEAD names it. docs/explanation/store.md explains the order of the steps of `commit`.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from lifealign.core import files
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import seal
from lifealign.store import manifest
from lifealign.store.contents import encode, head_line, slug
from lifealign.store.layout import CREATING, EVALUATIONS, HEAD, LOCK, PENDING, ROOT, STORE, TAGS, TASK, TASKS, WORK
from lifealign.store.manifest import FORMAT_VERSION, MIGRATIONS, TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.tags import Tag, check_name, check_tag, encode_tags

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT_VERSION", "MIGRATIONS", "MemoryStore", "TaskManifest"]

_PACKAGES = ("lifealign", "torch", "transformers", "peft", "safetensors")
NOT_DURABLE = "but the disk did not confirm it, so a power cut may lose it; check the disk, and run the command again"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class MemoryStore(MemoryReader):
    """One memory, made by `create` or `open`. Reads need no lock; writes happen inside `writer()`.

    Attributes:
        path: the memory's directory.
    """

    def __init__(self, path: Path) -> None:
        """Called by `create` and `open` only."""
        super().__init__(path)
        self._lock: filelock.BaseFileLock | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        identity: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Any] | None = None,
    ) -> MemoryStore:
        """Make a memory; anything that a killed `create` left in the directory is removed first.

        Args:
            path: a directory that is missing or empty.
            identity: what the memory is tied to, as any JSON. Its ``seed``, if any, is noted in the root's manifest.
            tensors: file stem -> named tensors of ``0000-initial``, at least the adapter before any task.
            documents: file name (``.json``) -> JSON value of ``0000-initial``.

        Raises:
            StoreError: the directory holds a memory or other files, or it cannot be written.
        """
        store = cls(Path(path))
        contents = encode(tensors, documents or {}, {})
        with files.writing(store.path):
            store.path.mkdir(parents=True, exist_ok=True)
            files.fsync_directory(store.path.parent)
        with store._locked():
            store._prepare_creation()
            try:
                with files.writing(store.path):
                    store._write_root(identity, contents)
            except BaseException:
                with suppress(OSError):
                    store._wipe_creation()
                raise
            store._load()
        return store

    @contextmanager
    def writer(self) -> Iterator[MemoryStore]:
        """Hold the memory's lock, read HEAD again and remove what killed writers left behind.

        May be nested. The lock is released with the process, however it ends.

        Raises:
            StoreError: another process holds the lock, or the directory cannot be written.
        """
        if self._lock is not None:
            yield self
            return
        self._load()  # before the lock file is made: a path that is no memory stays as it is
        with self._locked():
            self._load()
            with files.writing(self.path):
                self._sweep()
            yield self

    def commit(
        self,
        name: str,
        *,
        members: Sequence[str],
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Any],
        lines: Mapping[str, Iterable[Any]],
        seed: int,
        config: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
    ) -> TaskManifest:
        """Add a task on top of HEAD and move HEAD to it, all or nothing.

        Args:
            name: of the task; several tasks may have the same name.
            members: names of the tasks learnt in it.
            tensors: file stem -> named tensors.
            documents: file name (``.json``) -> JSON value.
            lines: file name (``.jsonl``) -> JSON values, one a line.
            seed: of the run.
            config: of the run.
            meta: anything else worth keeping in the manifest.

        Raises:
            StoreError: the operating system refused a write; HEAD and all earlier tasks are unchanged.
        """
        self._assert_locked()
        contents = encode(tensors, documents, lines)
        index = manifest.next_number(self.path)
        record = {
            "directory": f"{index:04d}-{slug(name)}",
            "index": index,
            "name": name,
            "members": list(members),
            "parent": self.head.directory,
            "parent_sha256": self.head.sha256,
            "seed": seed,
            "config": dict(config),
            "meta": dict(meta or {}),
        }
        try:
            with files.writing(self.path):
                self._write_task(record, contents)
        except BaseException as error:
            with suppress(OSError, StoreError):  # the next writer removes what cannot be removed now
                self._load()
                self._sweep()
            if isinstance(error, StoreError) and self.head.directory == record["directory"]:
                raise StoreError(f"{self.path}: {self.head.directory} is committed, {NOT_DURABLE} ({error})") from error
            raise
        self._load()
        return self.head

    def rollback(self, name_or_directory: str) -> TaskManifest:
        """Move HEAD to a task and delete nothing.

        Takes a task of the lineage, by name or directory, or the directory or tag of any other task on disk, so a
        rollback can be undone. Later commits get new numbers, never those of tasks that exist.

        Raises:
            StoreError: no such task, or one of its files is damaged.
        """
        self._assert_locked()
        if (tag := self.tags().get(name_or_directory)) is not None:
            check_tag(self.path, name_or_directory, tag)
            target = manifest.read_manifest(self.path, tag.directory)
        elif manifest.is_directory_name(name_or_directory) and name_or_directory in manifest.task_directories(
            self.path
        ):
            target = manifest.read_manifest(self.path, name_or_directory)
        else:
            target = self.find(name_or_directory)
        manifest.read_lineage(self.path, target)
        for filename, entry in target.files.items():
            files.check_file(self.path / TASKS / target.directory / filename, entry)
        with files.writing(self.path):
            self._move_head(target.directory, target.sha256)
        self._load()
        return self.head

    def tag(self, name_or_directory: str, name: str) -> tuple[Tag, Tag | None]:
        """Give a task a name, or move the name to it.

        Args:
            name_or_directory: a task of the lineage, or another tag of one.
            name: the tag.

        Returns:
            The tag, and the one it replaces; the two are the same if the task had that name already.

        Raises:
            ConfigError: see `tags.check_name`.
            StoreError: no such task in the lineage, or it is damaged.
        """
        self._assert_locked()
        tags = self.tags()
        check_name(name, {n for entry in self.log() for n in (entry["name"], *entry["members"])})
        target = self.find(name_or_directory)
        old = tags.get(name)
        if old is not None and (old.directory, old.sha256) == (target.directory, target.sha256):
            return old, old
        tags[name] = Tag(target.directory, target.sha256, _now())
        self._write_tags(tags)
        return tags[name], old

    def untag(self, name: str) -> Tag:
        """Remove a tag and return it; the task that it names stays.

        Raises:
            StoreError: no such tag; lists the known ones.
        """
        self._assert_locked()
        tags = self.tags()
        if name not in tags:
            raise StoreError(f"{self.path}: no tag {name!r}; tags: {', '.join(tags) or 'none'}")
        removed = tags.pop(name)
        self._write_tags(tags)
        return removed

    def append_evaluation(self, record: Mapping[str, Any]) -> Path:
        """Store one record permanently, as the next file of evaluations/.

        Args:
            record: JSON with at least ``kind`` and ``after`` (the task directory it was measured after).
        """
        self._assert_locked()
        assert "kind" in record and record.get("after") in manifest.task_directories(self.path), record
        existing = manifest.evaluation_files(self.path)
        number = int(existing[-1].stem) + 1 if existing else 1
        path = self.path / EVALUATIONS / f"{number:06d}.json"
        sealed = seal({"format_version": FORMAT_VERSION, "number": number, "record": dict(record)})
        with files.writing(path):
            files.replace_file(path, sealed)
        return path

    def workspace(self, key: str) -> Path:
        """A directory for unfinished work (see `training.checkpoints`), made if missing; one for each key."""
        path = self._workspace(key)
        with files.writing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def clear_workspace(self, key: str) -> None:
        """Remove a workspace if it exists."""
        path = self._workspace(key)
        with files.writing(path):
            if path.exists():
                files.discard_directory(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.path / LOCK
        lock = filelock.FileLock(path, timeout=0)
        with files.writing(path):
            try:
                lock.acquire()
            except filelock.Timeout:  # also an OSError, so it is caught first
                raise StoreError(
                    f"another process is writing to {self.path} (lock file {path}); wait for it to end"
                ) from None
        self._lock = lock
        try:
            yield
        finally:
            self._lock = None
            lock.release()

    def _assert_locked(self) -> None:
        assert self._lock is not None, "write inside `with store.writer():`"

    def _write_task(self, record: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
        """Files, manifest, PENDING, rename, HEAD: see docs/explanation/store.md."""
        directory = record["directory"]
        with files.staged_directory(self.path / TASKS / directory) as temporary:
            entries = {name: vars(files.write_file(temporary / name, data)) for name, data in contents.items()}
            stamp = {"format_version": FORMAT_VERSION, "versions": _versions(), "created": _now()}
            entry = files.write_file(temporary / TASK, seal({**record, "files": entries, **stamp}))
            files.replace_file(self.path / PENDING, head_line(directory, entry.sha256))
        self._move_head(directory, entry.sha256)
        self._remove_mark(PENDING)

    def _write_tags(self, tags: Mapping[str, Tag]) -> None:
        with files.writing(self.path):
            files.replace_file(self.path / TAGS, encode_tags(dict(sorted(tags.items()))))
        self._load()

    def _move_head(self, directory: str, sha256: str) -> None:
        files.replace_file(self.path / HEAD, head_line(directory, sha256))

    def _remove_mark(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)
        files.fsync_directory(self.path)

    def _sweep(self) -> None:
        """Remove temporary files, and the task that a killed writer renamed into place without moving HEAD to it."""
        for directory in (self.path, self.path / TASKS, self.path / EVALUATIONS, self.path / WORK):
            if directory.is_dir():
                files.sweep(directory)
        if (self.path / CREATING).exists():  # HEAD is there, so the creation was complete
            self._remove_mark(CREATING)
        if (self.path / PENDING).exists():
            self._settle_pending()
            self._remove_mark(PENDING)

    def _settle_pending(self) -> None:
        """Remove the task that PENDING names, unless HEAD names it by now."""
        line = files.read_bytes(self.path / PENDING)
        directory = line.decode(errors="replace").partition(" ")[0]
        if not manifest.is_directory_name(directory):
            raise StoreError(
                f"{self.path / PENDING}: damaged: expected one line '<task directory> <sha256>', got {line[:120]!r}"
            )
        if directory in {m.directory for m in self._lineage} or not (self.path / TASKS / directory).exists():
            return
        # The checksum keeps a damaged PENDING from removing a task that was committed and rolled back.
        if line != head_line(directory, manifest.read_manifest(self.path, directory).sha256):
            raise StoreError(
                f"{self.path / PENDING}: does not match {self.path / TASKS / directory / TASK}; one of the two was changed"
            )
        files.discard_directory(self.path / TASKS / directory)

    def _prepare_creation(self) -> None:
        """Refuse a directory that holds anything but the remains of an interrupted creation; remove those."""
        if (self.path / HEAD).exists():
            raise StoreError(f"{self.path}: already holds a memory; choose another directory")
        if (self.path / CREATING).exists():
            with files.writing(self.path):
                self._wipe_creation()
        present = sorted({p.name for p in self.path.iterdir()} - {LOCK})
        if present:
            raise StoreError(
                f"{self.path}: not empty and not a memory: it holds {', '.join(present[:5])}; choose another directory"
            )

    def _wipe_creation(self) -> None:
        if (self.path / TASKS).exists() and manifest.next_number(self.path) > 1:
            raise StoreError(
                f"{self.path}: holds both the mark {CREATING} and tasks; look at the tasks before you remove anything"
            )
        for name in (HEAD, STORE, PENDING):
            (self.path / name).unlink(missing_ok=True)
        for name in (TASKS, EVALUATIONS, WORK):
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        files.sweep(self.path)
        self._remove_mark(CREATING)  # last: without it the rest would be taken for a user's files

    def _write_root(self, identity: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
        files.write_file(self.path / CREATING, b"")
        files.fsync_directory(self.path)
        for name in (TASKS, EVALUATIONS, WORK):
            (self.path / name).mkdir()
        store = {"format_version": FORMAT_VERSION, "created": _now(), "identity": dict(identity)}
        entry = files.write_file(self.path / STORE, seal(store))
        record = {
            "directory": ROOT,
            "index": 0,
            "name": "initial",
            "members": [],
            "parent": None,
            "parent_sha256": entry.sha256,
            "seed": identity.get("seed", 0),
            "config": {},
            "meta": {},
        }
        self._write_task(record, contents)
        self._remove_mark(CREATING)

    def _workspace(self, key: str) -> Path:
        self._assert_locked()
        assert _KEY.fullmatch(key), f"workspace key {key!r}"
        return self.path / WORK / key


def _versions() -> dict[str, str | None]:
    """Installed versions, without importing the packages."""
    found = dict[str, str | None].fromkeys(_PACKAGES)
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
