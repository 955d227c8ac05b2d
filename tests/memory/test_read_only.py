"""A memory on a read-only medium: what is stored is read, and what would have to be written is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faults import disk, memories
from lifealign.core.errors import StoreError
from lifealign.memory.session import locked_if_allowed
from lifealign.store.backup import backup
from lifealign.store.writer import MemoryStore


def test_what_is_stored_is_read_without_a_lock(tmp_path: Path) -> None:
    memory = memories.make(tmp_path / "memory")
    (memory / ".lock").unlink()
    before = memories.contents(memory)
    session: Any = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True))

    def strike(number: int, name: str, args: tuple[Any, ...]) -> None:
        writes = (
            name == "open"
            and len(args) > 1
            and (args[1] & os.O_CREAT if isinstance(args[1], int) else "r" not in args[1])
        )
        if name in disk.CHANGES or writes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

    with disk.watched(memory, strike):
        store = MemoryStore.open(memory)
        assert store.log() and store.verify() == [] and len(store.evaluations()) == 2
        with locked_if_allowed(session, store) as refused:
            assert refused is not None and "EROFS" in str(refused)
        backup(memory, tmp_path / "memory.tar")
        with pytest.raises(StoreError, match="EROFS"), store.writer():
            pass
    with locked_if_allowed(session, store) as refused:
        assert refused is None
    assert memories.contents(memory) == before
