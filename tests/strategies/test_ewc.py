"""EWC: the Fisher information and the quadratic penalty, by hand and in a run on a tiny model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import LoraConfig
from lifealign.data.tasks import Task
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import adapter_off, restore, snapshot, trainable
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.layout import STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from lifealign.strategies._quadratic import weighted_distance
from lifealign.strategies.ewc import EWC, accumulate, mean_of, mean_squares
from support.golden import golden_numbers
from support.lives import TASKS, assert_same, learn, start
from support.regularisation import Build, at, learnt, lines, too_long, watched

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def golden() -> dict[str, Any]:
    values: dict[str, Any] = golden_numbers("strategies")
    return values


def test_online_ewc_golden(golden: dict[str, Any]) -> None:
    g = golden["online_ewc"]
    fisher = accumulate({"x": torch.tensor([g["fisher_old"]])}, {"x": torch.tensor([g["fisher_new"]])}, g["decay"])
    assert float(fisher["x"]) == pytest.approx(g["fisher"], abs=1e-6)
    distance = weighted_distance(
        {"x": nn.Parameter(torch.tensor([g["delta"] - 3]))}, {"x": torch.tensor([-3.0])}, fisher
    )
    assert g["lambda"] / 2 * float(distance.detach()) == pytest.approx(g["penalty"], abs=1e-6)


def test_fisher_is_the_mean_of_squares_of_single_gradients() -> None:
    """Gradients (1, 0) and (-1, 2): squares (1, 0) and (1, 4), mean (1, 2); the square of their mean would be (0, 1)."""
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    losses = ((torch.tensor(x) * p).sum() for x in ([1.0, 0.0], [-1.0, 2.0]))
    found = mean_squares(losses, {"p": p})
    assert found["p"].tolist() == [1, 2] and mean_of(found) == 1.5 and p.grad is None


def fisher_by_hand(session: Session, task: Task) -> dict[str, Tensor]:
    """-log sigmoid(0.1 h) of each pair by itself, with plain rows and a reference of its own."""
    parameters = trainable(session.model)
    pairs, _ = session.encoder.encode(task.train)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(len(pairs)):
        pack = pack_pairs(pairs, [i], False)
        with torch.no_grad(), adapter_off(session.model):
            reference = token_logps(session.model, pack).sums()
        h = (token_logps(session.model, pack).sums() - reference) @ torch.tensor([1.0, -1.0])
        gradients = torch.autograd.grad(torch.log1p(torch.exp(-0.1 * h)), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient**2
    mean = torch.cat([t.flatten() for t in total.values()]).mean()
    return {name: t / mean for name, t in total.items()}


def test_ewc_keeps_a_running_fisher_of_mean_one_a_task(config: Build) -> None:
    session, store = learnt(config, "strategy.name=ewc", "strategy.penalty_weight=1")
    first = at(store, 1, STATE)
    session.load(store, store.lineage()[1])
    for name, expected in fisher_by_hand(session, TASKS[0]).items():
        torch.testing.assert_close(first[name], expected, atol=1e-5, rtol=1e-3)
    session.load(store, store.head)
    for name, fresh in fisher_by_hand(session, TASKS[1]).items():
        torch.testing.assert_close(at(store, 2, STATE)[name], 0.95 * first[name] + fresh, atol=1e-5, rtol=1e-3)
    told = store.load_document(store.head, "diagnostics.json")["fisher"]
    assert told["pairs"] == 6 and told["mean"] == pytest.approx(1.95, rel=1e-5)
    assert told["mean_square"] > 0 and told["largest"] > 1.95


def test_ewc_estimates_on_a_seeded_part_of_the_rows_that_can_be_used(config: Build) -> None:
    task = replace(TASKS[0], train=(too_long("bread"), *TASKS[0].train))
    settings = ("strategy.name=ewc", "data.long_prompts=drop")
    session, store = start(config(*settings))
    store = learn(session, store, task)
    assert store.load_document(store.head, "diagnostics.json")["fisher"]["pairs"] == 6
    whole = session.strategy.state_dict()
    session.strategy.config = session.strategy.config.model_copy(update={"fisher_pairs": 2})
    for _ in range(2):
        session.load(store, store.lineage()[0])
        restore(session.model, at(store, 1))
        told = session.strategy.end_task(session.model, task, StoreHistory(store))
        assert told["fisher"]["pairs"] == 2
        part = session.strategy.state_dict()
        assert any(not torch.equal(part[n], whole[n]) for n in whole)
        assert_same(part, session.strategy.state_dict())


@pytest.mark.parametrize("stage", ["sft", "preference"])
def test_ewc_pulls_back_in_both_stages(stage: str, config: Build) -> None:
    """The logged penalty of the second step is 50 sum F d^2 of the first step's d, and its gradient is in the step."""
    settings = ("sft.epochs=1", "sft.learning_rate=5e-3", "train.pairs_per_step=3", "strategy.name=ewc")
    session, store = start(config(*settings, "strategy.penalty_weight=100"))
    store = learn(session, store, TASKS[0])
    expected: list[float] = []

    def note(step: Step) -> None:
        if step.stage == stage:
            d = torch.cat([(p.detach() - at(store, 1)[n]).flatten().double() for n, p in step.parameters.items()])
            fisher = torch.cat([at(store, 1, STATE)[n].flatten().double() for n in step.parameters])
            expected.append(float(50 * (fisher * d**2).sum()))

    watched(session, note)
    after = learn(session, store, TASKS[1])
    logged = [line["penalty"] for line in lines(after, 2) if line["stage"] == stage]
    assert len(logged) == 2 and logged[1] == pytest.approx(expected[0], rel=1e-4) and logged[1] > 1e-3
    assert all("penalty" not in line for line in lines(after, 1))


