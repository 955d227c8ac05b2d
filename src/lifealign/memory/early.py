"""Checks of a call that need no model: they are made first, so that a mistake is told before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.tasks import Task
from lifealign.memory.updates import in_weights
from lifealign.store.heldout import heldout, without_rows
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import check_retirable, retired, words

if TYPE_CHECKING:
    from lifealign.model.decoding import Decoder

FORMATS = ("peft", "merged", "vllm", "gguf", "gguf-lora")
"""Formats of `lifealign export`; `exporting.FORMATS` writes them."""


def which_format(form: str | None, merged: bool = False) -> str:
    """The format that is asked for, by its name or by the older flag `--merged`.

    Raises:
        ConfigError: there is no such format, or the two contradict each other.
    """
    if merged and form not in (None, "merged"):
        raise ConfigError(f"--merged and --format {form} exclude each other; leave out --merged")
    form = "merged" if merged else form or "peft"
    if form not in FORMATS:
        raise ConfigError(f"--format {form!r}: allowed: {', '.join(FORMATS)}")
    return form


def check_new_task(store: MemoryReader, name: str, supersedes: str | None = None) -> None:
    """Refuse a task that the memory cannot learn, whatever its rows. The newest one may be given again, to resume it.

    Raises:
        DataError: the memory has another task, or a tag, of that name, or no task to supersede.
    """
    known = {member: m for m in store.lineage() for member in m.members}
    if name not in known:
        store.refuse_tags([name])
        if supersedes is not None:
            check_retirable(store, supersedes, "supersede")
    elif known[name] is not store.head:
        raise taken(store, name, known[name])


def taken(store: MemoryReader, name: str, by: TaskManifest) -> DataError:
    """The error for a name that a task of the memory has."""
    return DataError(
        f"{store.path}: task {name!r} is in the memory already ({by.directory}); give another name, or roll back to the task before it"
    )


def tasks_to_score(store: MemoryReader, until: TaskManifest, names: Sequence[str] | None, split: str) -> list[Task]:
    """Tasks learnt up to a commit, with the held-out rows that the memory keeps.

    All of them if `names` is None, but not an adapter that the memory began with and whose rows were not given.

    Raises:
        DataError: no such task, or a task without rows of this split.
    """
    available = {t.name: t for t in heldout(store, until)}
    bare = without_rows(store, until)
    names = [n for n in available if n not in bare] or list(available) if names is None else list(names)
    if unknown := [n for n in names if n not in available]:
        raise DataError(
            f"{store.path}: no task {unknown[0]!r} up to {until.directory}; known: {', '.join(available) or 'none'}"
        )
    chosen = [available[n] for n in names]
    check_rows(store, chosen, split)
    return chosen


def check_rows(store: MemoryReader, tasks: Sequence[Task], split: str) -> None:
    """Refuse tasks without rows of a split.

    Raises:
        DataError: names the first of them.
    """
    if empty := [t.name for t in tasks if not getattr(t, split)]:
        raise DataError(f"{store.path}: task {empty[0]!r} has no {split} rows; learn it with some to evaluate it")


def full_weights(store: MemoryReader, until: TaskManifest, given: Mapping[str, float]) -> dict[str, float]:
    """A weight for every task in the weights of a commit; 1 if none is given.

    Raises:
        StoreError: no such task up to the commit.
        ConfigError: a weight that is not finite.
    """
    current = in_weights(store, until)
    known = {key: m.name for m in current for key in (m.directory, m.name)}
    weights = {m.name: 1.0 for m in current}
    for name, weight in given.items():
        if name not in known:
            gone = retired(store, until)
            why = f" ({words(store, name, gone[name])})" if name in gone else ""
            raise StoreError(
                f"{store.path}: no task {name!r} up to {until.directory}{why}; known: {', '.join(weights) or 'none'}"
            )
        if not math.isfinite(weight):
            raise ConfigError(f"weight {name}={weight} is not finite; give a finite number")
        weights[known[name]] = float(weight)
    return weights


def bound(decoder: Decoder | str, store: MemoryReader, options: Mapping[str, Any]) -> Decoder:
    """A decoder that has found the rules it names, those of the memory's tasks too, and takes the options of the call.

    Raises:
        ConfigError: no such decoder, a rule that cannot be used, or an option that it cannot honour.
        DataError: no such task, or a task without a rule.
    """
    from lifealign.memory.rules import rule_of_task
    from lifealign.model.decoding import as_decoder

    found = as_decoder(decoder)
    assert found is not None
    found.check(options)
    found.bind(lambda task: rule_of_task(store, task))
    return found
