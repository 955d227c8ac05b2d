"""Take a memory back that was just made, and that nothing was learnt into."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lifealign.core import files
from lifealign.store import manifest
from lifealign.store.layout import CREATING, IMPORTED, LIVE, LOCK, ROOT, TASKS, TRACKERS, WORK
from lifealign.store.writer import MemoryStore


def missing(path: Path) -> list[Path]:
    """The directories that making a memory at `path` will make, its own first."""
    return [p for p in (path, *path.parents) if not p.exists()]


def take_back(store: MemoryStore, made: Sequence[Path]) -> None:
    """Undo a creation, unless the memory has a task or unfinished work to resume by now.

    Args:
        store: the memory.
        made: `missing` of its path before it was made; these directories are removed too.

    Raises:
        StoreError: another process writes to it, or it cannot be removed.
    """
    with store._locked():
        store._load()
        folders = [d for d in (store.path / WORK).iterdir() if d.name != TRACKERS]
        work = [f for d in folders for f in d.rglob("*") if f.is_file() and not f.match(LIVE)]
        others = [d for d in manifest.task_directories(store.path) if d != ROOT]
        learnt = [d for d in others if not manifest.read_manifest(store.path, d).meta.get(IMPORTED)]
        if learnt or work:
            return
        with files.writing(store.path):
            root = manifest.read_manifest(store.path, ROOT)
            store._move_head(ROOT, root.sha256)
            for task in others:
                files.discard_directory(store.path / TASKS / task)
            files.write_file(store.path / CREATING, b"")
            store._wipe_creation()
    (store.path / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # something else is in one of them by now
        for directory in made:
            directory.rmdir()
