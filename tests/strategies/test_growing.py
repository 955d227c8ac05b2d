"""Methods that begin an adapter anew for each task: olora, nlora, inflora, sdlora, and single.

Oracles are dense: weights W + (alpha/r) sum_i c_i B_i A_i that are added up here from what the store holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.progress import NullProgress
from lifealign.memory.api import Memory
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import causal_lm, snapshot
from lifealign.store.layout import ADAPTER, STATE, UPDATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from lifealign.strategies._dualgpm import Basis, nothing, protect, reading
from lifealign.strategies.nlora import product_norm
from lifealign.strategies.olora import overlap
from lifealign.strategies.sdlora import direction
from support.golden import golden_numbers
from support.lives import learn, start
from support.rows import make_task
from support.tiny import make_model

METHODS = ("olora", "nlora", "inflora", "sdlora", "single")
GROWING = METHODS[:4]
TASKS = [make_task(name, train=6, test=3) for name in ("bread", "stars", "music")]
IDS = torch.arange(3, 43)[None]
SCALE = 4 / 2  # alpha / r of the `config` fixture
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


def factors(store: MemoryStore, task: str) -> dict[str, Tensor]:
    """Stored A and B of a task's own adapter, wherever the method keeps them."""
    manifest = store.find(task)
    state = store.load_tensors(manifest, STATE)
    kept = {k.removeprefix("reading/"): v for k, v in state.items() if k.startswith("reading/")}
    return {**kept, **{k: v for k, v in store.load_tensors(manifest, ADAPTER).items() if ".lora_" in k}}


def modules(adapter: Mapping[str, Tensor]) -> list[str]:
    return sorted(n.removesuffix(".lora_A") for n in adapter if n.endswith(".lora_A"))


def dense_logits(*deltas: Mapping[str, Tensor]) -> Tensor:
    """Logits of the tiny base model with these matrices [O, I] by module added to its weights."""
    model = make_model()
    weights = dict(model.named_modules())
    for delta in deltas:
        for name, value in delta.items():
            weights[name].weight.data += value
    return logits(model)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def products(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {m: SCALE * adapter[f"{m}.lora_B"] @ adapter[f"{m}.lora_A"] for m in modules(adapter)}


def training(store: MemoryStore, task: str) -> list[dict[str, Any]]:
    return store.load_lines(store.find(task), "training.jsonl")


def second_start(session: Session, store: MemoryStore) -> dict[str, Tensor]:
    """What the second task starts from."""
    session.load(store, store.head)
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    return snapshot(session.model)


# --- all of them ----------------------------------------------------------------------------------------------------


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


# --- O-LoRA ---------------------------------------------------------------------------------------------------------


def test_overlap_is_the_golden_number() -> None:
    golden = golden_numbers("strategies")["olora_penalty"]
    past, new = (torch.tensor(golden[k], dtype=torch.float64) for k in ("A", "A_new"))
    assert float(overlap(past, new)) == pytest.approx(golden["sum_abs"], abs=1e-12)


def test_overlap_by_hand() -> None:
    """[[1, 0, 1], [0, 1, 0]] [[0.5, 0.5, 0], [0, 2, -1]]^T = [[0.5, -1], [0.5, 2]]: 4."""
    past = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    assert float(overlap(past, torch.tensor([[0.5, 0.5, 0], [0, 2, -1]]))) == 4


def test_olora_penalises_the_new_adapter_against_the_old_ones(config: Build) -> None:
    session, store = start(config("strategy.name=olora", "strategy.orthogonality_weight=0.7", "strategy.l2_weight=0.1"))
    initial = store.load_tensors(store.head, ADAPTER)
    store = learn(session, store, TASKS[0])
    norms = sum(math.sqrt(float((t**2).sum())) for t in initial.values())
    assert training(store, "bread")[0]["penalty"] == pytest.approx(0.1 * norms, rel=1e-5)
    old, new = factors(store, "bread"), second_start(session, store)
    total = 0.0
    for module in modules(old):
        for a in old[f"{module}.lora_A"]:
            for b in new[f"{module}.lora_A"]:
                total += abs(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)))
    norms = sum(math.sqrt(float((t**2).sum())) for t in new.values())
    store = learn(session, store, TASKS[1])
    assert training(store, "stars")[0]["penalty"] == pytest.approx(0.7 * total + 0.1 * norms, rel=1e-5)


