"""InfLoRA: protected directions by hand, and what an adapter may then read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.core.errors import ConfigError
from lifealign.core.json_codec import seal
from lifealign.core.option_names import as_stored
from lifealign.memory.history import StoreHistory
from lifealign.model.adapters import causal_lm, snapshot
from lifealign.store.layout import STATE
from lifealign.store.manifest import read_record
from lifealign.strategies._dualgpm import Basis, Energy, nothing, protect, reading, share_read
from support.growing import (
    TASKS,
    Build,
    factors,
    modules,
)
from support.lives import learn, start

pytestmark = pytest.mark.usefixtures("one_thread")


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
    counts = [protect(c, nothing(4), t, "plain").protected for t in (0.5, 0.6, 0.61, 0.9, 0.95, 1.0)]
    assert counts == [1, 1, 2, 2, 3, 3]
    one = protect(c, nothing(4), 0.6, "plain")
    assert one.kind == "remove" and torch.allclose(one.vectors_IK.abs(), unit(0))
    three = protect(c, nothing(4), 1.0, "plain")
    assert three.kind == "retain" and torch.allclose(three.vectors_IK.abs(), unit(3))
    # Later tasks: what is protected already counts (e1 has 0.2 of these inputs), the rest is taken from what is left.
    later = torch.diag(torch.tensor([2.0, 1, 0, 7], dtype=torch.float64))
    assert protect(later, one, 0.2, "plain").protected == 1  # nothing to add
    assert protect(later, one, 0.9, "plain").protected == 2 and protect(later, one, 0.91, "plain").protected == 3
    full = protect(later, three, 0.9, "plain")
    assert full.protected == 4 and full.vectors_IK.shape == (4, 0)


def test_the_criterion_of_the_authors_squares_the_singular_values_of_c() -> None:
    """C = diag(6, 3, 1, 0): 36, 9, 1 of 46, which are .783, .978 and 1 together."""
    c = torch.diag(torch.tensor([6.0, 3, 1, 0], dtype=torch.float64))
    counts = [protect(c, nothing(4), t, "squared").protected for t in (0.5, 0.78, 0.79, 0.97, 0.98, 1.0)]
    assert counts == [1, 1, 2, 2, 3, 3]
    one = protect(c, nothing(4), 0.5, "squared")
    # Later inputs diag(2, 1, 0, 7): 4, 1, 0, 49 of 54. e1 holds .074, e4 and e2 bring it to .981 and 1.
    later = torch.diag(torch.tensor([2.0, 1, 0, 7], dtype=torch.float64))
    assert [protect(later, one, t, "squared").protected for t in (0.07, 0.08, 0.98, 0.99)] == [1, 2, 2, 3]
    three = protect(c, nothing(4), 1.0, "squared")
    assert three.kind == "retain"
    # Without e1, e2 and e3, which hold 5 of 54.
    assert [protect(later, three, t, "squared").protected for t in (0.09, 0.1)] == [3, 4]
    # One direction with most of the energy, as in language models: 9, 1, 1, 1 is .75 plain and 81 of 84, .964, squared.
    c = torch.diag(torch.tensor([9.0, 1, 1, 1], dtype=torch.float64))
    assert (protect(c, nothing(4), 0.95, "plain").protected, protect(c, nothing(4), 0.95, "squared").protected) == (
        4,
        1,
    )


def test_share_read_by_hand() -> None:
    """C = diag(4, 1, 9, 0), 14 in all. e3 and e1 read 13; (e1 + e2) / sqrt 2 reads (4 + 1) / 2; nothing reads nothing."""
    c = torch.diag(torch.tensor([4.0, 1, 9, 0], dtype=torch.float64))
    assert share_read(reading(c, nothing(4), 2), c) == pytest.approx(13 / 14)
    between = torch.tensor([[1.0, 1, 0, 0]], dtype=torch.float64) / math.sqrt(6)
    assert share_read(between, c) == pytest.approx(2.5 / 14)
    # With products of inputs: C = ((2, 1), (1, 2)), of whose trace 4 the diagonal reads (2 + 1 + 1 + 2) / 2.
    c = torch.tensor([[2.0, 1], [1, 2]], dtype=torch.float64)
    assert share_read(torch.ones(1, 2) / math.sqrt(6), c) == pytest.approx(0.75)
    assert share_read(torch.zeros(2, 2), c) == 0


@pytest.mark.parametrize("energy", ["plain", "squared"])
def test_both_kinds_of_basis_protect_the_same_space(energy: Energy) -> None:
    """The same three tasks, once as DualGPM stores them and once with every basis turned into its complement first."""
    generator = torch.Generator().manual_seed(0)
    basis, turned = nothing(8), nothing(8)
    for threshold in (0.4, 0.6, 0.9):
        x = torch.randn(8, 30, generator=generator, dtype=torch.float64) * torch.arange(1, 9)[:, None]
        c = x @ x.T / 30
        basis, turned = protect(c, basis, threshold, energy), protect(c, turned, threshold, energy)
        kept = turned.vectors_IK.shape[1]
        other = torch.linalg.qr(turned.vectors_IK, mode="complete")[0][:, kept:]
        eye = torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close(basis.free(eye), turned.free(eye))
        turned = Basis(other, "retain" if turned.kind == "remove" else "remove")
        # By definition: the protected part of the inputs, or of C, has the share of the energy that was asked for.
        whole = x if energy == "plain" else c
        inside = whole - basis.free(whole)
        assert float((inside**2).sum() / (whole**2).sum()) >= threshold - 1e-9
    assert basis.kind == ("retain" if energy == "plain" else "remove")


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
            "strategy.name=inflora",
            "strategy.energy=plain",
            "strategy.protected_first=0.6",
            "strategy.protected_last=0.8",
            "strategy.tasks=2",
        )
    )
    assert {n.rsplit(".", 1)[1] for n in snapshot(session.model)} == {"lora_B"}
    initial = session.view.input_moments(TASKS[0].train)
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
    for told, adapter in zip(found, (first, second), strict=True):
        assert set(told["read"]) == set(modules(adapter))
        assert (
            told["reads"] == told["signs"][0]["value"] == pytest.approx(sum(told["read"].values()) / len(told["read"]))
        )
    # By definition: the share of the task's inputs, as they were when it began, that is left after the projection onto A.
    for module in modules(first):
        rows_RI = first[f"{module}.lora_A"].double() * math.sqrt(3)
        left = initial[module] - rows_RI.T @ rows_RI @ initial[module]
        assert found[0]["read"][module] == pytest.approx(1 - float(left.trace() / initial[module].trace()), abs=1e-5)


def test_inflora_refuses_a_share_that_falls(config: Build) -> None:
    with pytest.raises(ConfigError, match=r"protected_first 0.9 must not be above protected_last 0.8"):
        config("strategy.name=inflora", "strategy.protected_first=0.9", "strategy.protected_last=0.8")


def test_an_old_memory_goes_on_with_the_criterion_that_it_began_with(config: Build) -> None:
    """A configuration is stored with all options; one without `energy` is older than the option."""
    session, store = start(config("strategy.name=inflora"))
    assert store.identity["config"]["strategy"]["energy"] == session.strategy.config.energy == "squared"
    record = json.loads((store.path / "store.json").read_text())
    del record["identity"]["config"]["strategy"]["energy"], record["sha256"]
    (store.path / "store.json").write_bytes(seal(record))
    stored = read_record(store.path / "store.json", "store")[0]
    assert stored["identity"]["config"]["strategy"]["energy"] == "plain"
    assert as_stored("inflora", {"name": "inflora"}) == {
        "name": "inflora"
    }  # by hand, without its options: today's defaults
