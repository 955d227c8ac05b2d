"""The durable memory: chain, checksums, atomicity under SIGKILL and failing disks, locks, formats, rollback."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core import files
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import encode_json, seal, sealed
from lifealign.core.tensors import decode_tensors, encode_tensors
from lifealign.store import manifest
from lifealign.store import writer as store_module
from lifealign.store.writer import MIGRATIONS, MemoryStore, TaskManifest
from lifealign.training.checkpoints import read_checkpoint, write_checkpoint
from support.paths import ROOT

IDENTITY = {"base_model": {"name": "tiny", "weights_sha256": "ab" * 32}, "lora": {"r": 2, "alpha": 4.0}, "seed": 5}
V1 = ROOT / "tests" / "store" / "compat" / "v1" / "memory"
MUTATING = ("write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


@pytest.fixture(autouse=True)
def _fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_now", lambda: "2026-01-02T03:04:05+00:00")


def adapter(value: float) -> dict[str, torch.Tensor]:
    return {"q.lora_A": torch.full((2, 3), value), "q.lora_B": torch.full((3, 2), -value, dtype=torch.bfloat16)}


def create(path: Path) -> MemoryStore:
    return MemoryStore.create(path, IDENTITY, {"adapter": adapter(0.0)}, {"notes.json": {"made": "by hand"}})


def learn(store: MemoryStore, name: str, value: float = 1.0) -> TaskManifest:
    return store.commit(
        name,
        members=[name],
        tensors={"adapter": adapter(value), "state": {}},
        documents={"diagnostics.json": {"rank": 2, "missing": None}},
        lines={"replay.jsonl": [{"chosen": "a", "n": 1}, {"chosen": "ü\n", "n": 2}]},
        seed=5,
        config={"train": {"epochs": 2}},
        meta={"steps": 12},
    )


def full_memory(path: Path) -> MemoryStore:
    """0000 <- 0001-helpful <- 0003-truthful (HEAD), 0002-harmless rolled back, two evaluations."""
    store = create(path)
    with store.writer():
        learn(store, "helpful", 1.0)
        store.append_evaluation({"kind": "row", "after": "0001-helpful", "scores": {"helpful": 0.75}})
        learn(store, "harmless", 2.0)
        store.rollback("helpful")
        learn(store, "truthful", 3.0)
        store.append_evaluation({"kind": "row", "after": "0003-truthful", "scores": {"helpful": None}})
    return store


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.relative_to(path).parts[0] not in (".lock", "work")
    }


def copy(source: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target


# --- processes that are killed, disks that fail ---


def in_child(action: Callable[[], object]) -> int:
    """Run in a forked child; its wait status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def before_step(patch: pytest.MonkeyPatch, strike: Callable[[int, str, tuple[Any, ...]], None]) -> None:
    """Call `strike(number, name, arguments)` before every call that changes the disk."""
    count = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            number, count = count, count + 1
            strike(number, name, args)
            return real(*args, **kwargs)

        return call

    for name in MUTATING:
        patch.setattr(os, name, wrap(name, getattr(os, name)))


