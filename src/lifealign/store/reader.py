"""The reading side of a memory: opens without a lock or torch, and checks every file before using its content."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lifealign.core import files
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import decode_json
from lifealign.core.tensors import decode_tensors, tensor_names
from lifealign.store import manifest
from lifealign.store.layout import CREATING, HEAD, STORE, TASKS
from lifealign.store.manifest import TaskManifest
from lifealign.store.verify import find_problems, find_strays

if TYPE_CHECKING:
    from torch import Tensor


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
        self._checked: dict[Path, tuple[int, ...]] = {}

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
    def head(self) -> TaskManifest:
        """The last task learnt; ``0000-initial`` before the first."""
        return self._lineage[-1]

    def lineage(self) -> tuple[TaskManifest, ...]:
        """Manifests from the root to HEAD."""
        return self._lineage

    def find(self, name_or_directory: str) -> TaskManifest:
        """A manifest of the lineage by directory, by task name (the latest) or by a member of joint training.

        Raises:
            StoreError: no such task; lists the known ones.
        """
        newest_first = self._lineage[::-1]
        for matches in (
            [m for m in newest_first if m.directory == name_or_directory],
            [m for m in newest_first if m.name == name_or_directory],
            [m for m in newest_first if name_or_directory in m.members],
        ):
            if matches:
                return matches[0]
        known = ", ".join(f"{m.name} ({m.directory})" for m in self._lineage)
        raise StoreError(f"{self.path}: no task {name_or_directory!r}; known: {known}")

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
            files.check_file(path, entry)
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
        return [manifest.read_evaluation(path) for path in manifest.evaluation_files(self.path)]

    def log(self) -> list[dict[str, Any]]:
        """One small dict for each task on disk, by number; ``current`` is False for rolled-back tasks."""
        current = {m.directory for m in self._lineage}
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
            }
            for m in (manifest.read_manifest(self.path, d) for d in manifest.task_directories(self.path))
        ]

    def verify(self) -> list[str]:
        """Problems of the memory as it is on disk now, each naming its file; empty if every byte is as written."""
        return find_problems(self.path)

    def strays(self) -> list[Path]:
        """Files in the directory that do not belong to the memory: worth a note, but not a problem."""
        return find_strays(self.path)

    # --- inside ---

    def _load(self) -> None:
        with files.reading(self.path):
            if not (self.path / HEAD).exists():
                raise StoreError(f"{self.path}: {self._why_no_memory()}")
        record, _ = manifest.read_record(self.path / STORE, "store")
        self._lineage = manifest.read_lineage(self.path, manifest.read_head(self.path))
        self._identity = record.get("identity", {})

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
        data = files.read_bytes(path)
        files.check_bytes(path, data, entry)
        return path, data


def _fingerprint(path: Path) -> tuple[int, ...]:
    with files.reading(path):
        stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
