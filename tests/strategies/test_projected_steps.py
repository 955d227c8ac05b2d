"""GEM, A-GEM, OGPSA: what they do to the steps of a run on a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import LoraConfig, RunConfig
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.session import Session
from lifealign.model.adapters import trainable
from lifealign.store.layout import STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from lifealign.strategies.gem import Gem
from lifealign.strategies.ogpsa import Ogpsa
from support.lives import learn, start
from support.projection import brute_force
from support.rows import make_task

Build = Callable[..., RunConfig]
METHODS = ["agem", "gem", "ogpsa"]
GRADIENT = "strategy.target=gradient"
pytestmark = pytest.mark.usefixtures("one_thread")


def swapped(task: Task, name: str) -> Task:
    """The opposite preference on the same rows: learning it must undo `task`."""
    turned = {
        split: tuple(replace(r, chosen=r.rejected, rejected=r.chosen) for r in getattr(task, split))
        for split in ("train", "validation", "test")
    }
    return replace(task, name=name, **turned)


BREAD = make_task("bread", train=6, test=2)
OPPOSITE = swapped(BREAD, "opposite")
STARS = make_task("stars", train=6, test=2)


def flat(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.concatenate([x.detach().double().numpy().ravel() for x in tensors])


def stored(store: MemoryStore) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for line in store.load_lines(store.head, "replay.jsonl")[1:]:
        rows.setdefault(line["task"], []).append(Row.from_json(line))
    return rows


class Spy:
    """Per optimizer step: the gradient before and after, what the optimizer did, and memory gradients taken anew."""

    def __init__(self, session: Session, rows: dict[str, list[Row]]) -> None:
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        self.memory: list[np.ndarray] = []
        self.descent: list[np.ndarray] = []
        strategy = session.strategy
        gradients, update = strategy.adjust_gradients, strategy.adjust_update

        def adjust_gradients(step: Step) -> None:
            # All rows in one loss, not a few at a time.
            losses = [session.view.loss_on(own) for own in rows.values()]
            found = [flat(torch.autograd.grad(loss, list(step.parameters.values()))) for loss in losses]
            self.memory.append(np.stack(found))
            self.before.append(flat([p.grad for p in step.parameters.values() if p.grad is not None]))
            gradients(step)
            self.after.append(flat([p.grad for p in step.parameters.values() if p.grad is not None]))

        def adjust_update(step: Step) -> None:
            update(step)
            self.descent.append(flat([step.before[k] - p for k, p in step.parameters.items()]))

        strategy.adjust_gradients = adjust_gradients  # type: ignore[method-assign]
        strategy.adjust_update = adjust_update  # type: ignore[method-assign]


def watched(config: Build, *settings: str) -> tuple[Spy, Session]:
    """Two tasks, and the third under watch; the second turns the first around."""
    session, store = start(config(*settings, "train.pairs_per_step=2"))
    store = learn(session, store, BREAD, STARS)
    spy = Spy(session, stored(store))
    learn(session, store, OPPOSITE)
    assert len(spy.before) == 3 and all(len(m) == 2 for m in spy.memory)
    return spy, session


def test_gem_projects_each_gradient_by_the_memory_at_the_weights_of_that_step(config: Build) -> None:
    spy, _ = watched(config, "strategy.name=gem", "strategy.margin=0.25", "strategy.eps=1e-2", GRADIENT)
    violated = 0
    for before, after, memory in zip(spy.before, spy.after, spy.memory, strict=True):
        if (memory @ before < 0).any():
            violated += 1
            before = brute_force(before, memory, 0.25, 1e-2)
        np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    assert violated  # or nothing was tested
    assert np.abs(spy.memory[0] - spy.memory[-1]).max() > 1e-3  # the memory gradients are not those of the task's start


def test_agem_takes_out_what_would_undo_the_sampled_rows(config: Build) -> None:
    """12 rows are stored; all are drawn, and their mean gradient is the mean of the two tasks' (6 rows each)."""
    spy, _ = watched(config, "strategy.name=agem", "strategy.sample_pairs=12", GRADIENT)
    violated = 0
    for before, after, memory in zip(spy.before, spy.after, spy.memory, strict=True):
        mean = memory.mean(0)
        if mean @ before < 0:
            violated += 1
            before = before - (mean @ before) / (mean @ mean) * mean
        np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    assert violated


