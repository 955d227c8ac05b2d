"""Memories for tests of the store; processes that are killed at a step, disks that fail."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.store.writer import MemoryStore, TaskManifest
from support.paths import ROOT

IDENTITY = {"base_model": {"name": "tiny", "weights_sha256": "ab" * 32}, "lora": {"r": 2, "alpha": 4.0}, "seed": 5}
V1 = ROOT / "tests" / "store" / "compat" / "v1" / "memory"
MUTATING = ("write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
"""Functions of `os` that change the disk."""

_TASK_FILES = ("adapter.safetensors", "diagnostics.json", "replay.jsonl", "state.safetensors", "task.json")
FILES = [
    "HEAD",
    "store.json",
    "evaluations/000001.json",
    "evaluations/000002.json",
    *(f"tasks/0000-initial/{name}" for name in ("adapter.safetensors", "notes.json", "task.json")),
    *(f"tasks/{d}/{name}" for d in ("0001-helpful", "0002-harmless", "0003-truthful") for name in _TASK_FILES),
]


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


def one_task(path: Path) -> Path:
    store = create(path)
    with store.writer():
        learn(store, "helpful")
    return path


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
    while kill_at(step, base, scratch, action):
        check(scratch)
        step += 1
    check(scratch)
    return step


def kill_at(step: int, base: Path, scratch: Path, action: Callable[[Path], object]) -> bool:
    copy(base, scratch)
    return killed_before(step, lambda: action(scratch))
