"""Repair, backup and restore, on a memory without tensors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import memories
from lifealign.core.errors import StoreError, UserError
from lifealign.store.backup import backup, restore
from lifealign.store.layout import ASIDE
from lifealign.store.reader import MemoryReader
from lifealign.store.repair import repair


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = memories.make(tmp_path_factory.mktemp("base") / "memory")
    memories.learn(path)
    return path


def flip(path: Path) -> None:
    data = path.read_bytes()
    at = len(data) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("name", "damage", "head", "moved"),
    [
        (
            "tasks/0003-truthful/replay.jsonl",
            Path.unlink,
            "0001-helpful",
            ["tasks/0003-truthful", "evaluations/000003.json"],
        ),
        ("tasks/0003-truthful/task.json", flip, "0001-helpful", ["tasks/0003-truthful", "evaluations/000003.json"]),
        ("tasks/0002-harmless/task.json", flip, "0003-truthful", ["tasks/0002-harmless"]),
        ("evaluations/000001.json", flip, "0003-truthful", ["evaluations/000001.json"]),
        ("evaluations/000001.json", Path.unlink, "0003-truthful", []),
        ("HEAD", Path.unlink, "0003-truthful", []),
        ("tags.json", flip, "0003-truthful", ["tags.json"]),
    ],
)
def test_repair_goes_back_to_the_newest_sound_point_and_deletes_nothing(
    base: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], head: str, moved: list[str]
) -> None:
    memory = memories.copy(base, tmp_path / "memory")
    damage(memory / name)
    before = memories.contents(memory)
    done = repair(memory)
    assert done.head == head and done.problems and set(moved) <= set(done.moved)
    store = MemoryReader.open(memory)
    assert store.head.directory == head and store.verify() == [] and store.strays() == []
    now = memories.contents(memory)
    assert all(now.get(n) == d or now.get(f"{ASIDE}/0001/{n}") == d for n, d in before.items())
    assert repair(memory).problems == () and memories.contents(memory) == now


def test_what_only_a_backup_can_mend_is_refused_and_left_as_it_is(base: Path, tmp_path: Path) -> None:
    for name in ("store.json", "tasks/0000-initial/notes.json"):
        memory = memories.copy(base, tmp_path / "memory")
        (memory / name).write_bytes(b"{}")
        before = memories.contents(memory)
        with pytest.raises(StoreError, match=r"damaged|restore a backup"):
            repair(memory)
        assert memories.contents(memory) == before


def test_a_backup_is_the_same_memory(base: Path, tmp_path: Path) -> None:
    packed = backup(base, tmp_path / "memory.tar")
    assert restore(packed.path, tmp_path / "again").sha256 == packed.sha256
    assert memories.contents(tmp_path / "again") == memories.contents(base)
    with pytest.raises(UserError, match="exists already"):
        backup(base, packed.path)
    with pytest.raises(UserError, match="not an empty directory"):
        restore(packed.path, tmp_path / "again")
    data = packed.path.read_bytes()
    for at in range(600, len(data), 1999):
        (tmp_path / "bad.tar").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            restore(tmp_path / "bad.tar", tmp_path / "out")
        except StoreError:
            assert not (tmp_path / "out").exists()
        else:  # a byte that means nothing, such as padding
            assert memories.contents(tmp_path / "out") == memories.contents(base)
            shutil.rmtree(tmp_path / "out")
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="damaged"):
        restore(tmp_path / "cut.tar", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "bad.tar", "cut.tar", "memory.tar"]


def test_a_damaged_memory_is_not_backed_up(base: Path, tmp_path: Path) -> None:
    memory = memories.copy(base, tmp_path / "memory")
    flip(memory / "tasks/0001-helpful/replay.jsonl")
    with pytest.raises(StoreError, match=r"replay\.jsonl.*lifealign repair"):
        backup(memory, tmp_path / "memory.tar")
    assert not (tmp_path / "memory.tar").exists()
