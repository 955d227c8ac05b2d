"""Merging: the formulas by hand and by the golden numbers, and what they make of training on a random two-layer model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lifealign.consolidation import merging
from lifealign.consolidation.lowrank import Product, difference, inner
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Task
from lifealign.memory.api import Memory
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies.configure import read_config
from support.golden import golden_numbers
from support.lives import learn, start
from support.rows import make_task

TASKS = [make_task(name, train=6, test=2) for name in ("bread", "stars", "music")]
METHODS = ("task_arithmetic", "ties", "dare", "slerp", "magmax")
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_golden_numbers() -> None:
    golden = golden_numbers("strategies")
    taus = vectors(*golden["ties_keep_half"]["task_vectors"])
    assert merging.ties(taus, 0.5).tolist() == golden["ties_keep_half"]["result"]
    taus = vectors(*golden["magmax"]["task_vectors"])
    assert merging.magmax(taus).tolist() == golden["magmax"]["result"]
    g = golden["slerp"]
    mixed = merging.slerp(torch.tensor(g["a"]).double(), torch.tensor(g["b"]).double(), g["t"])
    assert mixed.tolist() == pytest.approx(g["result"], abs=1e-8)


def test_task_arithmetic_is_the_scaled_sum() -> None:
    assert merging.task_arithmetic(vectors([1, -2], [3, 6]), 0.5).tolist() == [2, 2]


def test_ties_elects_the_majority_where_the_sum_is_zero() -> None:
    """Sums (0, -4, -3): two of the three signs are -, so the first entry takes its negative values: -2 of one task."""
    assert merging.ties(vectors([2, -3, -1], [-2, -1, -2]), 1.0).tolist() == [-2, -2, -1.5]
    assert merging.ties(vectors([2, 3], [-2, 1]), 1.0, scale=3.0).tolist() == [6, 6]  # and here +: 2, (3 + 1) / 2
    assert merging.ties(vectors([1, -1], [-1, 1]), 1.0).tolist() == [1, 1]  # no majority: +


def test_ties_keeps_at_least_one_entry_and_all_of_equal_size() -> None:
    assert merging.ties(vectors([1, 5, 2, 3]), 0.01).tolist() == [0, 5, 0, 0]
    assert merging.ties(vectors([5, -5, 2, 5]), 0.25).tolist() == [5, -5, 0, 5]
    assert merging.ties(vectors([1, -5, 2, 3], [0, 0, 0, 0]), 0.5).tolist() == [0, -5, 0, 3]  # zeros have no vote
    assert merging.ties(torch.ones(2, 3, 4), 0.5).shape == (3, 4)


def test_dare_drops_at_random_and_keeps_the_mean() -> None:
    """Kept entries are 10 times as large; of 40000 a tenth stays (three standard deviations: 180)."""
    tau = torch.full((200, 200), 2.0, dtype=torch.float64)
    sparse = merging.dare(tau, 0.9, torch.Generator().manual_seed(1))
    assert sorted({round(v, 9) for v in sparse.unique().tolist()}) == [0, 20]
    assert abs(int((sparse != 0).sum()) - 4000) < 180
    assert torch.equal(sparse, merging.dare(tau, 0.9, torch.Generator().manual_seed(1)))
    assert not torch.equal(sparse, merging.dare(tau, 0.9, torch.Generator().manual_seed(2)))
    assert torch.equal(merging.dare(tau, 0.0, torch.Generator().manual_seed(1)), tau)


def test_slerp_goes_along_the_arc() -> None:
    """From 0 to 60 degrees on the unit circle, a third of the way: 20 degrees."""

    def at(degrees: float) -> Tensor:
        return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)

    assert merging.slerp(at(0), at(60), 1 / 3).tolist() == pytest.approx(at(20).tolist(), abs=1e-12)
    a, b = at(0), 3 * at(1)  # cos 1 degree = 0.99985: a straight line
    assert merging.slerp(a, b, 0.25).tolist() == pytest.approx((0.75 * a + 0.25 * b).tolist(), abs=1e-12)
    a, b = at(0), 3 * at(2)  # cos 2 degrees = 0.99939: an arc, longer than the chord would be
    assert merging.slerp(a, b, 0.5).tolist() != pytest.approx((0.5 * a + 0.5 * b).tolist(), abs=1e-5)
    assert merging.slerp(torch.zeros(2), at(90), 0.5).tolist() == pytest.approx([0, 0.5], abs=1e-12)
    assert merging.slerp(at(0), -at(0), 0.5).tolist() == [0, 0]


def test_running_slerp_takes_the_tasks_as_they_came() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    half = math.sqrt(0.5)
    assert merging.running_slerp([x, y, z], 0.5).tolist() == pytest.approx([half * half, half * half, half])
    assert torch.equal(merging.running_slerp([x], 0.5), x)


def test_difference_and_inner_are_those_of_the_matrices() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (Product(torch.randn(5, 2, generator=g).double(), torch.randn(2, 4, generator=g).double()) for _ in "xy")
    gap = difference(x, y)
    torch.testing.assert_close(gap.b_OK @ gap.a_KI, y.b_OK @ y.a_KI - x.b_OK @ x.a_KI, atol=1e-12, rtol=0)
    assert inner(x, y) == pytest.approx(float(((x.b_OK @ x.a_KI) * (y.b_OK @ y.a_KI)).sum()), abs=1e-12)
    gap = difference(x, x)
    assert not (gap.b_OK @ gap.a_KI).any()


# --- in training ------------------------------------------------------------------------------------------------------


def observed(config: RunConfig) -> tuple[MemoryStore, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """A memory of three tasks, the weights each began with, and what training made of them before `end_task`."""
    session, store = start(config)
    begun: list[dict[str, Tensor]] = []
    trained: list[dict[str, Tensor]] = []
    begin, end = session.strategy.begin_task, session.strategy.end_task

    def spy_begin(model: nn.Module, task: Task, history: Any) -> None:
        begin(model, task, history)
        begun.append(snapshot(model))

    def spy_end(model: nn.Module, task: Task, history: Any) -> Mapping[str, Any]:
        trained.append(snapshot(model))
        return end(model, task, history)

    session.strategy.begin_task = spy_begin  # type: ignore[method-assign]
    session.strategy.end_task = spy_end  # type: ignore[method-assign]
    return learn(session, store, *TASKS), begun, trained


def delta(adapter: Mapping[str, Tensor], module: str) -> Tensor:
    """(alpha/r) B A with alpha 4 and r 2."""
    return 2.0 * adapter[f"{module}.lora_B"].double() @ adapter[f"{module}.lora_A"].double()


def by_hand(method: str, taus: list[Tensor]) -> Tensor | None:
    """The merge of three task vectors, written out."""
    one, two, three = taus
    if method == "task_arithmetic":
        return (one + two + three) / 3
    if method == "magmax":
        largest = torch.stack(taus).abs().argmax(0)
        return 0.5 * torch.stack(taus).gather(0, largest[None])[0]
    if method == "slerp":

        def half_way(a: Tensor, b: Tensor) -> Tensor:  # sin(w/2) / sin(w) = 1 / (2 cos(w/2))
            cosine = float((a * b).sum() / (a.norm() * b.norm()))
            return (a + b) / (2 * math.sqrt((1 + cosine) / 2))

        return half_way(half_way(one, two), three)
    return None


@pytest.mark.parametrize("method", METHODS)
def test_long_term_weights_are_the_merged_updates_cut_to_the_rank(method: str, config: Build) -> None:
    store, begun, trained = observed(config("strategy.name=merge", f"strategy.method={method}", "train.epochs=3"))
    long_term = [store.load_tensors(m, ADAPTER) for m in store.lineage()]
    initial = long_term[0]
    for k in range(3):  # where each task began
        expected = trained[k - 1] if method == "magmax" and k else initial
        assert all(torch.equal(begun[k][name], expected[name]) for name in initial)
    report = store.load_document(store.head, "diagnostics.json")
    errors, norms = [], []
    for module in sorted({name.rpartition(".")[0] for name in initial}):
        taus = [delta(t, module) for t in trained]
        merged = by_hand(method, taus)
        if method == "ties":
            merged = merging.ties(torch.stack(taus), 0.2, 1.0)
            assert 0 < int((merged != 0).sum()) <= 3 * round(0.2 * merged.numel())
        if merged is not None:
            u, s, v = torch.linalg.svd(merged, full_matrices=False)
            cut = (u[:, :2] * s[:2]) @ v[:2]
            torch.testing.assert_close(delta(long_term[3], module), cut, atol=1e-6, rtol=1e-4)
            lost = float((merged - cut).norm())
            numbers = report["matrices"][module]
            assert numbers["truncation_error"] == pytest.approx(lost / float(merged.norm()), rel=1e-6)
            errors.append(lost**2)
            norms.append(float((merged**2).sum()))
        a, b = (long_term[3][f"{module}.lora_{x}"] for x in "AB")
        torch.testing.assert_close(a @ a.T, b.T @ b, atol=1e-5, rtol=1e-3)  # balanced
    if norms:
        assert report["summed"]["truncation_error"] == pytest.approx(math.sqrt(sum(errors) / sum(norms)), rel=1e-6)
    assert 0 < report["summed"]["truncation_error"] < 1 and report["summed"]["matrices"] == 4


def test_one_task_alone_is_its_own_merge(config: Build) -> None:
    session, store = start(config("strategy.name=merge"))
    learnt: list[dict[str, Tensor]] = []
    end = session.strategy.end_task
    session.strategy.end_task = lambda m, t, h: learnt.append(snapshot(m)) or end(m, t, h)  # type: ignore[method-assign,func-returns-value]
    store = learn(session, store, TASKS[0])
    after = store.load_tensors(store.head, ADAPTER)
    for module in {name.rpartition(".")[0] for name in after}:
        torch.testing.assert_close(delta(after, module), delta(learnt[0], module), atol=1e-7, rtol=1e-5)
    assert store.load_document(store.head, "diagnostics.json")["summed"]["truncation_error"] < 1e-6


def test_state_holds_every_tasks_factors_and_dare_drops_the_same_again(config: Build) -> None:
    """After the first task and in a merge of two, task 1 loses the same entries: its draws are its own."""
    settings = config("strategy.name=merge", "strategy.method=dare", "strategy.drop=0.5")
    store, _, trained = observed(settings)
    state = store.load_tensors(store.head, STATE)
    assert len(state) == 3 * 8
    for i, task in enumerate(trained):
        assert all(torch.equal(state[f"{i:05d}.{name}"], tensor) for name, tensor in task.items())
    fresh = Session(settings, NullProgress())
    fresh.load(store, store.head)
    module = sorted(trained[0])[0].rpartition(".")[0]
    draw = fresh.strategy._generator  # type: ignore[attr-defined]
    taus = [delta(t, module) for t in trained]
    masked = [merging.dare(tau, 0.5, draw(f"dare/{i}", module)) for i, tau in enumerate(taus)]
    torch.testing.assert_close(fresh.strategy._combine(module, torch.stack(taus)), sum(masked) / 3, atol=1e-9, rtol=0)  # type: ignore[attr-defined]
    zeros = [(m == 0).double().mean().item() for m in masked]
    assert all(abs(z - 0.5) < 0.06 for z in zeros)  # 512 or 1024 entries
    assert not torch.equal(masked[0] == 0, masked[1] == 0)


def test_magmax_goes_on_from_the_store(config: Build) -> None:
    """A new process for each task gives the same as one session: the unmerged weights come from the state."""
    settings = ("strategy.name=merge", "strategy.method=magmax", "lora.dropout=0.1")
    session, whole = start(config(*settings))
    whole = learn(session, whole, *TASKS)
    parts = config(*settings, f"memory={whole.path.parent / 'parts'}")
    start(parts)
    for task in TASKS:
        learn(Session(parts, NullProgress()), MemoryStore.open(parts.memory), task)
    store = MemoryStore.open(parts.memory)
    for stem in (ADAPTER, STATE):
        one, other = store.load_tensors(store.head, stem), whole.load_tensors(whole.head, stem)
        assert set(one) == set(other) and all(torch.equal(one[k], other[k]) for k in one)


def test_evaluates_and_exports_from_the_store(config: Build, tiny_dir: Any, tmp_path: Any) -> None:
    memory = Memory.create(tmp_path / "m", config("strategy.name=merge", "strategy.method=ties", "train.epochs=2"))
    for task in TASKS:
        memory.learn(task)
    memory = Memory.open(tmp_path / "m")
    assert list(memory.evaluate(split="validation").tasks) == ["bread", "stars", "music"]
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        live = session.model.eval()(input_ids=ids).logits
        memory.export(tmp_path / "adapter")
        base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
        stock = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(input_ids=ids).logits
    torch.testing.assert_close(stock, live, atol=1e-5, rtol=0)


# --- options ----------------------------------------------------------------------------------------------------------


def test_defaults_are_filled_in_by_method() -> None:
    filled = {}
    for method in METHODS:
        options = read_config(None, ["strategy.name=merge", f"strategy.method={method}"]).strategy.model_extra or {}
        filled[method] = {k: options[k] for k in ("scale", "keep", "drop", "interpolation") if options[k] is not None}
    assert filled == {
        "task_arithmetic": {},
        "ties": {"scale": 1.0, "keep": 0.2},
        "dare": {"drop": 0.9},
        "slerp": {"interpolation": 0.5},
        "magmax": {"scale": 0.5},
    }


@pytest.mark.parametrize(
    ("method", "option", "message"),
    [
        ("dare", "keep=0.5", "keep is read by method ties only, got keep 0.5 with method dare"),
        ("task_arithmetic", "drop=0.5", "drop is read by method dare only"),
        ("ties", "interpolation=0.5", "interpolation is read by method slerp only"),
        ("slerp", "scale=1", "scale is read by method task_arithmetic, ties, dare, magmax only"),
        ("ties", "keep=0", "strategy.keep: must be greater than 0"),
        ("dare", "drop=1", "strategy.drop: must be less than 1"),
    ],
)
def test_options_of_another_method_are_refused(method: str, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(None, ["strategy.name=merge", f"strategy.method={method}", f"strategy.{option}"])
