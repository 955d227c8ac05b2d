"""Creation: interrupted, failing, repeated; paths that hold no memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lifealign.core.errors import StoreError
from lifealign.store.writer import MemoryStore
from support.store import (
    create,
    kill_everywhere,
    snapshot,
)


def test_a_creation_killed_at_any_step_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    expected = snapshot(create(tmp_path / "whole").path)

    def check(path: Path) -> None:
        if (path / "HEAD").exists():
            assert MemoryStore.open(path).verify() == []
            with MemoryStore.open(path).writer():  # removes the marks
                pass
        else:
            with pytest.raises(StoreError, match=r"not a memory|interrupted"):
                MemoryStore.open(path)
            create(path)
        assert snapshot(path) == expected

    assert kill_everywhere(tmp_path / "base", tmp_path / "killed", create, check) > 20


def test_a_creation_that_fails_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left on device"):
            create(tmp_path / "memory")
    assert snapshot(tmp_path / "memory") == {}
    assert create(tmp_path / "memory").verify() == []


def test_paths_that_are_no_memory(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent: no such directory"):
        MemoryStore.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file: not a directory"):
        MemoryStore.open(tmp_path / "file")
    with pytest.raises(StoreError, match="file"):
        create(tmp_path / "file")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tasks").mkdir()
    with pytest.raises(StoreError, match="home: not a memory: it has no HEAD"):
        MemoryStore.open(tmp_path / "home")
    with pytest.raises(StoreError, match="home: not empty and not a memory: it holds tasks"):
        create(tmp_path / "home")
    assert (tmp_path / "home" / "tasks").is_dir()
    create(tmp_path / "memory")
    with pytest.raises(StoreError, match="already holds a memory"):
        create(tmp_path / "memory")
    assert create(tmp_path / "deep" / "er").head.directory == "0000-initial"
