"""The adapter that a memory begins with: kept in its root when it is made, and committed as its first task, `imported`.

A task like others, except that its weights were trained elsewhere: it is weighed, withdrawn, rolled back and, if its rows
are given, replayed and scored. Later tasks are compared with the model that it makes (`LoadedView.reference`).
"""

from __future__ import annotations

import time
from typing import Any

import torch

from lifealign.core.config import RunConfig
from lifealign.core.errors import StoreError
from lifealign.data.load import task_from_rows
from lifealign.data.tasks import Task, rows_sha256
from lifealign.memory.guard import score_guard
from lifealign.memory.history import StoreHistory
from lifealign.memory.routing import task_signatures
from lifealign.memory.scoring import score_row
from lifealign.memory.session import Session, locked
from lifealign.model.adapters import restore, snapshot
from lifealign.store import manifest
from lifealign.store.heldout import heldout, heldout_lines
from lifealign.store.layout import (
    ADAPTER,
    DATA,
    DIAGNOSTICS,
    HELDOUT,
    IMPORTED,
    REPLAY,
    ROOT,
    SIGNATURE,
    STATE,
    TRAINING,
    UPDATE,
)
from lifealign.store.reader import MemoryReader
from lifealign.store.writer import MemoryStore

DOCUMENT = f"{IMPORTED}.json"
"""Where the adapter came from and how it compares with stock PEFT's; in the root and in the task's commit."""


def imported_task(config: RunConfig) -> Task | None:
    """The task `imported` with the rows that the adapter was trained on, or with none; None: there is no adapter.

    Raises:
        DataError: the rows cannot be used.
    """
    if config.model.adapter is None:
        return None
    rows = config.model.adapter_rows
    return Task(IMPORTED, ()) if rows is None else task_from_rows(IMPORTED, rows, seed=config.seed)


def root_parts(session: Session, task: Task | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parts of a new memory's identity, tensors and documents, so that the adapter's files are not needed again."""
    found = session.imported
    if task is None or found is None:
        return {}, {}, {}
    document = {
        **found.identity,
        "trained_on": found.trained_on,
        "rank": found.rank,
        "scales": dict(found.scales),
        "difference_from_peft": dict(session.compared),
        "rows_sha256": rows_sha256(task.train),
        "notes": session.imported_notes(),
    }
    return {"adapter": found.identity}, {IMPORTED: session.adopted}, {DOCUMENT: document}


def pending(store: MemoryReader) -> bool:
    """Whether a memory was made with an adapter that is not committed yet, because its creation was interrupted."""
    root = store.lineage()[0]
    return f"{IMPORTED}.safetensors" in root.files and manifest.task_directories(store.path) == [ROOT]


def adopt_pending(session: Session, store: MemoryStore, config: RunConfig) -> MemoryStore:
    """Commit the adapter of a memory as its first task and score it, unless that is done; returns the store that shows it.

    Raises:
        DataError: a row of the task cannot be used.
        StoreError: the rows are not those that the memory was made with.
    """
    if not pending(store):
        return store
    started = time.perf_counter()
    task = imported_task(config)
    assert task is not None
    document = store.load_document(store.lineage()[0], DOCUMENT)
    if rows_sha256(task.train) != document["rows_sha256"]:
        raise StoreError(
            f"{store.path}: the rows of its adapter ({config.model.adapter_rows}) have changed since the memory was made, and its "
            "creation was interrupted; remove the memory and make it again"
        )
    with locked(session, store):
        store = _commit(session, store, task, config, document, started)
        score_row(session, store, store.lineage()[0], heldout(store), config)
        score_row(session, store, store.head, heldout(store), config)
        for point in (store.lineage()[0], store.head):
            score_guard(session, store, point, config.guard)
    return store


def _commit(
    session: Session, store: MemoryStore, task: Task, config: RunConfig, document: dict[str, Any], started: float
) -> MemoryStore:
    strategy, model, history = session.strategy, session.model, StoreHistory(store)
    root = store.lineage()[0]
    session.load(store, root)
    before, after = store.load_tensors(root, ADAPTER), store.load_tensors(root, IMPORTED)
    reports = {s: session.encoder.encode(getattr(task, s), allow_none=True)[1] for s in ("train", "validation", "test")}
    strategy.begin_task(model, task, history)
    strategy.training_set(task, history)
    restore(model, after)
    diagnostics = strategy.adopt(model, task, history)
    held = snapshot(model)
    assert all(torch.equal(held[name], tensor) for name, tensor in after.items()), "the strategy changed the adapter"
    kept = strategy.retain(task, history)
    if session.accelerator.is_main_process:
        store.commit(
            IMPORTED,
            members=[IMPORTED],
            tensors={
                ADAPTER: after,
                UPDATE: {name: tensor - before[name] for name, tensor in after.items()},
                STATE: strategy.state_dict(),
                SIGNATURE: task_signatures(session.view, session.encoder, None, [task], config.seed)
                if task.train
                else {},
            },
            documents={
                DOCUMENT: document,
                DIAGNOSTICS: dict(diagnostics),
                DATA: {
                    "reports": {IMPORTED: [r.to_json() for r in task.reports]},
                    "requirements": {IMPORTED: task.requirement},
                    "encoding": reports["train"].to_json(),
                    "encoding_held_out": {s: reports[s].to_json() for s in ("validation", "test")},
                    "rows": len(task.train),
                    "from_replay": 0,
                },
            },
            lines={REPLAY: kept.to_lines(), HELDOUT: heldout_lines([task]), TRAINING: []},
            seed=config.seed,
            config=config.model_dump(mode="json"),
            meta={
                "seconds": time.perf_counter() - started,
                "reference_seconds": 0.0,
                "rows_sha256": rows_sha256(task.train),
                "shared_prefix": False,
                "processes": session.accelerator.num_processes,
                IMPORTED: True,
            },
        )
    session.accelerator.wait_for_everyone()
    return store if session.accelerator.is_main_process else MemoryStore.open(store.path)