def test_agem_draws_other_rows_at_each_step_and_the_same_ones_again(config: Build) -> None:
    session, store = start(config("strategy.name=agem", "strategy.sample_pairs=3"))
    learn(session, store, BREAD, STARS)
    strategy = session.strategy
    strategy._memory = stored(MemoryStore.open(store.path))  # type: ignore[attr-defined]
    parameters = trainable(session.model)

    def drawn(index: int, stage: str = "preference") -> list[Row]:
        step = Step(session.model, parameters, session.view.losses_on, index, stage)
        (rows,) = strategy._sets(step).values()  # type: ignore[attr-defined]
        return list(rows)

    draws = [drawn(i) for i in range(40)]
    assert draws == [drawn(i) for i in range(40)] and all(len({r.digest for r in d}) == 3 for d in draws)
    assert drawn(0, "sft") != drawn(0) or drawn(1, "sft") != drawn(1)
    assert {r.digest for d in draws for r in d} == {r.digest for own in stored(store).values() for r in own}


def blocks(session: Session, vector: np.ndarray) -> list[np.ndarray]:
    return np.split(vector, np.cumsum([p.numel() for p in trainable(session.model).values()])[:-1], axis=-1)


def along(session: Session, vector: np.ndarray, memory: np.ndarray) -> float:
    """Largest |cosine| of a tensor's part of the vector with that tensor's part of a memory gradient."""
    worst = 0.0
    for part, references in zip(blocks(session, vector), blocks(session, memory), strict=True):
        for reference in references:
            worst = max(worst, abs(part @ reference) / (np.linalg.norm(part) * np.linalg.norm(reference)))
    return worst


def test_ogpsa_makes_each_tensor_orthogonal_and_refreshes_when_it_says(config: Build) -> None:
    spy, session = watched(config, "strategy.name=ogpsa", "strategy.refresh=2", GRADIENT)
    assert all(along(session, g, m) > 0.05 for g, m in zip(spy.before, spy.memory, strict=True))
    assert along(session, spy.after[0], spy.memory[0]) < 1e-4
    assert along(session, spy.after[1], spy.memory[0]) < 1e-4 < along(session, spy.after[1], spy.memory[1])
    assert along(session, spy.after[2], spy.memory[2]) < 1e-4
    # Adam's scaling by entry brings back what was taken out of the gradient ...
    assert min(along(session, d, m) for d, m in zip(spy.descent, spy.memory, strict=True)) > 0.02


def test_ogpsa_on_the_update_leaves_the_gradient_and_turns_the_step(config: Build) -> None:
    """... which the other target does not let happen."""
    spy, session = watched(config, "strategy.name=ogpsa", "strategy.refresh=1")
    for before, after, descent, memory in zip(spy.before, spy.after, spy.descent, spy.memory, strict=True):
        np.testing.assert_array_equal(before, after)
        assert along(session, descent, memory) < 2e-3 and np.abs(descent).max() > 1e-4


def test_ogpsa_measures_at_each_of_the_first_steps_and_then_at_every_fifth() -> None:
    """The first six steps of a task are all that many have; `refresh` alone decides where it is set."""

    def due(**options: int) -> list[int]:
        ogpsa = Ogpsa(Ogpsa.Config(**options), LoraConfig(), 0)
        return [i for i in range(31) if ogpsa._due(Step(nn.Module(), {}, lambda rows: iter(()), i))]

    assert due() == [*range(10), 10, 15, 20, 25, 30]
    assert due(refresh=5) == [0, 5, 10, 15, 20, 25, 30]


def test_gem_on_the_update_by_hand() -> None:
    """Adam stepped from (5, 5) to (7, 4): the descent (-2, 1), at the gradient's norm 1 it is (-2, 1) / sqrt 5.

    One memory gradient (1, 0), product -2 / sqrt 5: v = max(0.5, 2 / sqrt 5 / 1.001) takes it to about (0, 1) / sqrt 5. Back at the
    step's length that is (0, 1): the weights end at (5 - 0.002, 4).
    """
    gem = Gem(Gem.Config(margin=0.5, eps=1e-3), LoraConfig(), 0)
    gem._memory, gem._norm = {"bread": list(BREAD.train)}, 1.0
    gem._references_KN = torch.tensor([[1.0, 0.0]])
    weight = nn.Parameter(torch.tensor([7.0, 4.0]))
    gem.adjust_update(
        Step(nn.Module(), {"x": weight}, lambda rows: iter(()), 0, before={"x": torch.tensor([5.0, 5.0])})
    )
    assert weight.tolist() == pytest.approx([5 + 2 * (1 - 1 / 1.001), 4.0], abs=1e-5)


