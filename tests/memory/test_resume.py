"""Killed at any point and started again: the same memory, bit for bit, and never half a task.

Each run is a process of its own that is killed by SIGKILL. They are forked from a server that has imported everything
and computed nothing, so that a run costs no import.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.store.writer import MemoryStore
from support.processes import CONTEXT


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(target: object, name: str, call: int, after: bool = False) -> None:
    """Replace ``target.name`` by one that kills the process at its `call`-th call, before or after doing its work."""
    real = getattr(target, name)
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and not after:
            _die()
        result = real(*args, **kwargs)
        if count == call:
            _die()
        return result

    setattr(target, name, wrapped)


def _kill_in_training() -> None:
    import lifealign.training.loop as module

    _kill_at(module, "_step", 6)  # in the second task, two steps after a checkpoint


def _kill_in_sft() -> None:
    import lifealign.training.loop as module

    _kill_at(module, "_sft_loss", 3)


def _kill_in_checkpoint() -> None:
    import lifealign.training.loop as module

    _kill_at(module, "write_checkpoint", 4, after=True)


def _kill_in_consolidation() -> None:
    import lifealign.strategies.lifealign as module

    _kill_at(module, "consolidate_adapter", 2)


def _kill_after_consolidation() -> None:
    import lifealign.strategies.lifealign as module

    _kill_at(module, "restore", 2)


def _kill_in_commit() -> None:
    from lifealign.store.writer import MemoryStore as Store

    _kill_at(Store, "_move_head", 2)  # files are in place, HEAD does not name them yet


def _kill_while_writing_files() -> None:
    from lifealign.core import files

    real = files.write_file

    def write(path: Path, data: bytes) -> Any:
        entry = real(path, data)
        if path.name == "update.safetensors" and "0002-" in str(path):
            _die()
        return entry

    files.write_file = write


def _kill_in_evaluation() -> None:
    import lifealign.memory.policy as module

    _kill_at(module, "score_rows", 4)


def _kill_in_reference() -> None:
    import lifealign.model.logp_cache as module

    _kill_at(module, "token_logps", 7)


KILLS: dict[str, Callable[[], None]] = {
    "training": _kill_in_training,
    "sft": _kill_in_sft,
    "checkpoint": _kill_in_checkpoint,
    "consolidation": _kill_in_consolidation,
    "after consolidation": _kill_after_consolidation,
    "commit": _kill_in_commit,
    "commit files": _kill_while_writing_files,
    "evaluation": _kill_in_evaluation,
    "reference": _kill_in_reference,
}


def _run(model: str, memory: str, rows: str, cache: str, kill: str | None) -> None:
    """One run of a stream of two tasks, in a process of its own."""
    os.environ["LIFEALIGN_CACHE"] = cache
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    from lifealign.memory.api import run_stream
    from lifealign.strategies.configure import read_config

    if kill is not None:
        KILLS[kill]()
    tasks = [
        {"name": name, "train": {"path": f"{rows}/{name}.jsonl"}, "validation_rows": 2, "test_rows": 4}
        for name in ("one", "two")
    ]
    config = read_config(
        None,
        base={
            "memory": memory,
            "preset": "paper",
            "model": {"name": model, "dtype": "float32"},
            "lora": {"r": 2, "alpha": 4, "dropout": 0.1},
            "data": {"max_length": 256},
            "sft": {"epochs": 1, "learning_rate": 1e-3},
            "train": {"epochs": 1, "pairs_per_step": 4, "learning_rate": 5e-3, "checkpoint_every": 2},
            "strategy": {"name": "lifealign", "reference": "task_start", "replay_share": 0.5, "consolidate": "stage"},
            "evaluate": {"bootstrap": 5},
            "stream": {"tasks": tasks},
        },
    )
    run_stream(config)


def start(model: Path, memory: Path, rows: Path, cache: Path, kill: str | None = None) -> int | None:
    process = CONTEXT.Process(target=_run, args=(str(model), str(memory), str(rows), str(cache), kill))
    process.start()
    process.join(120)
    return process.exitcode


def fingerprint(memory: Path) -> dict[str, str]:
    """Hashes of all tensors, kept rows and scores of a memory."""
    store = MemoryStore.open(memory)
    assert store.verify() == []
    found = {}
    for manifest in store.lineage():
        for name in manifest.files:
            if name.endswith((".safetensors", "replay.jsonl", "heldout.jsonl", "diagnostics.json", "data.json")):
                found[f"{manifest.directory}/{name}"] = manifest.files[name].sha256
    scores = [{k: r[k] for k in ("after", "scores")} for r in store.evaluations()]
    found["scores"] = hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()
    return found


@pytest.fixture(scope="module")
def uninterrupted(tiny_dir: Path, rows_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("whole")
    assert start(tiny_dir, directory / "memory", rows_dir, directory / "cache") == 0
    return fingerprint(directory / "memory")


@pytest.mark.parametrize("kill", list(KILLS))
def test_killed_and_started_again(
    kill: str, tiny_dir: Path, rows_dir: Path, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    memory, cache = tmp_path / "memory", tmp_path / "cache"
    assert start(tiny_dir, memory, rows_dir, cache, kill) == -signal.SIGKILL
    store = MemoryStore.open(memory)
    assert store.verify() == []
    shown = fingerprint(memory)
    assert all(uninterrupted[name] == value for name, value in shown.items() if name != "scores")
    assert start(tiny_dir, memory, rows_dir, cache) == 0
    assert fingerprint(memory) == uninterrupted
    assert not list((memory / "work").glob("*-*")), "no workspace is left behind"
    assert start(tiny_dir, memory, rows_dir, cache) == 0  # a finished run has nothing left to do
    assert fingerprint(memory) == uninterrupted
