"""The held-out rows that a memory keeps of each task; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lifealign.core.documents import Document, Name, Text, check
from lifealign.data.stored import stored_row
from lifealign.data.tasks import Row, Task
from lifealign.store.documents import read_data
from lifealign.store.layout import HELDOUT, IMPORTED, TASKS
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired


def heldout(store: MemoryReader, until: TaskManifest | None = None, *, with_retired: bool = False) -> list[Task]:
    """The tasks learnt so far, in the order they were learnt, with the held-out rows that the memory keeps of each.

    Tasks that were retired up to `until` are left out, unless `with_retired` asks for them.
    """
    tasks = {}
    gone = () if with_retired else retired(store, until)
    for manifest in store.lineage()[1:]:
        if until is not None and manifest.index > until.index:
            break
        kept = read_heldout(store, manifest)
        requirements = read_data(store, manifest).get("requirements", {})  # older memories have none
        for name in manifest.members:
            if name in gone:
                continue
            own = [(line, row) for line, row in kept if line.task == name]
            splits = {split: tuple(row for line, row in own if line.split == split) for split in ("validation", "test")}
            checker = own[0][0].checker if own else None
            tasks[name] = Task(
                name, (), splits["validation"], splits["test"], checker, requirement=requirements.get(name)
            )
    return list(tasks.values())


class HeldOut(Document):
    """One line of `HELDOUT`."""

    task: Name
    checker: Text | None
    split: Literal["validation", "test"]
    row: Mapping[str, Any]


def read_heldout(store: MemoryReader, manifest: TaskManifest) -> list[tuple[HeldOut, Row]]:
    """The lines of a commit's `HELDOUT`, each with its row; StoreError names the line of another shape."""
    where = store.path / TASKS / manifest.directory / HELDOUT
    lines = store.load_lines(manifest, HELDOUT)
    found = [check(HeldOut, line, f"{where}:{number}") for number, line in enumerate(lines, 1)]
    return [(line, stored_row(line.row, f"{where}:{n}: row")) for n, line in enumerate(found, 1)]


def heldout_rows(store: MemoryReader) -> list[tuple[str, Row]]:
    """Every held-out row of the tasks in force, with its task."""
    return [(task.name, row) for task in heldout(store) for row in (*task.validation, *task.test)]


def without_rows(store: MemoryReader, until: TaskManifest | None = None) -> list[str]:
    """The adapter that a memory began with, as a task, if its rows were not given and it is not retired."""
    begun = [m for m in store.lineage() if m.meta.get(IMPORTED) and (until is None or m.index <= until.index)]
    gone = retired(store, until)
    names = [name for m in begun if not read_data(store, m).get("rows") for name in m.members]
    return [name for name in names if name not in gone]


def heldout_lines(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The held-out rows of tasks as a commit keeps them, in the form that `heldout` reads."""
    return [
        {"task": t.name, "checker": t.checker, "split": split, "row": row.to_json()}
        for t in tasks
        for split, rows in (("validation", t.validation), ("test", t.test))
        for row in rows
    ]
