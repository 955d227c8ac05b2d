"""Which points of a memory a recovery is between, and on which prompts; checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lifealign.core.errors import DataError
from lifealign.data.prompts import read_prompts
from lifealign.data.tasks import Message, Task
from lifealign.memory.history import StoreHistory
from lifealign.store.heldout import heldout
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired, words


@dataclass(frozen=True)
class Prompts:
    """Prompts of a task.

    Attributes:
        turns: distinct conversations, each of which ends with a user's turn.
        source: where they were found, in words.
    """

    turns: tuple[tuple[Message, ...], ...]
    source: str


@dataclass(frozen=True)
class Points:
    """What a recovery is between.

    Attributes:
        task: to recover.
        earlier: the commit whose weights still know it.
        now: HEAD.
        lost: prompts of the task.
        newest: the task that was learnt last, which must not be hurt, with its held-out rows.
        prompts: of that task.
    """

    task: str
    earlier: TaskManifest
    now: TaskManifest
    lost: Prompts
    newest: Task
    prompts: Prompts


def find_points(store: MemoryReader, task: str, as_of: str | None, file: str | None) -> Points:
    """Check a call of `recover` as far as that needs no model.

    Args:
        store: the memory.
        task: to recover.
        as_of: the point whose weights still know it; None: right after it was learnt.
        file: prompts of the task, instead of those that the memory keeps.

    Raises:
        DataError: no such task, a retired one, one after which nothing was learnt, or one without prompts.
        StoreError: no such point.
    """
    gone, lineage = retired(store), store.lineage()
    current = [name for m in lineage for name in m.members if name not in gone]
    if task in gone:
        raise DataError(f"{store.path}: task {task!r} is {words(store, task, gone[task])}, so it cannot be recovered")
    if task not in current:
        raise DataError(f"{store.path}: no task {task!r} to recover; tasks: {', '.join(current) or 'none'}")
    learnt = next(m for m in reversed(lineage) if task in m.members)
    earlier = learnt if as_of is None else store.find(as_of)
    if earlier.index < learnt.index:
        raise DataError(
            f"{store.path}: {earlier.directory} is before {learnt.directory}, where {task!r} was learnt; give a later point with --from"
        )
    newest = next(m for m in reversed(lineage) if set(m.members) - gone.keys())
    if newest.index <= earlier.index or task in newest.members:
        raise DataError(
            f"{store.path}: nothing was learnt after {earlier.directory}, so nothing of {task!r} was lost to it; give a task "
            "before the newest one, or an earlier point with --from"
        )
    name = next(name for name in reversed(newest.members) if name not in gone)
    held = {t.name: t for t in heldout(store)}
    given = None if file is None else tuple(dict.fromkeys(p.turns for p in read_prompts(file)))
    lost = _kept(store, held[task], "give them with --prompts FILE") if given is None else Prompts(given, str(file))
    prompts = _kept(store, held[name], "without them a recovery could not be kept from hurting the newest task")
    return Points(task, earlier, store.head, lost, held[name], prompts)


def _kept(store: MemoryReader, task: Task, remedy: str) -> Prompts:
    """Prompts of the rows that a memory keeps of a task: replayed ones and validation rows, never test rows."""
    replayed = [e.row.prompt for e in StoreHistory(store).replay.exemplars if e.task == task.name]
    validation = [row.prompt for row in task.validation]
    if not replayed and not validation:
        raise DataError(f"{store.path}: no prompts of {task.name!r} are kept (no replay, no validation rows); {remedy}")
    parts = [f"{len(found)} {kind} rows" for kind, found in (("replay", replayed), ("validation", validation)) if found]
    return Prompts(_distinct([*replayed, *validation]), " and ".join(parts))


def _distinct(prompts: Sequence[Sequence[Message]]) -> tuple[tuple[Message, ...], ...]:
    return tuple(dict.fromkeys(tuple(prompt) for prompt in prompts))
