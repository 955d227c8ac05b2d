"""A new adapter for each task (olora, nlora, inflora, sdlora, single): what they have in common."""

from __future__ import annotations

import math
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from lifealign.core.progress import NullProgress
from lifealign.memory.api import Memory
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER, STATE, UPDATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from support.growing import (
    TASKS,
    Build,
    dense_logits,
    factors,
    logits,
    products,
    second_start,
    training,
)
from support.lives import learn, start
from support.rows import make_task

METHODS = ("olora", "nlora", "inflora", "sdlora", "single")
GROWING = METHODS[:4]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("method", METHODS)
def test_lives_of_a_memory_evaluate_roll_back_and_learn_again(method: str, config: Build, tmp_path: Path) -> None:
    """Scores as of each task months later are those measured then; a task learnt again after a rollback is the same."""
    build = config(f"strategy.name={method}", "strategy.reference=previous_task", "sft.epochs=1")
    memory = Memory.create(tmp_path / "memory", build)
    seen = {}
    for task in TASKS:
        memory.learn(task)
        session, store = memory._session(memory.config, None), memory._store
        session.load(store, store.head)
        session.strategy.select(session.model, task.name)
        seen[task.name] = session.view.pair_logps(task.test)
    again = Memory.open(tmp_path / "memory")
    session = again._session(again.config, None)
    for task in reversed(TASKS):
        session.load(again._store, again._point(task.name))
        session.strategy.select(session.model, task.name)
        assert torch.equal(session.view.pair_logps(task.test), seen[task.name])
    scores = again.scores("margin")
    assert again.evaluate(as_of="stars", split="test").tasks["bread"]["margin"]["value"] == pytest.approx(scores[1][0])
    last = {stem: again._store.load_tensors(again._store.head, stem) for stem in (ADAPTER, STATE, UPDATE)}
    again.rollback("stars")
    assert again.generate(["bread question 1?"], max_new_tokens=3)
    again.learn(make_task("music", train=6, test=3), settings=["evaluate.rows=1"])
    for stem, tensors in last.items():
        now = again._store.load_tensors(again._store.head, stem)
        assert set(now) == set(tensors) and all(torch.equal(now[n], t) for n, t in tensors.items())
    assert again.verify() == []


@pytest.mark.parametrize("stage", ["sft", "preference"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_within_a_stage_and_gone_on_equals_uninterrupted(
    method: str, stage: str, config: Build, tmp_path: Path
) -> None:
    """In the second task, so that there is a past; a new session finds the checkpoint of the step before."""
    settings = (f"strategy.name={method}", "strategy.reference=previous_task", "sft.epochs=2", "train.epochs=2")
    settings += ("lora.dropout=0.1", "train.pairs_per_step=3")
    session, whole = start(config(*settings, f"memory={tmp_path / 'whole'}"))
    whole = learn(session, whole, *TASKS[:2])
    parts = config(*settings, f"memory={tmp_path / 'parts'}")
    session, store = start(parts)
    store = learn(session, store, TASKS[0])

    class StoppedError(Exception):
        pass

    def stop(step: Step) -> None:
        if step.stage == stage and step.index == 2:
            raise StoppedError

    session.strategy.adjust_update = stop  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        learn(session, store, TASKS[1])
    fresh = Session(parts, NullProgress())
    store = learn(fresh, MemoryStore.open(parts.memory), TASKS[1])
    for stem in (ADAPTER, STATE, UPDATE):
        a, b = store.load_tensors(store.head, stem), whole.load_tensors(whole.head, stem)
        assert set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)
    assert [x["loss"] for x in training(store, "stars")] == [x["loss"] for x in training(whole, "stars")]


@pytest.mark.parametrize("method", METHODS)
def test_export_after_three_tasks_loads_in_stock_peft(method: str, config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config(f"strategy.name={method}", "train.learning_rate=0.05"))
    for task in TASKS:
        memory.learn(task)
    for as_of, rank in ((None, 6), ("bread", 2)):
        session = memory._session(memory.config, None)
        session.load(memory._store, memory._point(as_of))
        session.strategy.select(session.model, None)
        live = logits(session.model)
        assert float((live - dense_logits()).abs().max()) > 0.1
        out = memory.export(tmp_path / f"adapter-{as_of}", as_of=as_of)
        loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(out))
        assert loaded.peft_config["default"].r == (2 if method == "single" else rank)
        torch.testing.assert_close(logits(loaded), live, atol=1e-5, rtol=0)
        merged = memory.export(tmp_path / f"merged-{as_of}", merged=True, as_of=as_of)
        from transformers import AutoModelForCausalLM

        torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(str(merged))), live, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", GROWING[:3])
def test_policy_is_the_base_with_all_products_added(method: str, config: Build) -> None:
    session, store = start(config(f"strategy.name={method}", "train.learning_rate=0.05"))
    store = learn(session, store, *TASKS)
    adapters = [factors(store, t.name) for t in TASKS]
    torch.testing.assert_close(logits(session.model), dense_logits(*map(products, adapters)), atol=1e-5, rtol=0)
    # Earlier adapters are kept as they were, side by side.
    state = store.load_tensors(store.head, STATE)
    for name, value in adapters[0].items():
        dim = 0 if name.endswith(".lora_A") else 1
        assert torch.equal(state[f"past/{name}"], torch.cat([value, adapters[1][name]], dim))


@pytest.mark.parametrize("method", GROWING)
def test_a_task_starts_as_the_policy_that_the_last_one_left(method: str, config: Build) -> None:
    """B = 0 in the new adapter; and the reference `previous_task` is that policy, so that the first loss is ln 2."""
    session, store = start(
        config(f"strategy.name={method}", "strategy.reference=previous_task", "train.learning_rate=0.05")
    )
    store = learn(session, store, TASKS[0])
    ended = session.view.pair_logps(TASKS[1].test)
    first = snapshot(session.model)
    begun = second_start(session, store)
    assert not any(bool(t.any()) for n, t in begun.items() if n.endswith(".lora_B"))
    assert [n for n in begun if n.endswith(".lora_A") and torch.equal(begun[n], first[n])] == []
    torch.testing.assert_close(session.view.pair_logps(TASKS[1].test), ended, atol=2e-4, rtol=0)
    store = learn(session, store, TASKS[1])
    assert training(store, "stars")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # logged without a penalty


def test_every_task_and_every_seed_draws_an_adapter_of_its_own(config: Build, tmp_path: Path) -> None:
    """Without training the stored adapter is the one that a task started from."""
    drawn: list[Tensor] = []
    for seed in (0, 1):
        session, store = start(
            config("strategy.name=olora", "train.epochs=0", f"seed={seed}", f"memory={tmp_path / str(seed)}")
        )
        store = learn(session, store, *TASKS)
        drawn += [torch.cat([a for n, a in factors(store, t.name).items() if n.endswith(".lora_A")]) for t in TASKS]
    assert [(i, j) for i in range(6) for j in range(i) if bool((drawn[i] == drawn[j]).any())] == []


def test_update_holds_what_is_there_before_and_after_in_one_shape(config: Build) -> None:
    session, store = start(config("strategy.name=sdlora"))
    store = learn(session, store, *TASKS[:2])
    first, second = (store.load_tensors(store.find(t.name), UPDATE) for t in TASKS[:2])
    assert {n.rsplit(".", 1)[1] for n in first} == {"lora_A", "lora_B", "magnitudes"}
    assert {n.rsplit(".", 1)[1] for n in second} == {"lora_A", "lora_B"}  # [1] magnitudes became [2]
