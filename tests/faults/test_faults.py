"""The short form of `make faults`, and what a failing disk says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faults import disk, memories, run
from lifealign.core.errors import StoreError
from lifealign.store.reader import MemoryReader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked up in /proc")


def test_the_short_form_loses_nothing(tmp_path: Path) -> None:
    lines = run.run(kill=6, flips=30, loads=30, share=0.03, seed=1, folder=tmp_path)
    assert [(line.name, line.lost, line.tracebacks, line.notes) for line in lines[:-1]] == [
        (line.name, 0, 0, []) for line in lines[:-1]
    ]
    assert (lines[-1].lost, lines[-1].tracebacks, lines[-1].refused) == (0, 0, 0)
    assert all(line.tries for line in lines)


def test_a_commit_that_the_disk_does_not_confirm_says_so(tmp_path: Path) -> None:
    base = memories.make(tmp_path / "base")
    whole = memories.copy(base, tmp_path / "whole")
    calls = disk.count_calls(whole, lambda: memories.learn(whole))
    after_head = [i for i, name in enumerate(calls) if name == "replace"][1] + 1
    at = next(i for i in range(after_head, len(calls)) if calls[i] == "fsync")
    memory = memories.copy(base, tmp_path / "memory")
    with (
        pytest.raises(StoreError, match="0003-truthful is committed, but the disk did not confirm it"),
        disk.watched(memory, disk.refuse(at, "EIO")),
    ):
        memories.learn(memory)
    assert MemoryReader.open(memory).head.name == "truthful"
