"""Tasks that were superseded or withdrawn: from the commit that retired them on they are not replayed or scored; no torch."""

from __future__ import annotations

from lifealign.core.errors import DataError
from lifealign.store.layout import RECOVERS, RETIRES, ROOT
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader


def retired(store: MemoryReader, until: TaskManifest | None = None) -> dict[str, str]:
    """Task -> directory of the commit that retired it, of the tasks retired up to a commit (None: up to HEAD)."""
    return {
        name: m.directory
        for m in store.lineage()
        if until is None or m.index <= until.index
        for name in m.meta.get(RETIRES, ())
    }


def is_withdrawal(manifest: TaskManifest) -> bool:
    """Whether a commit retires tasks and learns none."""
    return not manifest.members and RETIRES in manifest.meta


def learns_nothing(manifest: TaskManifest) -> bool:
    """Whether a commit learns no task: it withdraws one, or recovers one."""
    return not manifest.members and (RETIRES in manifest.meta or RECOVERS in manifest.meta)


def recovery_name(store: MemoryReader, task: str) -> str:
    """Name of the next commit that recovers a task, ``recover:tone`` or ``recover:tone:2``; no task and no tag can have it."""
    before = sum(m.meta.get(RECOVERS) == task for m in store.lineage())
    return f"recover:{task}:{before + 1}" if before else f"recover:{task}"


def withdrawal_name(task: str) -> str:
    """Name of the commit that withdraws a task; no task and no tag can have it."""
    return f"withdraw:{task}"


def words(store: MemoryReader, task: str, directory: str) -> str:
    """How a task was retired, e.g. ``withdrawn by 0003-withdraw-tone``."""
    return f"{'withdrawn' if is_withdrawal(store.find(directory)) else 'superseded'} by {directory}"


def check_retirable(store: MemoryReader, name: str, verb: str) -> None:
    """Refuse a task that cannot be retired now.

    Args:
        store: the memory.
        name: of the task.
        verb: `supersede` or `withdraw`, for messages.

    Raises:
        DataError: no such task, one that is retired already, or one that was learnt together with others.
    """
    gone = retired(store)
    current = [task for m in store.lineage() for task in m.members if task not in gone]
    tasks = f"tasks: {', '.join(current) or 'none'}"
    if name in (ROOT, store.lineage()[0].name, "base"):
        raise DataError(
            f"{store.path}: {name!r} is the point before the first task, so there is nothing to {verb}; {tasks}"
        )
    found = next((m for m in store.lineage()[1:] if name in m.members), None)
    if found is None:
        raise DataError(f"{store.path}: no task {name!r} to {verb}; {tasks}")
    if len(found.members) > 1:
        raise DataError(
            f"{store.path}: {name!r} was learnt together with other tasks ({found.directory}), whose rows cannot be told from "
            f"its own; learn the other tasks anew without it"
        )
    if name in gone:
        raise DataError(f"{store.path}: task {name!r} is {words(store, name, gone[name])} already; {tasks}")
