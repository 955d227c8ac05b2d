"""Commits: the chain of checksums, the order of writes, the lock, workspaces."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core.errors import StoreError
from lifealign.core.json_codec import encode_json
from lifealign.core.tensors import decode_tensors, encode_tensors
from lifealign.store.writer import MemoryStore
from lifealign.training.checkpoints import write_checkpoint
from support.store import (
    IDENTITY,
    before_step,
    create,
    full_memory,
    learn,
    snapshot,
)


def test_head_vouches_for_everything_before_it(tmp_path: Path) -> None:
    store = full_memory(tmp_path / "memory")
    path = store.path

    def sha256(name: str) -> str:
        return hashlib.sha256((path / name).read_bytes()).hexdigest()

    tasks = {d: json.loads((path / "tasks" / d / "task.json").read_bytes()) for d in ("0000-initial", "0003-truthful")}
    assert (path / "HEAD").read_text() == f"0003-truthful {sha256('tasks/0003-truthful/task.json')}\n"
    assert tasks["0003-truthful"]["parent"] == "0001-helpful"
    assert tasks["0003-truthful"]["parent_sha256"] == sha256("tasks/0001-helpful/task.json")
    assert tasks["0000-initial"]["parent_sha256"] == sha256("store.json")
    entry = tasks["0003-truthful"]["files"]["adapter.safetensors"]
    assert entry["sha256"] == sha256("tasks/0003-truthful/adapter.safetensors")
    assert entry["size"] == (path / "tasks/0003-truthful/adapter.safetensors").stat().st_size
    assert json.loads((path / "store.json").read_bytes())["identity"] == IDENTITY
    assert json.loads((path / "evaluations/000002.json").read_bytes())["record"]["after"] == "0003-truthful"
    assert not list(path.rglob(".tmp-*")) and not (path / "PENDING").exists() and not (path / "CREATING").exists()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert snapshot(full_memory(tmp_path / "a").path) == snapshot(full_memory(tmp_path / "b").path)
    tensors = {"b": torch.arange(4.0), "a": torch.zeros(2, dtype=torch.int64), "c": torch.ones(1, dtype=torch.uint8)}
    backwards = dict(reversed(tensors.items()))
    assert encode_tensors(tensors) == encode_tensors(backwards)
    assert encode_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}\n'


def test_tensors_that_share_memory_or_are_views_are_stored_by_value(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    views = {"whole": whole, "alias": whole, "row": whole[1], "transposed": whole.T}
    data = encode_tensors(views)
    for name, tensor in decode_tensors(tmp_path, data).items():
        assert torch.equal(tensor, views[name])


def test_each_file_is_on_the_disk_before_a_name_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut needs, and SIGKILL cannot show: the order of writes, fsyncs and renames."""
    store = create(tmp_path / "memory")
    events: list[tuple[str, str]] = []

    def strike(number: int, name: str, args: tuple[Any, ...]) -> None:
        target = str(Path(f"/proc/self/fd/{args[0]}").readlink()) if isinstance(args[0], int) else str(args[0])
        events.append((name, target.removeprefix(str(store.path)).lstrip("/")))

    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files need /proc")
    with store.writer():
        before_step(monkeypatch, strike)
        learn(store, "helpful")
    temporary = "tasks/.tmp-0001-helpful"
    names = ("adapter.safetensors", "diagnostics.json", "replay.jsonl", "state.safetensors", "task.json")
    assert events == [
        ("mkdir", temporary),
        *((call, f"{temporary}/{name}") for name in names for call in ("write", "fsync")),
        ("write", ".tmp-PENDING"),
        ("fsync", ".tmp-PENDING"),
        ("replace", ".tmp-PENDING"),
        ("fsync", ""),
        ("fsync", temporary),
        ("rename", temporary),
        ("fsync", "tasks"),
        ("write", ".tmp-HEAD"),
        ("fsync", ".tmp-HEAD"),
        ("replace", ".tmp-HEAD"),
        ("fsync", ""),
        ("unlink", "PENDING"),
        ("fsync", ""),
    ]


def test_a_second_writer_is_refused_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with MemoryStore.open(store.path).writer():
            os.write(writing, b"x")
            signal.pause()
        os._exit(1)
    try:
        assert os.read(reading, 1) == b"x"
        message = f"another process is writing to {store.path} .lock file {store.path / '.lock'}.; wait for it to end"
        with pytest.raises(StoreError, match=message), store.writer():
            pass
        with pytest.raises(StoreError, match="another process"):
            create(store.path)
        assert MemoryStore.open(store.path).verify() == [], "readers need no lock"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    with store.writer():
        learn(store, "helpful")


def test_writing_without_the_lock_is_a_bug(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    before = snapshot(store.path)
    for write in (
        lambda: learn(store, "a"),
        lambda: store.rollback("initial"),
        lambda: store.append_evaluation({"kind": "row", "after": "0000-initial"}),
        lambda: store.workspace("a"),
        lambda: store.clear_workspace("a"),
    ):
        with pytest.raises(AssertionError, match="writer"):
            write()
    with store.writer() as outer, outer.writer():
        pass
    with pytest.raises(AssertionError, match="writer"):
        learn(store, "a")
    assert snapshot(store.path) == before


def test_a_writer_starts_from_the_head_on_disk_and_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    first = create(tmp_path / "memory")
    second, reader = MemoryStore.open(first.path), MemoryStore.open(first.path)
    with first.writer():
        learn(first, "a")
    with second.writer():
        assert second.head.name == "a"
        assert learn(second, "b").parent == "0001-a"
    assert reader.head.name == "initial" and torch.equal(
        reader.load_tensors(reader.head, "adapter")["q.lora_A"], torch.zeros(2, 3)
    )


def test_a_commit_that_slips_in_before_the_lock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, early = create(tmp_path / "memory"), MemoryStore.open(tmp_path / "memory")
    locked = MemoryStore._locked

    def slow(store: MemoryStore) -> Any:
        if store is late:
            with early.writer():
                learn(early, "a")
        return locked(store)

    monkeypatch.setattr(MemoryStore, "_locked", slow)
    with late.writer():
        assert learn(late, "b").parent == "0001-a"


def test_workspaces(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with store.writer():
        path = store.workspace("0001-helpful")
        assert path == store.workspace("0001-helpful") == store.path / "work" / "0001-helpful"
        write_checkpoint(path, {"w": torch.ones(1)}, {"step": 1})
        other = store.workspace("other")
        store.clear_workspace("0001-helpful")
        store.clear_workspace("0001-helpful")
        assert not path.exists() and other.is_dir()
        with pytest.raises(AssertionError):
            store.workspace("../tasks")
    assert store.verify() == [] and store.strays() == []