def test_olora_penalty_makes_the_adapters_more_orthogonal(config: Build, tmp_path: Path) -> None:
    found = {}
    for weight in (0, 5):
        settings = (
            "strategy.name=olora",
            f"strategy.orthogonality_weight={weight}",
            "train.epochs=10",
            "train.pairs_per_step=6",
        )
        session, store = start(config(*settings, f"memory={tmp_path / str(weight)}"))
        store = learn(session, store, *TASKS[:2])
        found[weight] = store.load_document(store.head, "diagnostics.json")
        if weight == 0:
            assert "penalty" not in training(store, "stars")[0]
    old, new = factors(store, "bread"), factors(store, "stars")
    by_hand = sum(float((old[f"{m}.lora_A"] @ new[f"{m}.lora_A"].T).abs().sum()) for m in modules(old))
    assert found[5] == {"adapters": 2, "overlap": pytest.approx(by_hand, rel=1e-5)}
    assert found[5]["overlap"] < 0.7 * found[0]["overlap"]


# --- N-LoRA ---------------------------------------------------------------------------------------------------------


def test_product_norm_by_hand() -> None:
    """[[1], [-2]] [[3, -1, 0]] = [[3, -1, 0], [-6, 2, 0]]: 12; d/dB = sign(BA) A^T = [4, -4]; d/dA = B^T sign(BA) = [3, -3, 0]."""
    b = torch.tensor([[1.0], [-2.0]], requires_grad=True)
    a = torch.tensor([[3.0, -1.0, 0.0]], requires_grad=True)
    norm = product_norm(b, a)
    (2 * norm).backward()
    assert float(norm.detach()) == 12
    assert b.grad is not None and b.grad.tolist() == [[8], [-8]]
    assert a.grad is not None and a.grad.tolist() == [[6, -6, 0]]


