"""Killed while a task is superseded or withdrawn: the memory is the old one or the new one, and a rerun ends in the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.store.layout import ADAPTER, REPLAY, RETIRED, STATE
from lifealign.store.retired import retired
from lifealign.store.writer import MemoryStore
from support.processes import CONTEXT


def _die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_call(target: object, name: str, call: int) -> None:
    """Replace ``target.name`` by one that kills the process instead of its `call`-th call."""
    real, count = getattr(target, name), iter(range(1, 1_000_000))
    setattr(target, name, lambda *a, **k: _die() if next(count) == call else real(*a, **k))


def _in_training() -> None:
    import lifealign.training.loop as module

    _at_call(module, "_step", 6)  # the last of three steps of the second task, behind a checkpoint


def _in_the_commit_of(number: int) -> Callable[[], None]:
    return lambda: _at_call(MemoryStore, "_move_head", number)


def _while_writing() -> None:
    from lifealign.core import files

    real = files.write_file

    def write(path: Path, data: bytes) -> Any:
        return _die() if path.name == RETIRED else real(path, data)

    files.write_file = write


KILLS = {
    "training": _in_training,
    "files of the superseding commit": _while_writing,
    "superseding commit": _in_the_commit_of(3),  # after those of the memory and of the first task
}


def _run(model: str, memory: str, rows: str, cache: str, kill: str | None) -> None:
    """One run of a stream of two tasks of which the second supersedes the first, in a process of its own."""
    os.environ["LIFEALIGN_CACHE"] = cache
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    from lifealign.memory.api import run_stream
    from lifealign.testing import tiny_config

    if kill is not None:
        KILLS[kill]()
    tasks = [
        {"name": name, "train": {"path": f"{rows}/{name}.jsonl"}, "validation_rows": 2, "test_rows": 4, **more}
        for name, more in (("one", {}), ("two", {"supersedes": "one"}))
    ]
    settings = (
        "train.checkpoint_every=2",
        "train.pairs_per_step=4",
        "evaluate.before=false",
        "strategy.replay_share=0.5",
    )
    config = tiny_config(Path(model), Path(memory), *settings, f"stream={{tasks: {tasks}}}".replace("'", '"'))
    run_stream(config)


def _withdraw(memory: str, kill: str | None) -> None:
    from lifealign.memory.api import Memory

    if kill == "files":
        _while_writing()
    elif kill == "head":
        _in_the_commit_of(1)()
    Memory.open(memory).withdraw("two")


def in_process(target: Callable[..., None], *args: Any) -> int | None:
    process = CONTEXT.Process(target=target, args=tuple(a if a is None else str(a) for a in args))
    process.start()
    process.join(240)
    return process.exitcode


def content(memory: Path) -> dict[str, str]:
    store = MemoryStore.open(memory)
    assert store.verify() == []
    kept = (f"{ADAPTER}.safetensors", f"{STATE}.safetensors", REPLAY, RETIRED)
    return {f"{m.directory}/{n}": m.files[n].sha256 for m in store.lineage() for n in kept if n in m.files}


@pytest.fixture(scope="module")
def whole(tiny_dir: Path, rows_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    assert in_process(_run, tiny_dir, directory / "memory", rows_dir, directory / "cache", None) == 0
    return directory / "memory"


@pytest.mark.parametrize("kill", list(KILLS))
def test_a_superseding_task_is_there_whole_or_not_at_all(
    kill: str, tiny_dir: Path, rows_dir: Path, whole: Path, tmp_path: Path
) -> None:
    memory, cache = tmp_path / "memory", tmp_path / "cache"
    assert in_process(_run, tiny_dir, memory, rows_dir, cache, kill) == -signal.SIGKILL
    store = MemoryStore.open(memory)
    assert store.head.name == "one" and retired(store) == {} and store.verify() == []
    assert in_process(_run, tiny_dir, memory, rows_dir, cache, None) == 0
    assert content(memory) == content(whole) and f"0002-two/{RETIRED}" in content(whole)
    assert retired(MemoryStore.open(memory)) == {"one": "0002-two"}


@pytest.mark.parametrize("kill", ["files", "head"])
def test_a_withdrawal_is_there_whole_or_not_at_all(kill: str, whole: Path, tmp_path: Path) -> None:
    import shutil

    memory, other = tmp_path / "memory", tmp_path / "other"
    for copy in (memory, other):
        shutil.copytree(whole, copy)
    before = content(memory)
    assert in_process(_withdraw, memory, kill) == -signal.SIGKILL
    assert content(memory) == before and MemoryStore.open(memory).head.name == "two"
    assert in_process(_withdraw, memory, None) == in_process(_withdraw, other, None) == 0
    assert content(memory) == content(other) != before
    assert list(retired(MemoryStore.open(memory))) == ["one", "two"]


def _recover(memory: str) -> None:
    """Recover in a process that is killed when the commit is in place and HEAD does not name it yet."""
    import torch

    from lifealign.memory.api import Memory

    torch.set_num_threads(1)
    _in_the_commit_of(1)()
    Memory.open(memory).recover("one", rate=0.05, steps=5, allowed_drop=1.0)


def test_a_killed_recovery_leaves_the_memory_as_it_was(config: Callable[..., Any]) -> None:
    from lifealign.memory.api import Memory
    from support.rows import make_task

    made = config("evaluate.before=false", "train.learning_rate=0.03", "strategy.name=sequential")
    memory = Memory.create(made.memory, made)
    for name in ("one", "two"):
        memory.learn(make_task(name, train=4, test=2, validation=2))

    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in memory.path.rglob("*") if p.is_file() and p.name != ".lock"}

    before = files()
    assert in_process(_recover, memory.path) == -signal.SIGKILL
    assert len(files()) > len(before), "the commit is in place"
    store = MemoryStore.open(memory.path)
    with store.writer():  # removes it
        assert store.head.name == "two" and store.verify() == []
    assert files() == before
