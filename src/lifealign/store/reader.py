"""The reading side of a memory: opens without a lock or torch, and checks every file before using its content."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lifealign.core import files
from lifealign.core.documents import check
from lifealign.core.errors import DataError, StoreError
from lifealign.core.json_codec import decode_json
from lifealign.core.tensors import decode_tensors, tensor_names
from lifealign.data.answers import BASE
from lifealign.store import manifest
from lifealign.store.layout import CREATING, HEAD, PENDING, RECOVERS, RETIRES, STORE, TASKS
from lifealign.store.manifest import NOTE, TaskManifest
from lifealign.store.schema import Made, StoreRecord
from lifealign.store.tags import Tag, compare, read_tags
from lifealign.store.verify import find_problems, find_strays

if TYPE_CHECKING:
    from torch import Tensor

_ATTEMPTS = 100  # to read a point that no commit cuts in two; a commit takes longer than a reading
NOW = "now"
"""Name of the point after the last task learnt."""


def place(point: TaskManifest) -> str:
    """A point in words: `base`, or ``after`` its name."""
    return BASE if point.index == 0 else f"after {point.name}"


class MemoryReader:
    """A memory as it was when opened, whatever a writer adds meanwhile.

    Attributes:
        path: the memory's directory.
    """

    def __init__(self, path: Path) -> None:
        """Called by `open` only."""
        self.path = path
        self._identity: dict[str, Any] = {}
        self._lineage: tuple[TaskManifest, ...] = ()
        self._directories: list[str] = []
        self._checked: dict[Path, tuple[int, ...]] = {}
        self._tags: dict[str, Tag] | StoreError = {}

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open for reading: takes no lock, writes nothing; checks store.json, HEAD and the chain of manifests.

        Raises:
            StoreError: not a memory, damaged (names the file), or of a newer format (names both versions).
        """
        store = cls(Path(path))
        store._load()
        return store

    @property
    def identity(self) -> dict[str, Any]:
        """A copy of the identity given to `create`."""
        return copy.deepcopy(self._identity)

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the run configuration in the identity.

        Raises:
            StoreError: the memory was made without one.
        """
        if "config" not in self._identity:
            raise StoreError(f"{self.path / STORE}: identity.config: missing; this memory keeps no configuration")
        return copy.deepcopy(dict(self._identity["config"]))

    @property
    def head(self) -> TaskManifest:
        """The last task learnt; ``0000-initial`` before the first."""
        return self._lineage[-1]

    def lineage(self) -> tuple[TaskManifest, ...]:
        """Manifests from the root to HEAD."""
        return self._lineage

    def find(self, name_or_directory: str) -> TaskManifest:
        """A manifest of the lineage by directory, task name (the latest), member of joint training, tag, `base` or `now`.

        Raises:
            StoreError: no such task or tag (lists the known ones), or a tag of a task that was rolled back.
        """
        newest_first = self._lineage[::-1]
        for matches in (
            [m for m in newest_first if m.directory == name_or_directory],
            [m for m in newest_first if m.name == name_or_directory],
            [m for m in newest_first if name_or_directory in m.members],
        ):
            if matches:
                return matches[0]
        tags = self.tags()
        if name_or_directory in tags:
            return self._tagged(name_or_directory, tags[name_or_directory])
        if name_or_directory in (BASE, NOW):
            return self._lineage[0] if name_or_directory == BASE else self.head
        known = ", ".join([BASE, *(f"{m.name} ({m.directory})" for m in self._lineage[1:])])
        named = "; tags: " + ", ".join(f"{name} ({tag.directory})" for name, tag in tags.items()) if tags else ""
        back = self._rolled_back(name_or_directory)
        raise StoreError(f"{self.path}: no task {name_or_directory!r}; known: {known}{named}{back}")

    def tags(self) -> dict[str, Tag]:
        """Every tag by name, also those of tasks that were rolled back.

        Raises:
            StoreError: their file is damaged; nothing else of the memory depends on it.
        """
        if isinstance(self._tags, StoreError):
            raise self._tags
        return dict(self._tags)

    def refuse_tags(self, names: Iterable[str]) -> None:
        """Refuse names for new tasks that are tags: each name must mean one point.

        Raises:
            DataError: names the first of them.
        """
        tags = self.tags()
        for name in names:
            if name in tags:
                raise DataError(
                    f"{self.path}: {name!r} is a tag of this memory ({tags[name].directory}), so no task can have that "
                    f"name; choose another, or remove the tag: lifealign tag {self.path} --delete {name}"
                )

    def load_tensors(self, task: TaskManifest, stem: str) -> dict[str, Tensor]:
        """All tensors of ``<stem>.safetensors``, on the CPU, from the same bytes whose checksum was compared."""
        path, data = self._read(task, f"{stem}.safetensors")
        return decode_tensors(path, data)

    def load_tensor(self, task: TaskManifest, stem: str, name: str) -> Tensor:
        """One tensor of ``<stem>.safetensors``, without holding the others in memory.

        The file's checksum is compared on first use, and again when the file has changed since (inode, size, times).
        """
        path, entry = self._entry(task, f"{stem}.safetensors")
        fingerprint = _fingerprint(path)
        if self._checked.get(path) != fingerprint:
            files.check_file(path, entry, inside=self.path)
            self._checked[path] = fingerprint
        if name not in (known := tensor_names(path)):
            raise StoreError(f"{path}: no tensor {name!r}; it has {', '.join(known) or 'none'}")
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stream:
            tensor: Tensor = stream.get_tensor(name)
        return tensor

    def tensor_names(self, task: TaskManifest, stem: str) -> list[str]:
        """Sorted names in ``<stem>.safetensors``, from its header and without torch."""
        return tensor_names(self._entry(task, f"{stem}.safetensors")[0])

    def load_document(self, task: TaskManifest, filename: str) -> Any:
        """The JSON value of ``<name>.json``."""
        return decode_json(*self._read(task, filename))

    def load_lines(self, task: TaskManifest, filename: str) -> list[Any]:
        """The JSON values of ``<name>.jsonl``, in order."""
        path, data = self._read(task, filename)
        return [decode_json(path, line) for line in data.splitlines()]

    def evaluations(self) -> list[dict[str, Any]]:
        """All evaluation records, oldest first, including those of rolled-back tasks; StoreError if one is damaged."""
        return list(self.evaluations_by_file().values())

    def evaluations_by_file(self) -> dict[Path, dict[str, Any]]:
        """`evaluations`, each by its file."""
        return {path: manifest.read_evaluation(path) for path in manifest.evaluation_files(self.path)}

    def log(self) -> list[dict[str, Any]]:
        """One small dict for each task on disk when opened, by number; ``current`` is False for rolled-back tasks."""
        current, tags = {m.directory for m in self._lineage}, self.tags()
        return [
            {
                "directory": m.directory,
                "index": m.index,
                "name": m.name,
                "members": list(m.members),
                "parent": m.parent,
                "created": m.created,
                "seed": m.seed,
                "bytes": sum(entry.size for entry in m.files.values()),
                "head": m.directory == self.head.directory,
                "current": m.directory in current,
                "tags": [name for name, tag in tags.items() if tag.directory == m.directory],
                "note": m.meta.get(NOTE),
                "retires": list(m.meta.get(RETIRES, ())),
                **({"recovers": m.meta[RECOVERS]} if RECOVERS in m.meta else {}),
            }
            for m in (manifest.read_manifest(self.path, d) for d in self._directories)
        ]

    def verify(self, *, deep: bool = False) -> list[str]:
        """Problems of the memory as it is on disk now, each naming its file; empty if every byte is as written.

        `deep` also loads every tensor and parses every document.
        """
        return find_problems(self.path, deep=deep)

    def strays(self) -> list[Path]:
        """Files in the directory that do not belong to the memory: worth a note, but not a problem."""
        return find_strays(self.path)

    # --- inside ---

    def _load(self) -> None:
        with files.reading(self.path):
            if not (self.path / HEAD).exists():
                raise StoreError(f"{self.path}: {self._why_no_memory()}")
        for _ in range(_ATTEMPTS):
            before = files.read_bytes(self.path / HEAD)
            self._load_point()
            if files.read_bytes(self.path / HEAD) == before:  # else a commit came in between
                return

    def _load_point(self) -> None:
        """Read one point: tags, identity, lineage, and the tasks on disk without the one that a writer is adding."""
        try:
            self._tags = read_tags(self.path)  # before HEAD: a tag never names a task that this reader has not seen
        except StoreError as error:
            self._tags = error
        record, _ = manifest.read_record(self.path / STORE, "store")
        check(StoreRecord, record, f"{self.path / STORE}: damaged")
        self._lineage = manifest.read_lineage(self.path, manifest.read_head(self.path))
        self._identity = record.get("identity", {})
        if "config" in self._identity:
            check(Made, self._identity, f"{self.path / STORE}: damaged: identity")
        under_way = self._under_way() - {task.directory for task in self._lineage}
        self._directories = [d for d in manifest.task_directories(self.path) if d not in under_way]

    def _under_way(self) -> set[str]:
        """The directory that a writer may have put in place without moving HEAD to it yet, or was killed before it did."""
        try:
            line = (self.path / PENDING).read_bytes()
        except OSError:
            return set()
        return {line.decode("ascii", errors="replace").partition(" ")[0]}

    def _rolled_back(self, name: str) -> str:
        """How to go forward to a task of this name that was rolled back; "" if there is none."""
        here = {m.directory for m in self._lineage}
        for directory in reversed(self._directories):
            with suppress(StoreError):  # a damaged one is another command's business
                if directory not in here and name in manifest.read_manifest(self.path, directory).members:
                    return f"; {directory} was rolled back: to go forward, lifealign rollback {self.path} {directory}"
        return ""

    def _tagged(self, name: str, tag: Tag) -> TaskManifest:
        """The manifest of the lineage that a tag names."""
        found = next((m for m in self._lineage if m.directory == tag.directory), None)
        if found is None:
            raise StoreError(
                f"{self.path}: tag {name!r} names {tag.directory}, which was rolled back; go forward to it "
                f"(lifealign rollback {self.path} {tag.directory}) or move the tag"
            )
        compare(self.path, name, tag, found.sha256)
        return found

    def _why_no_memory(self) -> str:
        if not self.path.exists():
            return "no such directory"
        if not self.path.is_dir():
            return "not a directory"
        if (self.path / CREATING).exists():
            return "a memory whose creation was interrupted; create it again"
        return f"not a memory: it has no {HEAD}" + (f", only {STORE}" if (self.path / STORE).exists() else "")

    def _entry(self, task: TaskManifest, filename: str) -> tuple[Path, files.FileEntry]:
        path = self.path / TASKS / task.directory / filename
        if filename not in task.files:
            raise StoreError(f"{path}: the task has no such file; it has {', '.join(sorted(task.files)) or 'none'}")
        return path, task.files[filename]

    def _read(self, task: TaskManifest, filename: str) -> tuple[Path, bytes]:
        path, entry = self._entry(task, filename)
        return path, files.read_checked(path, entry, inside=self.path)


def _fingerprint(path: Path) -> tuple[int, ...]:
    with files.reading(path):
        stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
