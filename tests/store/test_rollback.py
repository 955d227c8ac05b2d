"""Rollback: HEAD moves, nothing is deleted, damage is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifealign.core.errors import StoreError
from lifealign.store.writer import MemoryStore
from support.store import (
    create,
    full_memory,
    learn,
    snapshot,
)


def test_rollback_deletes_nothing_and_one_can_go_forward_again(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with store.writer():
        learn(store, "a", 1.0)
        learn(store, "b", 2.0)
        before = {k: v for k, v in snapshot(store.path).items() if k != "HEAD"}
        assert store.rollback("a").directory == "0001-a"
        assert [m.name for m in store.lineage()] == ["initial", "a"]
        with pytest.raises(StoreError, match=r"no task 'b'; .*; 0002-b was rolled back: to go forward, .* 0002-b"):
            store.rollback("b")
        assert store.rollback("0002-b").name == "b"
        assert [m.name for m in store.lineage()] == ["initial", "a", "b"]
        assert {k: v for k, v in snapshot(store.path).items() if k != "HEAD"} == before
        store.rollback("0000-initial")
        assert learn(store, "c").directory == "0003-c"
        assert [m.name for m in store.lineage()] == ["initial", "c"]
        assert store.rollback("0002-b").name == "b"
    assert MemoryStore.open(store.path).head.name == "b" and store.verify() == []


def test_rollback_to_a_damaged_task_is_refused(tmp_path: Path) -> None:
    store = full_memory(tmp_path / "memory")
    (store.path / "tasks/0001-helpful/adapter.safetensors").write_bytes(b"x")
    with store.writer(), pytest.raises(StoreError, match=r"0001-helpful/adapter\.safetensors: damaged"):
        store.rollback("helpful")
    assert MemoryStore.open(store.path).head.name == "truthful"
