"""Rules of a memory's tasks, found again where it is opened; without a rule, pass rates are not measured. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifealign.core.errors import DataError, UserError
from lifealign.core.origin import described, find_file, is_file, remedy
from lifealign.data.suites.rules import CHECKERS, Rule, checker
from lifealign.data.tasks import Task
from lifealign.memory.code import changes, locate
from lifealign.store.documents import read_data
from lifealign.store.heldout import heldout
from lifealign.store.layout import RULES
from lifealign.store.reader import MemoryReader


@dataclass(frozen=True)
class Rules:
    """The rules of tasks, as far as they can be found here.

    Attributes:
        functions: name -> rule; one that cannot be found is left out.
        origins: name -> origin of each rule from outside, as a record keeps it; a sentence if it cannot be found.
        changed: one sentence for each rule whose source has changed since its task was learnt.
    """

    functions: Mapping[str, Rule] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)
    changed: Sequence[str] = ()

    @property
    def warnings(self) -> list[str]:
        """One sentence for each rule that cannot be found, or has changed."""
        return [*(origin for origin in self.origins.values() if isinstance(origin, str)), *self.changed]

    def of(self, task: Task) -> Rule | None:
        """The rule of a task; None if it has none, or it cannot be found."""
        return None if task.checker is None else self.functions.get(task.checker)

    def measured(self, record: Mapping[str, Any], task: Task) -> bool:
        """Whether an evaluation record has a task's pass rate by the rule that is here; if none is here, it has."""
        name = task.checker
        if name is None or name not in self.functions or name not in record.get(RULES, {}):
            return True
        then, now = record[RULES][name], self.origins.get(name)
        if isinstance(then, str):
            return False
        return not isinstance(now, Mapping) or then["sha256"] == now["sha256"]


def find_rules(tasks: Sequence[Task], store: MemoryReader | None = None) -> Rules:
    """Find the rules of tasks.

    Args:
        tasks: with or without a rule.
        store: a memory that tells where a rule was; it is looked for as in `code.find_code`.
    """
    functions: dict[str, Rule] = {}
    origins: dict[str, Mapping[str, Any] | str] = {}
    changed: list[str] = []
    names = list(dict.fromkeys(task.checker for task in tasks if task.checker is not None))
    stored = (
        _stored(store)
        if store is not None and any(CHECKERS.is_outside(name) or name not in CHECKERS for name in names)
        else {}
    )
    for name in names:
        record = stored.get(name)
        try:
            if store is not None and record is not None:
                locate(CHECKERS, {"name": name, **record}, store.path)
            functions[name] = checker(name)
        except UserError as error:
            origins[name] = _missing(name, record, error)
            continue
        if CHECKERS.is_outside(name):
            origins[name] = now = CHECKERS.origin(name).to_json()
            changed += [] if record is None else changes(f"checker {name!r}", record, now)
    return Rules(functions, origins, changed)


def rule_of_task(store: MemoryReader, name: str) -> Rule:
    """The rule of one task of a memory, also of a withdrawn one.

    Raises:
        DataError: no such task, a task without a rule, or a rule that cannot be found here.
    """
    known = {task.name: task for task in heldout(store, with_retired=True)}
    if name not in known:
        raise DataError(f"{store.path}: no task {name!r}; known: {', '.join(known) or 'none'}")
    if known[name].checker is None:
        with_rule = [task.name for task in known.values() if task.checker is not None]
        raise DataError(
            f"{store.path}: task {name!r} was learnt without a rule (`checker`), so it cannot be held; "
            f"tasks with one: {', '.join(with_rule) or 'none'}"
        )
    found = find_rules([known[name]], store)
    rule = found.of(known[name])
    if rule is None:
        raise DataError(f"{store.path}: {found.warnings[0]}")
    return rule


def _stored(store: MemoryReader) -> dict[str, Mapping[str, Any]]:
    """Rule -> origin, of the rules from outside that a memory's tasks were learnt with; the newest counts."""
    found: dict[str, Mapping[str, Any]] = {}
    for manifest in store.lineage()[1:]:
        found |= read_data(store, manifest).get(RULES, {})
    return found


def _missing(name: str, record: Mapping[str, Any] | None, error: UserError) -> str:
    file = name.rpartition(":")[0]
    # The message about a name lists all other rules, that about a file how to give another one.
    gone = isinstance(error, DataError) or (is_file(file) and find_file(file) is None)
    reason = "cannot be found here" if gone else f"cannot be used here ({str(error).splitlines()[0]})"
    origin = (
        "the memory does not tell where it came from"
        if record is None
        else f"the memory was made with {described(record)}; {remedy(record)}"
    )
    return f"checker {name!r} {reason}, so pass rates are not measured with it; {origin}"
