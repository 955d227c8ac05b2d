"""Two local processes (gloo) give what one gives, within float32 rounding, and commit once."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifealign.core.config import StreamConfig
from lifealign.data.load import load_stream
from lifealign.data.tasks import TaskStream, as_feedback
from lifealign.store.writer import MemoryStore
from support.processes import CONTEXT


def _learn(model: str, memory: str, rows: str, cache: str, thumbs: bool, rank: int, world: int, port: int) -> None:
    os.environ["LIFEALIGN_CACHE"] = f"{cache}"
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    torch.set_num_threads(1)
    from lifealign.memory import learning
    from lifealign.memory.api import run_stream
    from lifealign.strategies.configure import read_config

    tasks = [
        {"name": n, "train": {"path": f"{rows}/{n}.jsonl"}, "validation_rows": 0, "test_rows": 5}
        for n in ("one", "two")
    ]
    config = read_config(
        None,
        base={
            "memory": memory,
            "model": {"name": model, "dtype": "float32"},
            "lora": {"r": 2, "alpha": 4},
            "data": {"max_length": 256},
            "sft": {"epochs": 1, "learning_rate": 1e-3},
            # One pair a pack, so that there is something to share out; windows of 4 and a last one of 1.
            "train": {"epochs": 2, "pairs_per_step": 4, "learning_rate": 5e-3, "tokens_per_pack": 1},
            "evaluate": {"bootstrap": 5, "unseen": True},
            "stream": {"tasks": tasks},
        },
    )
    if thumbs:
        learning.load_stream = _as_thumbs
    memory_ = run_stream(config)
    assert memory_._session(config, None).accelerator.num_processes == world


def _as_thumbs(config: StreamConfig, seed: int) -> TaskStream:
    """The stream with rows of feedback in place of pairs, whose reference point belongs to a step of both processes."""
    stream = load_stream(config, seed)
    tasks = [replace(task, train=as_feedback(task.train), test=as_feedback(task.test)) for task in stream.tasks]
    return replace(stream, tasks=tuple(tasks))


def launch(tiny_dir: Path, memory: Path, rows: Path, cache: Path, thumbs: bool, world: int) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        CONTEXT.Process(
            target=_learn, args=(str(tiny_dir), str(memory), str(rows), str(cache), thumbs, rank, world, port)
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("thumbs", [False, True])
def test_two_processes_equal_one(tiny_dir: Path, rows_dir: Path, tmp_path: Path, thumbs: bool) -> None:
    stores = {}
    for world in (1, 2):
        memory = tmp_path / f"memory{world}"
        assert launch(tiny_dir, memory, rows_dir, tmp_path / f"cache{world}", thumbs, world) == [0] * world
        stores[world] = MemoryStore.open(memory)
        assert stores[world].verify() == []
        assert [m.name for m in stores[world].lineage()] == ["initial", "one", "two"]
        assert stores[world].head.meta["processes"] == world
    one, two = (stores[w].load_tensors(stores[w].head, "adapter") for w in (1, 2))
    start = stores[1].load_tensors(stores[1].lineage()[0], "adapter")
    moved = max(float((one[n] - start[n]).abs().max()) for n in one)
    apart = max(float((one[n] - two[n]).abs().max()) for n in one)
    assert moved > 1e-2
    assert apart < 1e-3 * moved, (apart, moved)
    cells = [
        {(r["after"], s["task"]): s["rows"]["margin"] for r in stores[w].evaluations() for s in r["scores"]}
        for w in (1, 2)
    ]
    assert cells[0].keys() == cells[1].keys()
    assert all(v == pytest.approx(cells[1][k], abs=1e-3) for k, v in cells[0].items())
