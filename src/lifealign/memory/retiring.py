"""Retire tasks: take their updates out of the weights, their rows out of replay, and what the strategy keeps of them.

A task is retired by the commit of the one that supersedes it (`learning.learn_group`), or by a commit of its own
(`withdraw`). From then on it is not replayed and not scored; its commit, its rows and its scores stay where they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.core.config import StrategyChoice
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Task, rows_sha256
from lifealign.memory.composer import Composer, stored_strategy, why_not_summed
from lifealign.memory.history import Start, StoreHistory
from lifealign.memory.outcomes import Withdrawal
from lifealign.memory.session import Session
from lifealign.memory.stored import run_config
from lifealign.model.adapters import restore
from lifealign.store.heldout import heldout
from lifealign.store.layout import (
    ADAPTER,
    DATA,
    DIAGNOSTICS,
    HELDOUT,
    IMPORTED,
    REPLAY,
    RETIRED,
    RETIRES,
    SIGNATURE,
    START,
    STATE,
    TRAINING,
    UPDATE,
)
from lifealign.store.manifest import NOTE
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import check_retirable, withdrawal_name
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Strategy, make_strategy

REMAINS = (
    "later tasks may have been trained on top of it, and on its rows by replay, so its behaviour may remain in part; "
    "run lifealign evaluate, and compare answers"
)
APART = "each task was learnt on the initial adapter and on its own rows alone, so no later update was trained on it"


def start_without(store: MemoryReader, names: Sequence[str], verb: str) -> Start:
    """Where a commit that retires tasks begins; nothing is written.

    If the strategy's memory is no sum of updates, the weights stay as they are.

    Args:
        store: the memory, whose HEAD the commit will follow.
        names: of the tasks.
        verb: `supersede` or `withdraw`, for messages.

    Raises:
        DataError: see `retired.check_retirable`.
    """
    for name in names:
        check_retirable(store, name, verb)
    tasks = tuple(dict.fromkeys(names))
    strategy, head = stored_strategy(store), store.head
    document: dict[str, Any] = {"tasks": list(tasks), "taken_out": strategy.sums_updates}
    adapter = store.load_tensors(head, ADAPTER)
    if strategy.sums_updates:
        composer = Composer(store, head)
        made = composer(composer.weights(dict.fromkeys(tasks, 0.0)))
        adapter = made.adapter
        document |= {"space": composer.space, "change": made.change}
        if made.truncation_error is not None:
            document["truncation_error"] = made.truncation_error
    before = StoreHistory(store).replay
    own = {task.name: task for task in heldout(store)}
    document["replay_rows"] = sum(e.task in tasks for e in before.exemplars)
    document["held_out_rows"] = {s: sum(len(getattr(own[n], s)) for n in tasks) for s in ("validation", "test")}
    state = store.load_tensors(head, STATE)
    start = Start(tasks, adapter, strategy.sums_updates, state, document)
    if type(strategy).retire is Strategy.retire:  # nothing to drop
        return start
    strategy.load_state_dict(state)
    if stays := list(strategy.retire(before, StoreHistory(store, start))):
        document["stays"] = stays
    return Start(tasks, adapter, strategy.sums_updates, strategy.state_dict(), document)


def superseded(store: MemoryReader, group: Sequence[Task]) -> list[str]:
    """Tasks of a memory that a group supersedes; one of the group itself never comes into the memory."""
    own = {task.name for task in group}
    return [task.supersedes for task in group if task.supersedes is not None and task.supersedes not in own]


def check_supersedes(store: MemoryReader, task: Task) -> None:
    """Refuse a task that supersedes none of the memory, before a model is loaded; one that is learnt already is left alone.

    Raises:
        DataError: see `retired.check_retirable`.
    """
    learnt = {name for m in store.lineage() for name in m.members}
    if task.supersedes is not None and task.name not in learnt:
        check_retirable(store, task.supersedes, "supersede")


def put(session: Session, start: Start) -> None:
    """Put the weights and the state that a commit begins with into a session that holds those of HEAD."""
    session.strategy.load_state_dict(start.state)
    session.strategy.mount(session.model)
    restore(session.model, start.adapter)
    if IMPORTED in start.retires:
        session.view.anchor = {}


def parts_of(start: Start | None, group: Sequence[Task]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Tensors, documents and notes of the manifest that a group's commit holds beside its own, if it supersedes tasks."""
    retires = [task.supersedes for task in group if task.supersedes is not None]
    tensors = {START: start.adapter} if start is not None and start.taken_out else {}
    documents = {} if start is None else {RETIRED: dict(start.document)}
    return tensors, documents, {RETIRES: retires} if retires else {}


