"""O-LoRA and N-LoRA: their penalties by hand and in a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER
from lifealign.strategies import Step
from lifealign.strategies.nlora import product_norm
from lifealign.strategies.olora import overlap
from support.golden import golden_numbers
from support.growing import (
    SCALE,
    TASKS,
    Build,
    factors,
    modules,
    products,
    second_start,
    training,
)
from support.lives import learn, start

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert found[5]["adapters"] == 2 and found[5]["overlap"] == pytest.approx(by_hand, rel=1e-5)
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