def killed_before(step: int, action: Callable[[], object]) -> bool:
    """Whether `action`, in a child that kills itself before its step-th call that changes the disk, got that far.

    Before a write, the first half of the bytes is written: a torn file.
    """
    write = os.write

    def strike(number: int, name: str, args: tuple[Any, ...]) -> None:
        if number == step:
            if name == "write":
                write(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            before_step(patch, strike)
            action()

    status = in_child(run)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed before the kill"
    return False


def kill_everywhere(base: Path, scratch: Path, action: Callable[[Path], object], check: Callable[[Path], None]) -> int:
    """Kill `action` before each of its steps, each time on a fresh copy of `base`; the number of steps."""
    step = 0
    while _kill(step, base, scratch, action):
        check(scratch)
        step += 1
    check(scratch)
    return step


def _kill(step: int, base: Path, scratch: Path, action: Callable[[Path], object]) -> bool:
    copy(base, scratch)
    return killed_before(step, lambda: action(scratch))


def commit_again(path: Path) -> None:
    """What a run does when it is started again: take the lock, look at HEAD, commit what is missing."""
    store = MemoryStore.open(path)
    with store.writer():
        if store.head.name != "harmless":
            learn(store, "harmless", 2.0)


def one_task(path: Path) -> Path:
    store = create(path)
    with store.writer():
        learn(store, "helpful")
    return path


def test_a_commit_killed_at_any_step_is_old_or_new_and_a_rerun_ends_in_the_same_bytes(tmp_path: Path) -> None:
    base = one_task(tmp_path / "base")
    commit_again(copy(base, tmp_path / "whole"))
    expected, old = snapshot(tmp_path / "whole"), snapshot(base)
    heads = []

    def check(path: Path) -> None:
        seen = MemoryStore.open(path)
        heads.append(seen.head.directory)
        assert seen.verify() == []
        assert [m.name for m in seen.lineage()] in (["initial", "helpful"], ["initial", "helpful", "harmless"])
        assert {k: v for k, v in snapshot(path).items() if k in old and k != "HEAD"} == {
            k: v for k, v in old.items() if k != "HEAD"
        }
        commit_again(path)
        assert snapshot(path) == expected

    steps = kill_everywhere(base, tmp_path / "killed", commit_again, check)
    assert steps > 20, "five files, manifest, PENDING, HEAD, each written and fsynced, and the renames"
    first_new = heads.index("0002-harmless")
    assert set(heads[:first_new]) == {"0001-helpful"} and set(heads[first_new:]) == {"0002-harmless"}


def test_a_rerun_that_is_killed_as_well_does_no_harm(tmp_path: Path) -> None:
    base = one_task(tmp_path / "base")
    commit_again(copy(base, tmp_path / "whole"))
    expected = snapshot(tmp_path / "whole")
    orphaned = _orphan(base, tmp_path / "orphaned")

    def check(path: Path) -> None:
        assert MemoryStore.open(path).verify() == []
        commit_again(path)
        assert snapshot(path) == expected

    assert kill_everywhere(orphaned, tmp_path / "killed", commit_again, check) > 25


def _orphan(base: Path, target: Path) -> Path:
    """A copy whose next task was renamed into place by a process killed before it moved HEAD."""
    step = 0
    while _kill(step, base, target, commit_again):
        if (target / "tasks" / "0002-harmless").exists():
            assert MemoryStore.open(target).head.directory == "0001-helpful"
            return target
        step += 1
    raise AssertionError("no step between the rename and HEAD")


def test_an_orphan_is_invisible_and_removed_by_the_next_writer_but_a_rolled_back_task_is_kept(tmp_path: Path) -> None:
    path = _orphan(one_task(tmp_path / "base"), tmp_path / "orphaned")
    reader = MemoryStore.open(path)
    with pytest.raises(
        StoreError, match=r"no task 'harmless'; known: initial \(0000-initial\), helpful \(0001-helpful\)"
    ):
        reader.find("harmless")
    with reader.writer():
        assert not (path / "tasks" / "0002-harmless").exists()
        learn(reader, "harmless", 2.0)
        reader.rollback("helpful")
    with reader.writer():
        assert (path / "tasks" / "0002-harmless").exists()
        assert learn(reader, "harmless").directory == "0003-harmless"


def test_a_damaged_pending_mark_does_not_remove_a_rolled_back_task(tmp_path: Path) -> None:
    path = _orphan(one_task(tmp_path / "base"), tmp_path / "orphaned")
    (path / "PENDING").write_text(f"0002-harmless {'0' * 64}\n")
    with pytest.raises(StoreError, match="PENDING"), MemoryStore.open(path).writer():
        pass
    assert (path / "tasks" / "0002-harmless" / "task.json").exists()


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


def test_evaluations_and_rollbacks_killed_at_any_step_happen_or_do_not(tmp_path: Path) -> None:
    base = full_memory(tmp_path / "base").path

    def change(path: Path) -> None:
        store = MemoryStore.open(path)
        with store.writer():
            store.append_evaluation({"kind": "row", "after": "0003-truthful"})
            store.rollback("0002-harmless")

    def check(path: Path) -> None:
        store = MemoryStore.open(path)
        assert store.verify() == []
        assert (len(store.evaluations()), store.head.name) in {(2, "truthful"), (3, "truthful"), (3, "harmless")}
        with store.writer():
            assert not list(path.rglob(".tmp-*"))

    assert kill_everywhere(base, tmp_path / "killed", change, check) >= 8, "twice write, fsync, replace, fsync"


def test_a_disk_that_fails_at_any_step_leaves_the_memory_and_gives_one_message(tmp_path: Path) -> None:
    """Two ways to fail: one refused call (then the clean-up works), and a disk that is read-only from then on."""
    base = one_task(tmp_path / "base")
    commit_again(copy(base, tmp_path / "whole"))
    expected = snapshot(tmp_path / "whole")
    path = tmp_path / "failing"
    for code, lasting in ((errno.ENOSPC, False), (errno.EROFS, True)):
        failing, step = True, 0
        while failing:
            store = MemoryStore.open(copy(base, path))
            failing = False

            def strike(
                number: int,
                name: str,
                args: tuple[Any, ...],
                lasting: bool = lasting,
                step: int = step,
                code: int = code,
            ) -> None:
                nonlocal failing
                if number == step or (lasting and number > step):
                    failing = True
                    raise OSError(code, os.strerror(code), str(args[0]))

            with store.writer():
                with pytest.MonkeyPatch.context() as patch:
                    before_step(patch, strike)
                    try:
                        learn(store, "harmless", 2.0)
                    except StoreError as error:
                        assert os.strerror(code) in str(error) and "cannot be written" in str(error)
                        assert failing
                    else:
                        assert not failing
                if not lasting:
                    assert not list(path.rglob(".tmp-*")), "removed at once"
                    if store.head.name != "harmless":
                        assert snapshot(path) == snapshot(base)
                        learn(store, "harmless", 2.0)  # the same writer may go on
            assert MemoryStore.open(path).verify() == []
            commit_again(path)
            assert snapshot(path) == expected
            step += 1
        assert step > 20


# --- real file systems ---

_NEWNS, _RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x20000, 1, 32, 4096, 0x4000, 0x40000


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def in_mount_namespace(action: Callable[[], object]) -> None:
    """Run in a child that may mount file systems nobody else sees; skip where that is not allowed."""

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            if libc.unshare(_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            mount("none", Path("/"), "", _REC | _PRIVATE)
        except OSError:
            os._exit(77)
        action()

    if not sys.platform.startswith("linux"):
        pytest.skip("private mounts need Linux")
    status = in_child(run)
    assert os.WIFEXITED(status)
    if os.WEXITSTATUS(status) == 77:
        pytest.skip("this user may not mount file systems; the simulated failures cover the rest")
    assert os.WEXITSTATUS(status) == 0


def test_a_real_full_disk(tmp_path: Path) -> None:
    big = torch.zeros(200_000)  # made here: a forked child must not start torch's threads

    def run() -> None:
        mount("tmpfs", tmp_path, "tmpfs", 0, "size=256k")
        path = one_task(tmp_path / "memory")
        before = snapshot(path)
        store = MemoryStore.open(path)
        with store.writer():
            with pytest.raises(StoreError, match=r"cannot be written: No space left on device \(ENOSPC\)"):
                store.commit(
                    "big",
                    members=["big"],
                    tensors={"adapter": {"w": big}},
                    documents={},
                    lines={},
                    seed=0,
                    config={},
                )
            assert snapshot(path) == before and store.verify() == []
            assert learn(store, "small").directory == "0002-small"

    in_mount_namespace(run)


def test_a_real_read_only_file_system(tmp_path: Path) -> None:
    path = full_memory(tmp_path / "memory").path

    def run() -> None:
        mount(str(path), path, "", _BIND)
        mount("none", path, "", _BIND | _REMOUNT | _RDONLY)
        store = MemoryStore.open(path)  # reading needs no lock and no write
        assert store.verify() == [] and len(store.log()) == 4 and len(store.evaluations()) == 2
        assert torch.equal(store.load_tensor(store.head, "adapter", "q.lora_A"), torch.full((2, 3), 3.0))
        with pytest.raises(StoreError, match=r"Read-only file system \(EROFS\)"), store.writer():
            pass
        with pytest.raises(StoreError, match="EROFS"):
            MemoryStore.create(path / "inner", IDENTITY, {"adapter": adapter(0.0)})

    in_mount_namespace(run)


# --- the chain ---


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


def test_find_takes_the_latest_of_a_name_directories_and_members(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with store.writer():
        learn(store, "a", 1.0)
        learn(store, "a", 2.0)
        store.commit("joint", members=["b", "c"], tensors={}, documents={}, lines={}, seed=0, config={})
    assert store.find("a").directory == "0002-a"
    assert store.find("0001-a").index == 1
    assert store.find("c").name == "joint"


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


# --- one flipped byte ---

_TASK_FILES = ("adapter.safetensors", "diagnostics.json", "replay.jsonl", "state.safetensors", "task.json")
FILES = [
    "HEAD",
    "store.json",
    "evaluations/000001.json",
    "evaluations/000002.json",
    *(f"tasks/0000-initial/{name}" for name in ("adapter.safetensors", "notes.json", "task.json")),
    *(f"tasks/{d}/{name}" for d in ("0001-helpful", "0002-harmless", "0003-truthful") for name in _TASK_FILES),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = full_memory(tmp_path_factory.mktemp("sound") / "memory").path
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


def test_every_file_of_the_memory_is_in_the_list_below(sound: Path) -> None:
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
    if name in ("tasks/0002-harmless/task.json", "evaluations/000002.json"):
        # Nothing refers to the last evaluation, or to a leaf that was rolled back: without its manifest it is no task.
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


def test_a_file_that_was_never_safetensors_is_refused_although_its_checksum_holds(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with pytest.MonkeyPatch.context() as patch, store.writer():
        patch.setattr(store_module, "encode_tensors", lambda tensors: b"not tensors")
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
    with pytest.raises(StoreError, match=r"task\.json: damaged: '\.\./\.\./store\.json' is not a file name"):
        MemoryStore.open(path)


def test_stray_files_are_noted_and_left_alone(tmp_path: Path) -> None:
    store = full_memory(tmp_path / "memory")
    for name in ("notes.txt", "tasks/0001-helpful/extra.json", "evaluations/x.json", "tasks/0009-half/adapter.json"):
        (store.path / name).parent.mkdir(exist_ok=True)
        (store.path / name).write_text("{}")
    with store.writer():
        assert learn(store, "next").directory == "0010-next", "a number that is taken, if by a stray, is not used"
    assert store.verify() == []
    assert [str(p.relative_to(store.path)) for p in store.strays()] == [
        "evaluations/x.json",
        "notes.txt",
        "tasks/0001-helpful/extra.json",
        "tasks/0009-half",
    ]


# --- order of the writes ---


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


# --- the lock ---


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
        message = f"another process is writing to {store.path} .lock file {store.path / '.lock'}."
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


# --- rollback ---


def test_rollback_deletes_nothing_and_one_can_go_forward_again(tmp_path: Path) -> None:
    store = create(tmp_path / "memory")
    with store.writer():
        learn(store, "a", 1.0)
        learn(store, "b", 2.0)
        before = {k: v for k, v in snapshot(store.path).items() if k != "HEAD"}
        assert store.rollback("a").directory == "0001-a"
        assert [m.name for m in store.lineage()] == ["initial", "a"]
        with pytest.raises(StoreError, match="no task 'b'"):
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


# --- formats and bad paths ---


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
    """A change of the format needs a new number, a migration and a new directory beside v1."""
    assert store_module.FORMAT_VERSION == 1
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
    with pytest.raises(StoreError, match=rf"{name}: format version 7, but this lifealign reads up to version 1"):
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
        return {"format_version": 1, "number": 1, "record": {"kind": "row", "score": record["score"]}}
    added: dict[str, Any] = {"name": record["title"], "members": [record["title"]], "config": {}, "meta": {}}
    return {**record, **added, "versions": {}, "created": ""}


def test_an_older_format_is_migrated_in_memory_and_can_be_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = version_0(tmp_path / "memory")
    with pytest.raises(StoreError, match=r"store\.json: format version 0; no migration from 0 to 1 is known"):
        MemoryStore.open(path)
    monkeypatch.setitem(MIGRATIONS, 0, from_0_to_1)
    before = snapshot(path)
    store = MemoryStore.open(path)
    assert (store.identity, store.head.name, store.head.members) == ({"base_model": "tiny"}, "old", ("old",))
    assert torch.equal(store.load_tensors(store.head, "adapter")["q.lora_A"], torch.full((2, 3), 4.0))
    assert store.evaluations() == [{"kind": "row", "score": 0.5}]
    assert store.verify() == [] and snapshot(path) == before
    with store.writer():
        learn(store, "new")
    again = MemoryStore.open(path)
    assert [m.name for m in again.lineage()] == ["initial", "old", "new"] and again.verify() == []
    assert {k: v for k, v in snapshot(path).items() if k in before and k != "HEAD"} == {
        k: v for k, v in before.items() if k != "HEAD"
    }


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
    with pytest.raises(StoreError, match="there is a memory already"):
        create(tmp_path / "memory")
    assert create(tmp_path / "deep" / "er").head.directory == "0000-initial"


def test_a_creation_that_fails_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left on device"):
            create(tmp_path / "memory")
    assert snapshot(tmp_path / "memory") == {}
    assert create(tmp_path / "memory").verify() == []


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


# --- workspaces and checkpoints ---


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


def moments(step: int) -> dict[str, torch.Tensor]:
    return {"exp_avg": torch.full((2,), float(step)), "rng": torch.arange(step, step + 4, dtype=torch.uint8)}


def test_checkpoints_keep_the_newest(tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert read_checkpoint(work) is None
    for step in (1, 2, 3):
        path = write_checkpoint(work, moments(step), {"step": step, "losses": [0.1 * step]})
        found = read_checkpoint(work)
        assert found is not None and found[1] == {"step": step, "losses": [0.1 * step]}
        assert all(torch.equal(found[0][name], tensor) for name, tensor in moments(step).items())
        assert list(work.iterdir()) == [path]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    older = write_checkpoint(tmp_path, moments(1), {"step": 1})
    kept = tmp_path / "kept"
    older.rename(kept)
    newer = write_checkpoint(tmp_path, moments(2), {"step": 2})
    newer = newer.rename(tmp_path / "00000002")
    kept.rename(older)
    found = read_checkpoint(tmp_path)
    assert found is not None and found[1] == {"step": 2}
    whole = (newer / name).read_bytes()
    if damage == "remove":
        (newer / name).unlink()
    else:
        flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
        (newer / name).write_bytes(flipped if damage == "flip" else whole[: len(whole) // 2])
    found = read_checkpoint(tmp_path)
    assert found is not None and found[1] == {"step": 1}
    assert write_checkpoint(tmp_path, moments(3), {"step": 3}).name == "00000003"
    found = read_checkpoint(tmp_path)
    assert found is not None and found[1] == {"step": 3} and len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_killed_at_any_step_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_checkpoint(base, moments(1), {"step": 1})
    seen = []

    def check(path: Path) -> None:
        found = read_checkpoint(path)
        assert found is not None
        step = found[1]["step"]
        assert torch.equal(found[0]["rng"], moments(step)["rng"])
        seen.append(step)
        write_checkpoint(path, moments(3), {"step": 3})
        found = read_checkpoint(path)
        assert found is not None and found[1] == {"step": 3} and len(list(path.iterdir())) == 1

    steps = kill_everywhere(
        base, tmp_path / "killed", lambda path: write_checkpoint(path, moments(2), {"step": 2}), check
    )
    assert steps > 10 and seen == sorted(seen) and set(seen) == {1, 2}


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, moments(1), {"step": 1})
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_checkpoint(tmp_path, moments(2), {"step": 2})
    found = read_checkpoint(tmp_path)
    assert found is not None and found[1] == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_seal_covers_every_byte() -> None:
    whole = seal({"a": 1, "b": [1, 2]})
    assert sealed(whole) and json.loads(whole)["b"] == [1, 2]
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            assert not sealed(bytes(flipped))
    assert not sealed(whole + b"\n") and not sealed(whole[:-1]) and not sealed(b"")


def test_manifest_names() -> None:
    assert manifest.is_file_name("adapter.safetensors") and manifest.is_file_name("replay.jsonl")
    for bad in ("task.json", "../x.json", "a/b.json", ".tmp-x.json", "adapter.bin", "adapter.pkl", ""):
        assert not manifest.is_file_name(bad)