def test_gem_and_agem_on_the_update_do_not_go_against_the_memory(config: Build) -> None:
    for name, settings in (("gem", ["strategy.margin=0", "strategy.eps=1e-9"]), ("agem", [])):
        spy, _ = watched(config, f"strategy.name={name}", *settings, f"memory={config().memory}-{name}")
        for before, after, descent, memory in zip(spy.before, spy.after, spy.descent, spy.memory, strict=True):
            np.testing.assert_array_equal(before, after)
            products = (memory if name == "gem" else memory.mean(0)[None]) @ descent
            size = np.linalg.norm(memory, axis=1).max() * np.linalg.norm(descent)
            assert (products >= -1e-4 * size).all()


@pytest.fixture(scope="module")
def lost() -> dict[str, float]:
    return {}


@pytest.mark.parametrize("name", METHODS)
def test_the_first_task_is_kept_where_sequential_tuning_turns_it_around(
    name: str, config: Build, lost: dict[str, float]
) -> None:
    """How much the loss on the first task's rows rises while the opposite is learnt; ln 2 is where nothing is left."""

    def rise(*settings: str) -> float:
        session, store = start(config(*settings, f"memory={config().memory}-{settings[0]}", "train.epochs=3"))
        losses = []
        for task in (BREAD, OPPOSITE):
            store = learn(session, store, task)
            losses.append(float(session.view.loss_on(BREAD.train).detach()))
        return losses[1] - losses[0]

    if not lost:
        lost["sequential"] = rise("strategy.name=sequential")
    kept = rise(f"strategy.name={name}")
    assert lost["sequential"] > 0.05 and kept < 0.3 * lost["sequential"], (kept, lost)


def test_memory_is_a_seeded_sample_of_each_task_for_good(config: Build) -> None:
    session, store = start(config("strategy.name=gem", "strategy.memory_pairs=4"))
    store = learn(session, store, BREAD, STARS)
    rows = stored(store)
    assert {name: len(own) for name, own in rows.items()} == {"bread": 4, "stars": 4}
    assert {r.digest for r in rows["bread"]} < {r.digest for r in BREAD.train}
    assert rows["bread"] != list(BREAD.train[:4])
    assert store.load_tensors(store.head, STATE) == {}


@pytest.mark.parametrize("name", METHODS)
def test_stored_rows_that_cannot_be_encoded_are_left_out(name: str, config: Build) -> None:
    """One of 9 rows is too long: taken 8 at a time, it would be a part without a loss of its own."""
    long = Row((Message("user", "bread " * 900),), "yes it is", "no", "bread.jsonl:99")
    bread = make_task("bread", train=8, test=2)
    bread = replace(bread, train=(*bread.train, long))
    session, store = start(config(f"strategy.name={name}", "data.long_prompts=drop"))
    store = learn(session, store, bread)
    assert len(stored(store)["bread"]) == 9
    store = learn(session, store, STARS)
    assert store.head.name == "stars"


def test_memory_gradients_in_the_supervised_stage_are_those_of_the_likelihood(config: Build) -> None:
    session, store = start(config("strategy.name=gem", "sft.epochs=1"))
    store = learn(session, store, BREAD)
    seen: list[tuple[str, float]] = []
    real = session.strategy.adjust_gradients

    def adjust(step: Step) -> None:
        seen.append((step.stage, float(torch.stack(list(step.losses_on(BREAD.train))).sum().detach())))
        real(step)

    session.strategy.adjust_gradients = adjust  # type: ignore[method-assign]
    learn(session, store, STARS)
    assert {stage for stage, _ in seen} == {"sft", "preference"}
    # Per token of 300 ids against per pair: nats a token of a random model, and something below ln 2.
    assert all((value > 1) == (stage == "sft") for stage, value in seen)