def test_strength_is_for_a_fisher_of_sum_one() -> None:
    """F of mean 1 = (.5, 1.5) over two weights, (.25, .75) in sum one. Strength 8, moves 1 and 2: 8/2 (.25 + .75 * 4) = 13."""
    held = EWC(EWC.Config(strength=8), LoraConfig(), 0)
    held._fisher, held._anchor = {"x": torch.tensor([0.5, 1.5])}, {"x": torch.tensor([5.0, 7.0])}
    model = nn.ParameterDict({"x": nn.Parameter(torch.tensor([6.0, 9.0]))})
    assert float(held.penalty(model).detach()) == pytest.approx(13.0, abs=1e-6)
    held.config = EWC.Config(penalty_weight=4)  # 8 for two weights
    assert float(held.penalty(model).detach()) == pytest.approx(13.0, abs=1e-6)


def test_strength_does_not_depend_on_the_number_of_weights() -> None:
    """The same move of as many more weights, each with the same F, costs the same; by `penalty_weight` it costs more."""

    def cost(count: int, **options: float) -> float:
        held = EWC(EWC.Config(**options), LoraConfig(), 0)
        held._fisher, held._anchor = {"x": torch.ones(count)}, {"x": torch.zeros(count)}
        return float(held.penalty(nn.ParameterDict({"x": nn.Parameter(torch.full((count,), 0.5))})).detach())

    assert [cost(n, strength=8.0) for n in (4, 400)] == pytest.approx([1.0, 1.0])
    assert [cost(n, penalty_weight=8.0) for n in (4, 400)] == pytest.approx([4.0, 400.0])


def test_one_of_two_strengths_is_set_and_an_older_configuration_reads_the_same() -> None:
    assert EWC.Config().strength == EWC.Config.default_strength and EWC.Config().penalty_weight is None
    older = EWC.Config(penalty_weight=100.0)  # a memory made before `strength` has this one, and not the other
    assert older.strength is None and "strength" not in older.model_dump()
    assert EWC.Config.model_validate(older.model_dump()) == older == EWC.Config(penalty_weight=100.0, strength=None)
    assert EWC.Config.model_validate(EWC.Config().model_dump()) == EWC.Config()
    with pytest.raises(ValueError, match="give only strength, which is penalty_weight times the number of trained"):
        EWC.Config(strength=1, penalty_weight=1)


def test_a_stiff_penalty_does_not_scale_the_losses_gradient_away(config: Build) -> None:
    """Clipped is the loss's gradient, by itself: what is left of a step's gradient without the penalty's has its norm."""
    session, store = start(config("strategy.name=ewc", "strategy.penalty_weight=1e4", "train.max_grad_norm=0.01"))
    store = learn(session, store, TASKS[0])
    fisher, anchor = session.strategy.state_dict(), snapshot(session.model)
    norms: list[tuple[float, float]] = []

    def note(step: Step) -> None:
        pulls = {n: 1e4 * fisher[n] * (step.before[n] - anchor[n]) for n in step.parameters}
        rest = [p.grad - pulls[n] for n, p in step.parameters.items() if p.grad is not None]
        norms.append((norm_of(pulls.values()), norm_of(rest)))

    watched(session, note)
    learn(session, store, TASKS[1])
    assert norms[0][0] == 0 and len(norms) > 1 and all(pull > 1 for pull, _ in norms[1:])
    assert [rest for _, rest in norms] == pytest.approx([0.01] * len(norms), rel=1e-2)


def norm_of(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([t.double().flatten() for t in tensors]).norm())


def test_ewc_with_lam_nought_is_sequential_and_a_large_one_stays(config: Build, tmp_path: Any) -> None:
    def run(name: str, *settings: str) -> MemoryStore:
        return learnt(config, f"memory={tmp_path / name}", "train.epochs=3", "train.pairs_per_step=2", *settings)[1]

    free = run("free", "strategy.name=ewc", "strategy.penalty_weight=0")
    plain = run("plain", "strategy.name=sequential")
    held = run("held", "strategy.name=ewc", "strategy.penalty_weight=1000")
    assert_same(at(free, 2), at(plain, 2))

    def distance(store: MemoryStore) -> float:
        """sum F d^2 between the two tasks' ends."""
        return sum(
            float((at(store, 1, STATE)[n] * (at(store, 2)[n] - at(store, 1)[n]) ** 2).sum()) for n in at(store, 1)
        )

    assert_same(at(held, 1), at(plain, 1))
    assert distance(held) < 0.3 * distance(free)