def retired_lines(store: MemoryReader, document: Mapping[str, Any]) -> list[str]:
    """What a commit's document on retired tasks tells, for people."""
    name, held = ", ".join(document["tasks"]), document["held_out_rows"]
    rows = (
        f"{name}: {document['replay_rows']} rows are no longer replayed; {held['validation']} validation and {held['test']} test "
        "rows are no longer scored; the history keeps all of them"
    )
    if not document["taken_out"]:
        why = why_not_summed(store.config["strategy"]["name"])
        return [f"{name}: retired, but not taken out of the weights: {why}", rows]
    error = document.get("truncation_error")
    cut = "" if error is None else f", truncation error {100 * error:.2f}%"
    return [
        f"{name}: update taken out (space {document['space']}, change of the weights {100 * document['change']:.1f}%{cut})",
        *(f"{name}: {sentence}" for sentence in document.get("stays", ())),
        rows,
        f"{name}: {APART if _learns_apart(store) else REMAINS}",
    ]


def _learns_apart(store: MemoryReader) -> bool:
    """Whether every task was trained without the weights and the rows of earlier ones; a task may have options of its own."""
    config = run_config(store)
    chosen = [StrategyChoice.model_validate(m.config.get("strategy", config.strategy)) for m in store.lineage()[1:]]
    return all(make_strategy(choice, config.lora, config.seed).learns_apart for choice in [config.strategy, *chosen])


def withdraw(store: MemoryStore, task: str, note: str | None) -> Withdrawal:
    """Withdraw a task in a commit of its own, without training; see `Memory.withdraw`.

    Raises:
        ConfigError: the strategy's memory is no sum of updates.
        DataError: see `retired.check_retirable`.
    """
    begun = time.perf_counter()
    with store.writer():
        check_retirable(store, task, "withdraw")
        config = store.head.config
        if not stored_strategy(store).sums_updates:
            raise ConfigError(
                f"{store.path}: {task!r} cannot be withdrawn: {why_not_summed(config['strategy']['name'])}. To retire its rows, learn "
                f"its replacement with --supersedes {task}; to be without it, roll back to the task before it and learn the later "
                "ones again"
            )
        start = start_without(store, [task], "withdraw")
        history, head = StoreHistory(store, start), store.load_tensors(store.head, ADAPTER)
        lines = retired_lines(store, start.document)
        made = store.commit(
            withdrawal_name(task),
            members=[],
            tensors={
                ADAPTER: start.adapter,
                UPDATE: {n: tensor - head[n] for n, tensor in start.adapter.items()},
                STATE: start.state,
                SIGNATURE: {},
            },
            documents={
                DIAGNOSTICS: {},
                DATA: {"reports": {}, "requirements": {}, "rows": 0, "from_replay": 0},
                RETIRED: dict(start.document),
            },
            lines={REPLAY: history.replay.to_lines(), HELDOUT: [], TRAINING: []},
            seed=store.head.seed,
            config=config,
            meta={
                "seconds": time.perf_counter() - begun,
                "reference_seconds": 0.0,
                "rows_sha256": rows_sha256(()),
                RETIRES: [task],
                **({NOTE: note} if note else {}),
            },
        )
    return Withdrawal(task, made.directory, start.document, lines)
