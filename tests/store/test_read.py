"""Reading: what was stored comes back, older formats are migrated, no torch is needed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core import files
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import seal
from lifealign.core.tensors import encode_tensors
from lifealign.store import manifest
from lifealign.store import writer as store_module
from lifealign.store.writer import MIGRATIONS, MemoryStore
from support.paths import ROOT
from support.store import (
    FILES,
    IDENTITY,
    V1,
    adapter,
    copy,
    create,
    full_memory,
    learn,
    snapshot,
)


def test_what_was_stored_comes_back(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path
    store = MemoryStore.open(path)
    assert store.identity == IDENTITY
    assert [m.directory for m in store.lineage()] == ["0000-initial", "0001-helpful", "0003-truthful"]
    head = store.head
    assert (head.index, head.name, head.members, head.parent, head.seed) == (
        3,
        "truthful",
        ("truthful",),
        "0001-helpful",
        5,
    )
    assert (head.config, head.meta, head.created) == (
        {"train": {"epochs": 2}},
        {"steps": 12},
        "2026-01-02T03:04:05+00:00",
    )
    assert head.versions["torch"] == torch.__version__.split("+")[0] or head.versions["torch"] == torch.__version__
    loaded = store.load_tensors(head, "adapter")
    for name, tensor in adapter(3.0).items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        assert torch.equal(store.load_tensor(head, "adapter", name), tensor)
    assert store.load_tensors(head, "state") == {}
    assert store.tensor_names(head, "adapter") == ["q.lora_A", "q.lora_B"]
    assert store.load_document(head, "diagnostics.json") == {"rank": 2, "missing": None}
    assert store.load_lines(head, "replay.jsonl") == [{"chosen": "a", "n": 1}, {"chosen": "ü\n", "n": 2}]
    assert store.load_document(store.find("initial"), "notes.json") == {"made": "by hand"}
    assert [r["scores"]["helpful"] for r in store.evaluations()] == [0.75, None]
    assert [(e["directory"], e["current"], e["head"]) for e in store.log()] == [
        ("0000-initial", True, False),
        ("0001-helpful", True, False),
        ("0002-harmless", False, False),
        ("0003-truthful", True, True),
    ]
    with pytest.raises(StoreError, match=r"no such file; it has adapter\.safetensors, diagnostics\.json"):
        store.load_document(head, "scores.json")
    with pytest.raises(StoreError, match=r"adapter\.safetensors: no tensor 'k'; it has q\.lora_A, q\.lora_B"):
        store.load_tensor(head, "adapter", "k")


def test_find_takes_the_latest_of_a_name_directories_and_members(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with store.writer():
        learn(store, "a", 1.0)
        learn(store, "a", 2.0)
        store.commit("joint", members=["b", "c"], tensors={}, documents={}, lines={}, seed=0, config={})
    assert store.find("a").directory == "0002-a"
    assert store.find("0001-a").index == 1
    assert store.find("c").name == "joint"


def test_a_store_of_version_1_opens(tmp_path: Path) -> None:
    """Written by lifealign 0.1.0 and never touched since; the numbers are those it was made of."""
    store = MemoryStore.open(V1)
    assert store.verify() == [] and store.strays() == []
    assert store.identity["base_model"]["name"] == "tiny"
    assert [m.directory for m in store.lineage()] == ["0000-initial", "0001-helpful", "0003-truthful"]
    assert torch.equal(store.load_tensors(store.head, "adapter")["q.lora_A"], torch.full((2, 3), 3.0))
    assert torch.equal(
        store.load_tensors(store.find("helpful"), "adapter")["q.lora_B"],
        torch.full((3, 2), -1.0, dtype=torch.bfloat16),
    )
    assert store.load_lines(store.head, "replay.jsonl")[1] == {"chosen": "ü\n", "n": 2}
    assert [r["scores"] for r in store.evaluations()] == [{"helpful": 0.75}, {"helpful": None}]
    copied = MemoryStore.open(copy(V1, tmp_path / "memory"))
    with copied.writer():
        assert learn(copied, "next").directory == "0004-next"
        assert copied.workspace("next").is_dir(), "also where an empty work/ was not kept"
    assert copied.verify() == []


def test_todays_records_have_the_fields_of_version_1(tmp_path: Path) -> None:
    """Version 2 renamed options; a change of fields needs a number, a migration and a new directory beside v1."""
    assert store_module.FORMAT_VERSION == 2
    path = full_memory(tmp_path / "memory").path
    assert sorted(snapshot(path)) == sorted(snapshot(V1))
    for name in (n for n in FILES if n == "store.json" or n.endswith("task.json") or n.startswith("evaluations")):
        today, kept = (json.loads((root / name).read_bytes()) for root in (path, V1))
        assert sorted(today) == sorted(kept)


@pytest.mark.parametrize("name", ["store.json", "tasks/0003-truthful/task.json"])
def test_a_newer_format_is_refused_by_both_versions(tmp_path: Path, name: str) -> None:
    path = full_memory(tmp_path / "memory").path
    record = json.loads((path / name).read_bytes())
    del record["sha256"]
    (path / name).write_bytes(seal({**record, "format_version": 7}))
    with pytest.raises(StoreError, match=rf"{name}: format version 7, but this lifealign reads up to version 2"):
        MemoryStore.open(path)


def version_0(path: Path) -> Path:
    """A memory as a made-up version 0 would have written it: `title` for `name`, no members, bare evaluations."""
    (path / "tasks").mkdir(parents=True)
    (path / "evaluations").mkdir()
    store = seal({"format_version": 0, "model": "tiny"})
    (path / "store.json").write_bytes(store)
    parent, above = None, hashlib.sha256(store).hexdigest()
    for index, directory in enumerate(("0000-initial", "0001-old")):
        (path / "tasks" / directory).mkdir()
        entry = files.write_file(path / "tasks" / directory / "adapter.safetensors", encode_tensors(adapter(4.0)))
        record = {"format_version": 0, "directory": directory, "index": index, "title": directory[5:], "seed": 0}
        record |= {"parent": parent, "parent_sha256": above, "files": {"adapter.safetensors": vars(entry)}}
        task = seal(record)
        (path / "tasks" / directory / "task.json").write_bytes(task)
        parent, above = directory, hashlib.sha256(task).hexdigest()
    (path / "HEAD").write_text(f"{parent} {above}\n")
    (path / "evaluations" / "000001.json").write_bytes(seal({"format_version": 0, "score": 0.5}))
    return path


def from_0_to_1(kind: str, record: dict[str, Any]) -> dict[str, Any]:
    if kind == "store":
        return {"format_version": 1, "identity": {"base_model": record["model"]}}
    if kind == "evaluation":
        return {
            "format_version": 1,
            "number": 1,
            "record": {"kind": "row", "after": "0001-old", "score": record["score"]},
        }
    added: dict[str, Any] = {"name": record["title"], "members": [record["title"]], "config": {}, "meta": {}}
    return {**record, **added, "versions": {}, "created": ""}


def test_an_older_format_is_migrated_in_memory_and_can_be_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = version_0(tmp_path / "memory")
    with pytest.raises(
        StoreError, match=r"store\.json: format version 0 cannot be read: there is no migration from 0 to 1"
    ):
        MemoryStore.open(path)
    monkeypatch.setitem(MIGRATIONS, 0, from_0_to_1)
    before = snapshot(path)
    store = MemoryStore.open(path)
    assert (store.identity, store.head.name, store.head.members) == ({"base_model": "tiny"}, "old", ("old",))
    assert torch.equal(store.load_tensors(store.head, "adapter")["q.lora_A"], torch.full((2, 3), 4.0))
    assert store.evaluations() == [{"kind": "row", "after": "0001-old", "score": 0.5}]
    assert store.verify() == [] and snapshot(path) == before
    with store.writer():
        learn(store, "new")
    again = MemoryStore.open(path)
    assert [m.name for m in again.lineage()] == ["initial", "old", "new"] and again.verify() == []
    assert {k: v for k, v in snapshot(path).items() if k in before and k != "HEAD"} == {
        k: v for k, v in before.items() if k != "HEAD"
    }


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path
    script = """
import sys
from lifealign.store.writer import MemoryStore
store = MemoryStore.open(sys.argv[1])
assert [m.name for m in store.lineage()] == ["initial", "helpful", "truthful"] and len(store.log()) == 4
assert store.verify() == [] and store.strays() == [] and len(store.evaluations()) == 2
assert store.load_document(store.head, "diagnostics.json")["rank"] == 2
assert len(store.load_lines(store.head, "replay.jsonl")) == 2
assert store.tensor_names(store.head, "adapter") == ["q.lora_A", "q.lora_B"]
with store.writer():
    assert store.rollback("helpful").directory == "0001-helpful"
assert "torch" not in sys.modules, "torch was imported"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_manifest_names() -> None:
    assert manifest.is_file_name("adapter.safetensors") and manifest.is_file_name("replay.jsonl")
    for bad in ("task.json", "../x.json", "a/b.json", ".tmp-x.json", "adapter.bin", "adapter.pkl", ""):
        assert not manifest.is_file_name(bad)
