"""What decides how a run rounds is kept with each task, and the next run follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.memory.numerics import NUMERICS, numerics_of, stored_numerics
from lifealign.memory.session import Session
from lifealign.model import frozen_linear
from lifealign.store.writer import MemoryStore
from lifealign.testing import learn, save_tiny_model, start, tiny_config, tiny_task
from support.progress import Said


@pytest.fixture(autouse=True)
def _no_choice_is_left_behind() -> Iterator[None]:
    yield
    frozen_linear.use_onednn(None)


def learnt(directory: Path, *, onednn: bool, **changes: Any) -> tuple[Path, Path]:
    """A memory of one task, learnt with these products; `changes` are written into the task's numerics."""
    model, memory = save_tiny_model(directory / "model"), directory / "memory"
    frozen_linear.use_onednn(onednn)
    session, store = start(tiny_config(model, memory))
    store = learn(session, store, tiny_task("bread"))
    kept = stored_numerics(store)
    assert kept is not None and kept["products"] == ("oneDNN" if onednn else "torch")
    assert kept == numerics_of(session.base.model, session.accelerator, kept["tokens_per_pack"])
    return model, memory


@pytest.mark.parametrize("onednn", [True, False])
def test_a_later_run_multiplies_as_the_newest_task_did(
    tmp_path: Path, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, memory = learnt(tmp_path, onednn=onednn)
    frozen_linear.use_onednn(None)
    monkeypatch.setattr(
        frozen_linear, "_measured", lambda: (True, not onednn)
    )  # this time, the stopwatch says the other thing
    said = Said()
    session = Session(tiny_config(model, memory), said)
    assert frozen_linear.onednn_leads() is not onednn
    session.join(MemoryStore.open(memory))
    assert frozen_linear.onednn_leads() is onednn
    assert not [line for line in said.lines if "otherwise" in line]


def test_what_cannot_be_followed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = learnt(tmp_path, onednn=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")
    said = Said()
    session = Session(tiny_config(model, memory), said)
    session.join(MemoryStore.open(memory))
    (line,) = [line for line in said.lines if "otherwise" in line]
    assert "CPU, ANOTHER now" in line and "up to rounding" in line


def test_a_checkpoint_keeps_the_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifealign.training import loop

    states: list[dict[str, Any]] = []
    write = loop.write_checkpoint
    monkeypatch.setattr(
        loop, "write_checkpoint", lambda d, t, s: (states.append(json.loads(json.dumps(s))), write(d, t, s))
    )
    learnt(tmp_path, onednn=True)
    assert states and all(state["onednn"] is True for state in states)


def test_a_memory_of_before_says_nothing(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    session, store = start(tiny_config(model, tmp_path / "memory"))
    assert stored_numerics(store) is None and NUMERICS not in store.lineage()[0].meta
    session.join(store)
