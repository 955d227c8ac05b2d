"""Atomicity: SIGKILL at every step, disks that fail or fill up, torn checkpoints."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core.errors import StoreError
from lifealign.store.writer import MemoryStore
from lifealign.training.checkpoints import read_checkpoint, write_checkpoint
from support.store import (
    IDENTITY,
    adapter,
    before_step,
    copy,
    full_memory,
    in_child,
    kill_at,
    kill_everywhere,
    learn,
    one_task,
    snapshot,
)


def commit_again(path: Path) -> None:
    """What a run does when it is started again: take the lock, look at HEAD, commit what is missing."""
    store = MemoryStore.open(path)
    with store.writer():
        if store.head.name != "harmless":
            learn(store, "harmless", 2.0)


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
    while kill_at(step, base, target, commit_again):
        if (target / "tasks" / "0002-harmless").exists():
            assert MemoryStore.open(target).head.directory == "0001-helpful"
            return target
        step += 1
    raise AssertionError("no step between the rename and HEAD")


def test_an_orphan_is_invisible_and_removed_by_the_next_writer_but_a_rolled_back_task_is_kept(tmp_path: Path) -> None:
    path = _orphan(one_task(tmp_path / "base"), tmp_path / "orphaned")
    reader = MemoryStore.open(path)
    with pytest.raises(StoreError, match=r"no task 'harmless'; known: base, helpful \(0001-helpful\)"):
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