def test_product_norm_in_blocks_is_that_of_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifealign.strategies.nlora.BLOCK", 20)  # 2 of 7 rows at once
    generator = torch.Generator().manual_seed(0)
    b, a = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((7, 3), (3, 9)))
    mine, dense = ([m.clone().requires_grad_() for m in (b, a)] for _ in range(2))
    norm, expected = product_norm(*mine), (dense[0] @ dense[1]).abs().sum()
    norm.backward()
    expected.backward()
    torch.testing.assert_close(norm, expected)
    for x, y in zip(mine, dense, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_nlora_penalises_the_product_of_the_new_adapter(config: Build, tmp_path: Path) -> None:
    """The second step of the second task, at the weights that the first one left; and what a larger weight leads to."""
    left = {}
    for lam in (0.003, 0.3):
        session, store = start(
            config(
                "strategy.name=nlora",
                f"strategy.penalty_weight={lam}",
                "train.epochs=2",
                f"memory={tmp_path / str(lam)}",
            )
        )
        store = learn(session, store, TASKS[0])
        after: list[dict[str, Tensor]] = []

        def look(step: Step, after: list[dict[str, Tensor]] = after) -> None:
            after.append(snapshot(step.model))

        session.strategy.adjust_update = look  # type: ignore[method-assign]
        store = learn(session, store, TASKS[1])
        lines = training(store, "stars")
        assert "penalty" not in lines[0]  # B = 0
        total = sum(float(p.abs().sum()) / SCALE for p in products(after[0]).values())
        assert total > 0 and lines[1]["penalty"] == pytest.approx(lam * total, rel=1e-5)
        final = factors(store, "stars")
        entries = sum(p.numel() for p in products(final).values())
        mean = sum(float(p.abs().sum()) / SCALE for p in products(final).values()) / entries
        left[lam] = store.load_document(store.head, "diagnostics.json")["mean_abs_entry"]
        assert left[lam] == pytest.approx(mean, rel=1e-5)
    assert left[0.3] < 0.7 * left[0.003]


# --- InfLoRA --------------------------------------------------------------------------------------------------------


def unit(*axes: int, size: int = 4) -> Tensor:
    return torch.eye(size, dtype=torch.float64)[:, list(axes)]


def test_reading_takes_the_largest_inputs_that_are_free() -> None:
    """C = diag(4, 1, 9, 0): the first left singular vectors are e3, e1; without e3 they are e1, e2; without e1, e2, e3 none."""
    c = torch.diag(torch.tensor([4.0, 1, 9, 0], dtype=torch.float64))
    for basis, axes in (
        (nothing(4), [2, 0]),
        (Basis(unit(2), "remove"), [0, 1]),
        (Basis(unit(0, 1, 3), "retain"), [0, 1]),
        (Basis(unit(0, 2), "remove"), [1, None]),
        (Basis(unit(3), "retain"), [None, None]),
    ):
        expected = torch.zeros(2, 4, dtype=torch.float64)
        for row, axis in enumerate(axes):
            if axis is not None:
                expected[row, axis] = 1 / math.sqrt(3)
        torch.testing.assert_close(reading(c, basis, 2).abs(), expected)


def test_protect_adds_directions_until_the_threshold_and_keeps_the_smaller_complement() -> None:
    """C = diag(6, 3, 1, 0) has the energies 0.6, 0.3, 0.1, 0."""
    c = torch.diag(torch.tensor([6.0, 3, 1, 0], dtype=torch.float64))
    counts = [protect(c, nothing(4), t).protected for t in (0.5, 0.6, 0.61, 0.9, 0.95, 1.0)]
    assert counts == [1, 1, 2, 2, 3, 3]
    one = protect(c, nothing(4), 0.6)
    assert one.kind == "remove" and torch.allclose(one.vectors_IK.abs(), unit(0))
    three = protect(c, nothing(4), 1.0)
    assert three.kind == "retain" and torch.allclose(three.vectors_IK.abs(), unit(3))
    # Later tasks: what is protected already counts (e1 has 0.2 of these inputs), the rest is taken from what is left.
    later = torch.diag(torch.tensor([2.0, 1, 0, 7], dtype=torch.float64))
    assert protect(later, one, 0.2).protected == 1  # nothing to add
    assert protect(later, one, 0.9).protected == 2 and protect(later, one, 0.91).protected == 3
    full = protect(later, three, 0.9)
    assert full.protected == 4 and full.vectors_IK.shape == (4, 0)


def test_both_kinds_of_basis_protect_the_same_space() -> None:
    """The same three tasks, once as DualGPM stores them and once with every basis turned into its complement first."""
    generator = torch.Generator().manual_seed(0)
    basis, turned = nothing(8), nothing(8)
    for threshold in (0.4, 0.6, 0.9):
        x = torch.randn(8, 30, generator=generator, dtype=torch.float64) * torch.arange(1, 9)[:, None]
        c = x @ x.T / 30
        basis, turned = protect(c, basis, threshold), protect(c, turned, threshold)
        kept = turned.vectors_IK.shape[1]
        other = torch.linalg.qr(turned.vectors_IK, mode="complete")[0][:, kept:]
        eye = torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close(basis.free(eye), turned.free(eye))
        turned = Basis(other, "retain" if turned.kind == "remove" else "remove")
        # By definition: the protected part of the inputs has the share of the energy that was asked for.
        inside = x - basis.free(x)
        assert float((inside**2).sum() / (x**2).sum()) >= threshold - 1e-9
    assert basis.kind == "retain"


def test_input_moments_are_those_of_the_normalised_embeddings_in_the_first_layer(config: Build) -> None:
    """Plain rows: every token but an answer's last, which predicts nothing; packed rows hold a common beginning once."""
    session, _ = start(config("strategy.name=inflora", "train.shared_prefix=never"))
    moments = session.view.input_moments(TASKS[0].train)
    pairs, _ = session.encoder.encode(TASKS[0].train)
    ids = torch.tensor([i for p in pairs for answer in (p.chosen, p.rejected) for i in (*p.prompt, *answer[:-1])])
    decoder: Any = causal_lm(session.model).base_model
    with torch.no_grad():
        x = decoder.layers[0].input_layernorm(decoder.embed_tokens(ids)).double()
    assert sorted(moments) == sorted(f"model.layers.{i}.self_attn.{m}" for i in (0, 1) for m in ("q_proj", "v_proj"))
    for name in ("q_proj", "v_proj"):
        found = moments[f"model.layers.0.self_attn.{name}"]
        torch.testing.assert_close(found, x.T @ x / len(x), atol=1e-6, rtol=1e-5)
    assert moments["model.layers.1.self_attn.q_proj"] is moments["model.layers.1.self_attn.v_proj"]


def test_inflora_trains_b_alone_and_later_tasks_read_nothing_that_is_protected(config: Build) -> None:
    session, store = start(
        config(
            "strategy.name=inflora", "strategy.protected_first=0.6", "strategy.protected_last=0.8", "strategy.tasks=2"
        )
    )
    assert {n.rsplit(".", 1)[1] for n in snapshot(session.model)} == {"lora_B"}
    store = learn(session, store, TASKS[0])
    moments = session.view.input_moments(TASKS[0].train)  # HEAD is in the model
    first = factors(store, "bread")
    bases = {k: v for k, v in store.load_tensors(store.head, STATE).items() if k.startswith("remove/")}
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    begun = session.strategy.state_dict()
    store = learn(session, store, TASKS[1])
    state, second = store.load_tensors(store.head, STATE), factors(store, "stars")
    for module in modules(first):
        basis_IK, c = bases[f"remove/{module}"], moments[module]
        share = float((basis_IK.T.double() @ c @ basis_IK.double()).trace() / c.trace())
        assert share >= 0.6 and basis_IK.shape[1] < 16
        a = second[f"{module}.lora_A"]
        assert torch.equal(a, begun[f"reading/{module}.lora_A"])  # training left it alone
        assert torch.equal(state[f"past/{module}.lora_A"], first[f"{module}.lora_A"])
        torch.testing.assert_close(a @ a.T, torch.eye(2) / 3, atol=1e-5, rtol=0)
        assert float((a @ basis_IK).abs().max()) < 1e-5
        assert float((first[f"{module}.lora_A"] @ basis_IK).abs().max()) > 0.1
        assert bool(second[f"{module}.lora_B"].any())
    found = [store.load_document(store.find(t.name), "diagnostics.json") for t in TASKS[:2]]
    assert [d["threshold"] for d in found] == [pytest.approx(0.6), pytest.approx(0.7)]
    assert found[1]["protected_share"] > found[0]["protected_share"]


def test_inflora_refuses_a_share_that_falls(config: Build) -> None:
    with pytest.raises(ConfigError, match=r"protected_first 0.9 must not be above protected_last 0.8"):
        config("strategy.name=inflora", "strategy.protected_first=0.9", "strategy.protected_last=0.8")


# --- SD-LoRA --------------------------------------------------------------------------------------------------------


def test_direction_by_hand() -> None:
    """||B|| = 5, ||A|| = 2."""
    b, a, size = direction(torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, -2.0]]))
    assert b.tolist() == [[pytest.approx(0.6)], [pytest.approx(0.8)]] and a.tolist() == [[0, -1]] and float(size) == 10
    zero, _, size = direction(torch.zeros(2, 1), torch.ones(1, 2))
    assert zero.tolist() == [[0], [0]] and float(size) == 0


