"""Tags: names for points that are durable, checked, and never come to mean another task."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.core.json_codec import seal
from lifealign.store.writer import MemoryStore
from support.store import V1, copy, full_memory, kill_everywhere, learn, snapshot


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """0001-helpful and 0003-truthful (now) in the lineage, 0002-harmless rolled back."""
    return full_memory(tmp_path / "memory")


def give(store: MemoryStore, task: str, name: str) -> None:
    with store.writer():
        store.tag(task, name)


def test_a_tag_is_found_like_a_task(store: MemoryStore) -> None:
    give(store, "helpful", "production")
    for reader in (store, MemoryStore.open(store.path)):
        assert reader.find("production").directory == "0001-helpful"
        assert [(e["directory"], e["tags"]) for e in reader.log() if e["tags"]] == [("0001-helpful", ["production"])]
    assert store.verify() == [] and store.strays() == []


def test_now_and_base_are_found_unless_a_task_has_that_name(store: MemoryStore) -> None:
    assert store.find("now").directory == "0003-truthful" and store.find("base").directory == "0000-initial"
    with store.writer():
        learn(store, "now")
        learn(store, "last")
    assert store.find("now").directory == "0004-now"


def test_a_tag_moves_and_goes_and_gives_back_what_it_was(store: MemoryStore) -> None:
    with store.writer():
        first, old = store.tag("helpful", "production")
        assert old is None and first.directory == "0001-helpful"
        assert store.tag("helpful", "production") == (first, first)
        moved, old = store.tag("now", "production")
        assert (moved.directory, old) == ("0003-truthful", first)
        assert store.tag("production", "staging")[0].directory == "0003-truthful"
        assert store.untag("production") == moved
        assert list(store.tags()) == ["staging"]
        with pytest.raises(StoreError, match="no tag 'production'; tags: staging"):
            store.untag("production")
        store.untag("staging")
        with pytest.raises(StoreError, match="no tag 'staging'; tags: none"):
            store.untag("staging")
    assert MemoryStore.open(store.path).tags() == {} and store.verify() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "allowed: 1 to 64 letters"),
        ("x" * 65, "allowed: 1 to 64 letters"),
        ("-x", "the first a letter or digit"),
        ("a b", "allowed: 1 to 64 letters"),
        ("a/b", "allowed: 1 to 64 letters"),
        ("a\n", "allowed: 1 to 64 letters"),
        ("0001-helpful", "not the form of a task's directory"),
        ("now", "already names a point"),
        ("base", "already names a point"),
        ("initial", "already names a point"),
        ("helpful", "the memory has a task of that name"),
        ("harmless", "the memory has a task of that name"),  # rolled back, and may come back
    ],
)
def test_a_name_that_cannot_be_a_tag(store: MemoryStore, name: str, message: str) -> None:
    before = snapshot(store.path)
    with store.writer(), pytest.raises(ConfigError, match=message):
        store.tag("helpful", name)
    assert snapshot(store.path) == before


def test_a_task_that_is_not_in_the_lineage_cannot_be_tagged(store: MemoryStore) -> None:
    for task in ("none", "harmless", "0002-harmless"):
        with store.writer(), pytest.raises(StoreError, match=f"no task '{task}'; known: base"):
            store.tag(task, "production")
    assert store.tags() == {} and not (store.path / "tags.json").exists()


def test_no_task_can_take_the_name_of_a_tag(store: MemoryStore) -> None:
    give(store, "helpful", "production")
    store.refuse_tags(["other"])
    with pytest.raises(DataError, match=r"'production' is a tag of this memory \(0001-helpful\).*--delete production"):
        store.refuse_tags(["other", "production"])


def test_a_tag_of_a_task_that_was_rolled_back_is_refused_until_the_task_is_back(store: MemoryStore) -> None:
    give(store, "now", "production")
    with store.writer():
        store.rollback("helpful")
        with pytest.raises(StoreError, match=r"'production' names 0003-truthful, which was rolled back; go forward"):
            store.find("production")
        assert list(store.tags()) == ["production"] and store.verify() == []
        assert [e["current"] for e in store.log() if e["tags"]] == [False]
        learn(store, "truthful", 4.0)
        with pytest.raises(StoreError, match="which was rolled back"):
            store.find("production")  # never the later task of the same name
        assert store.rollback("production").directory == "0003-truthful"
        assert store.find("production").directory == "0003-truthful"


def test_an_unknown_name_lists_the_tags_too(store: MemoryStore) -> None:
    give(store, "helpful", "production")
    with pytest.raises(StoreError, match=r"no task 'prod'; known: .*; tags: production \(0001-helpful\)$"):
        store.find("prod")


def test_a_memory_without_tags_opens_and_takes_one(tmp_path: Path) -> None:
    assert not (V1 / "tags.json").exists() and MemoryStore.open(V1).tags() == {}
    store = MemoryStore.open(copy(V1, tmp_path / "memory"))
    give(store, "helpful", "production")
    assert store.find("production").name == "helpful" and store.verify() == []


def test_every_flipped_byte_of_the_file_is_seen(store: MemoryStore) -> None:
    give(store, "helpful", "production")
    path = store.path / "tags.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x01]) + whole[position + 1 :])
        assert any(str(path) in problem for problem in store.verify()), position
        reader = MemoryStore.open(store.path)  # nothing but the tags depends on the file
        assert reader.find("helpful").index == 1
        with pytest.raises(StoreError, match=r"tags\.json: "):
            reader.find("production")
    path.write_bytes(whole)
    assert store.verify() == []


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([], "damaged: tags: expected an object"),
        ({"a b": {"directory": "0001-helpful", "sha256": "0" * 64, "created": ""}}, "damaged: tags.a b.*should match"),
        ({"x": {"directory": "../../etc", "sha256": "0" * 64, "created": ""}}, "damaged: tags.x.directory: "),
        ({"x": {"directory": "0001-helpful"}}, "damaged: tags.x.sha256: missing"),
        ({"x": {"directory": "0009-gone", "sha256": "0" * 64, "created": ""}}, "names '0009-gone', which is not in"),
        ({"x": {"directory": "0001-helpful", "sha256": "0" * 64, "created": ""}}, "does not match .*0001-helpful"),
    ],
)
def test_a_file_that_someone_else_wrote_is_refused(store: MemoryStore, tags: object, message: str) -> None:
    (store.path / "tags.json").write_bytes(seal({"format_version": 2, "tags": tags}))
    with pytest.raises(StoreError):
        MemoryStore.open(store.path).find("x")
    (problem,) = store.verify()
    assert re.search(message, problem)


def test_a_newer_format_is_refused_by_both_versions(store: MemoryStore) -> None:
    (store.path / "tags.json").write_text(json.dumps({"format_version": 99, "tags": {}}))
    with pytest.raises(StoreError, match="format version 99, but this lifealign reads up to version 2"):
        MemoryStore.open(store.path).tags()


def test_a_reader_keeps_the_tags_that_it_opened(store: MemoryStore) -> None:
    give(store, "helpful", "production")
    reader = MemoryStore.open(store.path)
    with store.writer():
        learn(store, "next")
        store.tag("next", "production")
    assert reader.find("production").name == "helpful"
    assert MemoryStore.open(store.path).find("production").name == "next"


def test_a_tag_killed_at_any_step_is_old_or_new(store: MemoryStore, tmp_path: Path) -> None:
    give(store, "helpful", "production")
    seen = []

    def move(path: Path) -> None:
        give(MemoryStore.open(path), "truthful", "production")

    def check(path: Path) -> None:
        found = MemoryStore.open(path)
        assert found.verify() == []
        seen.append(found.find("production").name)
        move(path)
        assert MemoryStore.open(path).find("production").name == "truthful"
        assert not list(path.glob(".tmp-*"))

    assert kill_everywhere(store.path, tmp_path / "killed", move, check) >= 4
    assert seen == sorted(seen) and set(seen) == {"helpful", "truthful"}
