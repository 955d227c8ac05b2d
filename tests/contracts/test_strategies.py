"""The contract over every built-in strategy, on a random two-layer model; and one number a strategy computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifealign.consolidation.adapter import consolidate
from lifealign.consolidation.subspace import SubspaceBasis
from lifealign.core.config import LoraConfig, RunConfig, StrategyChoice
from lifealign.data.tasks import Task
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot, trainable
from lifealign.store.layout import ADAPTER, STATE, UPDATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import STRATEGIES, make_strategy
from lifealign.testing import StrategyContract, tiny_config
from lifealign.training.strategy import Step, Strategy
from support.lives import TASKS, assert_same, learn, start

METHODS = sorted(STRATEGIES)
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


class TestStrategies(StrategyContract):
    """The contract, over every built-in strategy."""

    @pytest.fixture(params=METHODS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


@pytest.mark.parametrize("name", ["joint", "replay", "sequential"])
def test_these_strategies_keep_no_state(name: str, config: Build) -> None:
    session, store = start(config(f"strategy.name={name}"))
    store = learn(session, store, *TASKS[:2])
    assert not any(store.load_tensors(m, STATE) for m in store.lineage())


class AlwaysPulls(Strategy):
    """Breaks the contract: a penalty when there is nothing to keep."""

    def penalty(self, model: nn.Module) -> Tensor:
        return torch.ones(())


class Forgetful(Strategy):
    """Breaks the contract: it counts tasks, and a new session starts to count at zero."""

    def end_task(self, model: nn.Module, task: Task, history: Any) -> Mapping[str, Any]:
        self._seen = getattr(self, "_seen", 0) + 1
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.mul_(1 + 0.1 * self._seen)
        return super().end_task(model, task, history)


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (AlwaysPulls, StrategyContract.test_empty_history_adds_no_penalty_and_leaves_gradients),
        (Forgetful, StrategyContract.test_reopened_after_each_task_equals_one_session),
    ],
    ids=["AlwaysPulls", "Forgetful"],
)
def test_the_contract_fails_where_it_is_broken(
    cls: type[Strategy], test: Callable[..., None], tiny_dir: Path, tmp_path: Path
) -> None:
    def build(folder: str = "memory", *settings: str) -> RunConfig:
        return tiny_config(tiny_dir, tmp_path / folder, f"strategy.name={__file__}:{cls.__name__}", *settings)

    with pytest.raises(AssertionError):
        test(StrategyContract(), build)


def test_hooks_of_a_method_are_known_and_a_misspelt_one_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"Mine has public methods that are not hooks: \['end_taks'\]; .* one of the hooks"
    ):

        class Mine(Strategy):
            def end_taks(self, model: nn.Module) -> None: ...

    class Fine(STRATEGIES["lifealign"]):  # type: ignore[name-defined,misc]
        def penalty(self, model: nn.Module) -> Tensor:
            return self._mine(model)

        def _mine(self, model: nn.Module) -> Tensor:
            return torch.zeros(())

    assert {n for n, v in vars(Strategy).items() if callable(v) and n[0] != "_" and n != "Config"} == Strategy.HOOKS
    for cls in STRATEGIES.values():
        assert not set(vars(cls)) & {"__init__"}


def test_looking_at_other_rows_changes_nothing(config: Build, tmp_path: Path) -> None:
    """`Step.losses_on` switches the adapter off and dropout with it, for the reference: both must be on again after it."""
    results = []
    for look in (False, True):
        session, store = start(config(f"memory={tmp_path / str(look)}", "lora.dropout=0.3", "strategy.name=sequential"))
        losses: list[float] = []

        def adjust(step: Step, losses: list[float] = losses) -> None:
            before = {name: p.grad.clone() for name, p in step.parameters.items() if p.grad is not None}
            loss = torch.stack(list(step.losses_on(TASKS[1].train[:2]))).sum()
            assert loss.requires_grad and loss.shape == ()
            losses.append(float(loss.detach()))
            assert_same({name: p.grad for name, p in step.parameters.items() if p.grad is not None}, before)

        if look:
            session.strategy.adjust_gradients = adjust  # type: ignore[method-assign]
        store = learn(session, store, TASKS[0])
        results.append(store.load_tensors(store.head, ADAPTER))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[1] != losses[0]
    assert_same(*results)


# --- one number a method -------------------------------------------------------------------------------------------


def two_tasks(config: Build, *settings: str) -> tuple[Session, MemoryStore, list[dict[str, Tensor]]]:
    """A memory of two tasks with what training alone made of the adapter, before `end_task`."""
    session, store = start(config(*settings))
    trained: list[dict[str, Tensor]] = []
    real = session.strategy.end_task

    def spy(model: nn.Module, task: Task, history: Any) -> Mapping[str, Any]:
        trained.append(snapshot(model))
        return real(model, task, history)

    session.strategy.end_task = spy  # type: ignore[method-assign]
    store = learn(session, store, *TASKS[:2])
    return session, store, trained


def adapters(store: MemoryStore) -> list[dict[str, Tensor]]:
    return [store.load_tensors(m, ADAPTER) for m in store.lineage()]


def test_lifealign_long_term_memory_is_start_plus_refined_update(config: Build) -> None:
    """One matrix by hand through both tasks: LM_t = LM_{t-1} + RSM_t, SM_t = trained - LM_{t-1}."""
    theta, lam = 0.3, 0.25
    _, store, trained = two_tasks(config, f"strategy.theta={theta}", f"strategy.overlap_scale={lam}")
    states = adapters(store)
    name = sorted(n for n in states[0] if n.endswith("lora_B"))[0]
    basis = SubspaceBasis(states[0][name].numel())
    for k in (0, 1):
        sm = trained[k][name].double() - states[k][name].double()
        refined = consolidate(sm, basis, theta, lam).refined
        torch.testing.assert_close(states[k + 1][name], (states[k][name].double() + refined).float(), atol=1e-7, rtol=0)
        assert float((trained[k][name] - states[k + 1][name]).abs().max()) > 1e-5  # it is not what training left
        torch.testing.assert_close(
            store.load_tensors(store.lineage()[k + 1], UPDATE)[name], refined.float(), atol=1e-7, rtol=0
        )
    # The second SM' by hand: truncated SVD, minus three quarters of its part along the first refined update.
    sm = trained[1][name].double() - states[1][name].double()
    u, s, v = torch.linalg.svd(sm, full_matrices=False)
    rank = next(k for k in (1, 2) if float((s[:k] ** 2).sum()) >= theta * float((s**2).sum()))
    denoised = (u[:, :rank] * s[:rank]) @ v[:rank]
    past = (states[1][name] - states[0][name]).double()
    inside = float((denoised * past).sum()) / float((past * past).sum()) * past
    torch.testing.assert_close(
        states[2][name], (states[1][name] + denoised - (1 - lam) * inside).float(), atol=1e-6, rtol=0
    )


def test_lifealign_trains_on_the_focal_loss_by_default(config: Build) -> None:
    """At the first step policy == reference: ln 2 * 0.5^2."""
    _, store, _ = two_tasks(config)
    line = store.load_lines(store.lineage()[1], "training.jsonl")[0]
    assert line["loss"] == pytest.approx(math.log(2) / 4, abs=1e-6) and line["focal_weight"] == 0.25


def test_replay_trains_on_a_share_of_the_past(config: Build) -> None:
    """6 rows a task, share 0.5: 3 rows stay of the first task, and 3 + 3 of both."""
    _, store, trained = two_tasks(config, "strategy.name=replay", "strategy.replay_share=0.5")
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 9]
    assert [store.load_document(m, "data.json")["from_replay"] for m in store.lineage()[1:]] == [0, 3]
    kept = store.load_lines(store.head, "replay.jsonl")
    assert kept[0] == {"seen": 6} and [line["task"] for line in kept[1:]] == ["bread"] * 3 + ["stars"] * 3
    assert_same(adapters(store)[2], trained[1])  # nothing is done to the weights


def test_sequential_learns_each_task_alone_from_where_the_last_ended(config: Build) -> None:
    _, store, trained = two_tasks(config, "strategy.name=sequential", "train.pairs_per_step=6")
    lines = [store.load_lines(m, "training.jsonl") for m in store.lineage()[1:]]
    assert [line["loss"] for line in lines[0]] == [pytest.approx(math.log(2), abs=1e-6)]
    # The second task starts from the first task's weights: -log sigmoid of a margin that is not 0 any more.
    assert abs(lines[1][0]["loss"] - math.log(2)) > 1e-3
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 6]
    assert store.load_lines(store.head, "replay.jsonl") == [{"seen": 0}]
    assert_same(adapters(store)[2], trained[1])
    # Adam's first step is the learning rate in every entry whose gradient is not tiny: B starts at zero.
    b = torch.cat([v.flatten() for k, v in adapters(store)[1].items() if k.endswith("lora_B")])
    assert float(b.abs().max()) == pytest.approx(5e-3, rel=1e-3)


def test_joint_learns_all_tasks_in_one_group_from_the_initial_adapter(config: Build) -> None:
    session, store, _ = two_tasks(config, "strategy.name=joint", "train.pairs_per_step=12")
    assert session.strategy.schedule(TASKS) == [tuple(TASKS)]
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 12]
    losses = [store.load_lines(m, "training.jsonl")[0]["loss"] for m in store.lineage()[1:]]
    assert losses == [pytest.approx(math.log(2), abs=1e-6)] * 2  # the second run starts anew: margin 0 on all rows
    assert len(store.load_lines(store.head, "replay.jsonl")) == 1 + 12


@pytest.mark.parametrize("name", [m for m in METHODS if m != "joint"])
def test_other_methods_learn_one_task_after_another(name: str) -> None:
    assert make_strategy(StrategyChoice(name=name), LoraConfig(), 0).schedule(TASKS) == [(t,) for t in TASKS]