def test_sdlora_adds_unit_directions_by_trained_magnitudes(config: Build) -> None:
    session, store = start(config("strategy.name=sdlora", "train.learning_rate=0.05", "train.epochs=2"))
    store = learn(session, store, *TASKS)
    adapters = [store.load_tensors(store.find(t.name), ADAPTER) for t in TASKS]
    deltas: list[dict[str, Tensor]] = []
    for k, adapter in enumerate(adapters):
        deltas.append({})
        for m in modules(adapter):
            a, b, size = adapter[f"{m}.lora_A"], adapter[f"{m}.lora_B"], adapters[2][f"{m}.magnitudes"][k]
            scale = float(a.norm() * b.norm()) if k < 2 else 1.0
            deltas[k][m] = SCALE * size * b @ a / scale
    torch.testing.assert_close(logits(session.model), dense_logits(*deltas), atol=1e-5, rtol=0)
    for m in modules(adapters[0]):
        ended, now = adapters[1][f"{m}.magnitudes"], adapters[2][f"{m}.magnitudes"]
        assert ended.shape == (2,) and now.shape == (3,)
        norm = float(adapters[1][f"{m}.lora_A"].norm() * adapters[1][f"{m}.lora_B"].norm())
        start_at = torch.tensor([float(ended[0]), float(ended[1]) * norm, 1.0])
        moved = (now - start_at).abs()
        assert float(moved.min()) > 1e-4 and float(moved.max()) < 0.25  # four steps of at most 0.05
        state = store.load_tensors(store.head, STATE)
        assert state[f"past/{m}.lora_A"].shape == (4, 32)
        assert float(state[f"past/{m}.lora_A"][2:].norm()) == pytest.approx(1, abs=1e-6)


