"""Damage: every changed, missing or misplaced file is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lifealign.core.errors import StoreError
from lifealign.core.json_codec import seal, sealed
from lifealign.store import contents
from lifealign.store.writer import MemoryStore
from support.store import (
    FILES,
    copy,
    create,
    full_memory,
    learn,
    snapshot,
)


def test_every_file_of_the_memory_is_in_the_list(sound: Path) -> None:
    assert sorted(snapshot(sound)) == sorted(FILES)
    assert MemoryStore.open(sound).verify() == [] and MemoryStore.open(sound).strays() == []


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_refused_by_the_name_of_its_file(sound: Path, name: str) -> None:
    path, whole = sound / name, (sound / name).read_bytes()
    reader = MemoryStore.open(sound)
    in_chain = name in ("HEAD", "store.json") or (name.endswith("task.json") and "0002" not in name)
    try:
        for position in {*range(0, len(whole), max(1, len(whole) // 25)), len(whole) - 1}:
            for mask in (0x01, 0x20, 0x80):
                flipped = bytearray(whole)
                flipped[position] ^= mask
                path.write_bytes(flipped)
                where = f"byte {position} of {name} xor {mask}"
                assert any(str(path) in problem for problem in reader.verify()), where
                if in_chain:
                    with pytest.raises(StoreError) as caught:
                        MemoryStore.open(sound)
                    assert str(path) in str(caught.value), where
    finally:
        path.write_bytes(whole)
    assert reader.verify() == []


def test_a_flipped_byte_is_refused_by_every_load_that_reads_the_file(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path
    store = MemoryStore.open(path)
    store.load_tensor(store.head, "adapter", "q.lora_A")  # checked once, and changed afterwards
    for name, load in {
        "adapter.safetensors": lambda: store.load_tensors(store.head, "adapter"),
        "adapter.safetensors ": lambda: store.load_tensor(store.head, "adapter", "q.lora_A"),
        "diagnostics.json": lambda: store.load_document(store.head, "diagnostics.json"),
        "replay.jsonl": lambda: store.load_lines(store.head, "replay.jsonl"),
    }.items():
        file = path / "tasks" / "0003-truthful" / name.strip()
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(StoreError, match=f"{name.strip()}: damaged"):
            load()
        file.write_bytes(whole)
        load()
    evaluation = path / "evaluations" / "000001.json"
    evaluation.write_bytes(evaluation.read_bytes().replace(b"0.75", b"0.85"))
    with pytest.raises(StoreError, match=r"000001\.json: damaged"):
        store.evaluations()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str, sound: Path) -> None:
    path = copy(sound, tmp_path / "memory")
    reader = MemoryStore.open(path)
    (path / name).unlink()
    if name == "evaluations/000002.json":  # nothing refers to the last evaluation
        assert reader.verify() == []
    else:
        assert any(str(path / name) in problem for problem in reader.verify())


def test_files_in_the_wrong_place_are_refused(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path
    (path / "tasks/0002-harmless").rename(path / "tasks/0004-other")
    (path / "evaluations/000002.json").rename(path / "evaluations/000004.json")
    assert [problem.split(": ")[0].removeprefix(f"{path}/") for problem in MemoryStore.open(path).verify()] == [
        "tasks/0004-other/task.json",
        "evaluations/000004.json",
        "evaluations/000002.json",
        "evaluations/000003.json",
    ]


@pytest.mark.parametrize("name", ["store.json", "tasks/0001-helpful/task.json"])
def test_a_record_replaced_by_another_valid_one_breaks_the_chain(tmp_path: Path, name: str) -> None:
    path = full_memory(tmp_path / "memory").path
    reader = MemoryStore.open(path)
    record = json.loads((path / name).read_bytes())
    del record["sha256"]
    (path / name).write_bytes(seal({**record, "created": "2020-01-01T00:00:00+00:00"}))
    with pytest.raises(StoreError, match=f"{name}: does not match .*one of the two was changed"):
        MemoryStore.open(path)
    assert any(f"{name}: does not match" in problem for problem in reader.verify())


def test_a_file_that_was_never_safetensors_is_refused_although_its_checksum_holds(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with pytest.MonkeyPatch.context() as patch, store.writer():
        patch.setattr(contents, "encode_tensors", lambda tensors: b"not tensors")
        learn(store, "bad")
    assert [p for p in store.verify() if "0001-bad/adapter.safetensors: damaged: not a safetensors file" in p]
    with pytest.raises(StoreError, match="not a safetensors file"):
        store.load_tensors(store.head, "adapter")


def test_a_manifest_cannot_lead_out_of_its_directory(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path
    task = path / "tasks/0003-truthful/task.json"
    record = json.loads(task.read_bytes())
    del record["sha256"]
    record["files"]["../../store.json"] = record["files"].pop("diagnostics.json")
    task.write_bytes(seal(record))
    (path / "HEAD").write_text(f"0003-truthful {hashlib.sha256(task.read_bytes()).hexdigest()}\n")
    with pytest.raises(StoreError, match=r"task\.json: damaged: '\.\./\.\./store\.json' is not an allowed file name"):
        MemoryStore.open(path)


def test_stray_files_are_noted_and_left_alone(tmp_path: Path) -> None:
    store = full_memory(tmp_path / "memory")
    for name in ("notes.txt", "tasks/0001-helpful/extra.json", "evaluations/x.json", "tasks/half/adapter.json"):
        (store.path / name).parent.mkdir(exist_ok=True)
        (store.path / name).write_text("{}")
    with store.writer():
        assert learn(store, "next").directory == "0004-next"
    assert store.verify() == []
    assert [str(p.relative_to(store.path)) for p in store.strays()] == [
        "evaluations/x.json",
        "notes.txt",
        "tasks/0001-helpful/extra.json",
        "tasks/half",
    ]


def test_seal_covers_every_byte() -> None:
    whole = seal({"a": 1, "b": [1, 2]})
    assert sealed(whole) and json.loads(whole)["b"] == [1, 2]
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            assert not sealed(bytes(flipped))
    assert not sealed(whole + b"\n") and not sealed(whole[:-1]) and not sealed(b"")
