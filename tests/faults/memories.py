"""A small memory and what is done to it, without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from lifealign.store.writer import MemoryStore

IDENTITY = {"base_model": {"name": "tiny"}, "seed": 5}


def make(path: Path) -> Path:
    """A memory with one task, one rolled-back task, two evaluations and a tag."""
    store = MemoryStore.create(path, IDENTITY, {}, {"notes.json": {"made": "by hand"}})
    with store.writer():
        commit(store, "helpful")
        store.append_evaluation({"kind": "row", "after": "0001-helpful", "scores": {"helpful": 0.75}})
        commit(store, "harmless")
        store.rollback("helpful")
        store.append_evaluation({"kind": "row", "after": "0001-helpful", "scores": {"helpful": 0.5}})
        store.tag("helpful", "production")
    return path


def commit(store: MemoryStore, name: str) -> None:
    store.commit(
        name,
        members=[name],
        tensors={},
        documents={"diagnostics.json": {"rank": 2}, "data.json": {"rows": 2}},
        lines={"replay.jsonl": [{"seen": 2}, {"n": 1}, {"n": 2}]},
        seed=5,
        config={"train": {"epochs": 2}},
        meta={"steps": 12},
    )


def learn(path: Path) -> None:
    """What a run does when it is started again: take the lock, look at HEAD, do what is missing."""
    store = MemoryStore.open(path)
    with store.writer():
        if store.head.name != "truthful":
            store.workspace("truthful")
            commit(store, "truthful")
        store.clear_workspace("truthful")
        if not any(record["after"] == store.head.directory for record in store.evaluations()):
            store.append_evaluation({"kind": "row", "after": store.head.directory, "scores": {"truthful": 1.0}})


def contents(path: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {
        str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".lock"
    }


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