# --- single-task learning ---------------------------------------------------------------------------------------------


def test_single_learns_each_task_as_if_it_were_the_first(config: Build, tmp_path: Path) -> None:
    session, store = start(config("strategy.name=single", f"memory={tmp_path / 'stream'}"))
    store = learn(session, store, *TASKS)
    for task in TASKS:
        other, alone = start(config("strategy.name=sequential", f"memory={tmp_path / task.name}"))
        alone = learn(other, alone, task)
        a, b = store.load_tensors(store.find(task.name), ADAPTER), alone.load_tensors(alone.head, ADAPTER)
        assert all(torch.equal(a[n], b[n]) for n in b)
        session.strategy.select(session.model, task.name)
        assert all(torch.equal(t, b[n]) for n, t in snapshot(session.model).items())
        assert training(store, task.name)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    session.strategy.select(session.model, "bread")
    session.strategy.select(session.model, None)
    assert all(torch.equal(t, b[n]) for n, t in snapshot(session.model).items())  # the latest
    session.strategy.select(session.model, "unknown")
    torch.testing.assert_close(logits(session.model), dense_logits(), atol=1e-6, rtol=0)


def test_single_forgets_nothing_and_passes_nothing_on(config: Build, tmp_path: Path) -> None:
    settings = ("strategy.name=single", "train.learning_rate=0.05", "evaluate.unseen=true")
    memory = Memory.create(tmp_path / "memory", config(*settings))
    for task in TASKS:
        memory.learn(task)
    table = memory.scores("margin")
    assert table[0][0] == table[1][0] == table[2][0] != 0 and table[1][1] == table[2][1] != 0
    assert memory.summary()["accuracy"]["bwt"]["value"] == 0


def test_single_keeps_the_order_of_more_than_ten_tasks(config: Build) -> None:
    session, _ = start(config("strategy.name=single"))
    names = [f"task-{i}" for i in range(12)]
    one = snapshot(session.model)
    state = {f"{i}/{name}/{k}": v + i for i, name in enumerate(names) for k, v in one.items()}
    session.strategy.load_state_dict(dict(sorted(state.items())))
    session.strategy.select(session.model, None)
    assert all(torch.equal(t, one[n] + 11) for n, t in snapshot(session.model).items())
    assert list(session.strategy.state_dict()) == list(state)
