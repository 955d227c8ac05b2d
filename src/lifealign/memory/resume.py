"""Whether what a run asks for is what a memory holds already, so that a killed run can go on. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from lifealign.core.config import RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.tasks import Task, rows_sha256
from lifealign.store.heldout import heldout
from lifealign.store.layout import RETIRES
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader


def as_one(group: Sequence[Task]) -> Task:
    """A group as one task to train on; held-out rows stay with their own task."""
    if len(group) == 1:
        return group[0]
    gone = {task.supersedes for task in group}
    return Task("joint", tuple(row for task in group if task.name not in gone for row in task.train))


def same_rows(store: MemoryReader, manifest: TaskManifest, group: Sequence[Task]) -> bool:
    """Whether a commit has these tasks, learnt from these rows, with the same held-out rows."""
    if list(manifest.members) != [t.name for t in group]:
        return False
    kept = {t.name: t for t in heldout(store, manifest, with_retired=True)}
    held_out = all((t.validation, t.test) == (kept[t.name].validation, kept[t.name].test) for t in group)
    return held_out and manifest.meta["rows_sha256"] == rows_sha256(as_one(group).train)


def supersedes(learnt: TaskManifest | Sequence[Task]) -> list[str]:
    """Names of the tasks that a commit, or a group of tasks, supersedes."""
    if isinstance(learnt, TaskManifest):
        return list(learnt.meta.get(RETIRES, ()))
    return [task.supersedes for task in learnt if task.supersedes is not None]


def same_settings(manifest: TaskManifest, config: RunConfig) -> bool:
    """Whether a commit was learnt with these settings."""
    asked = config.model_dump(mode="json", include={"data", "strategy", "sft", "train"})
    return asked == {key: manifest.config[key] for key in asked}


def other_rules(store: MemoryReader, manifest: TaskManifest, group: Sequence[Task]) -> list[tuple[Task, Task]]:
    """(task as a commit keeps it, task of the run) for each whose rule differs; a task without held-out rows keeps none."""
    kept = {t.name: t for t in heldout(store, manifest, with_retired=True)}
    pairs = [(kept[t.name], t) for t in group]
    return [(old, new) for old, new in pairs if (old.validation or old.test) and old.checker != new.checker]


def same_task(store: MemoryReader, manifest: TaskManifest, task: Task, config: RunConfig) -> bool:
    """Whether a commit is this task, learnt with these settings, so that only its row of R may be missing."""
    same = same_rows(store, manifest, [task]) and not other_rules(store, manifest, [task])
    return same and same_settings(manifest, config) and supersedes(manifest) == supersedes([task])


def check_same(store: MemoryReader, manifest: TaskManifest, group: Sequence[Task]) -> None:
    """Refuse a run whose tasks are not those of a commit.

    Raises:
        StoreError: names the tasks, or the rule that differs.
    """
    if not same_rows(store, manifest, group):
        raise StoreError(
            f"{store.path}: task {manifest.index} of this memory is {list(manifest.members)}, learnt from or scored on other rows "
            f"than this run's {[t.name for t in group]}; give another `memory` directory, or roll back to the task before it"
        )
    if supersedes(manifest) != supersedes(group):
        raise StoreError(
            f"{store.path}: task {manifest.name!r} supersedes {', '.join(supersedes(manifest)) or 'none'} in the memory, "
            f"{', '.join(supersedes(group)) or 'none'} here; set it back, give another `memory` directory, or roll back to the task "
            "before it"
        )
    for old, new in other_rules(store, manifest, group):
        raise StoreError(
            f"{store.path}: the checker of task {new.name!r} is {old.checker!r} in the memory, {new.checker!r} here; set it back, "
            "give another `memory` directory, or roll back to the task before it"
        )
