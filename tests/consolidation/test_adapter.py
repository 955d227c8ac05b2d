"""Consolidation of whole adapters: spaces, options, diagnostics and a life through the disk."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from lifealign.consolidation.adapter import (
    ConsolidationConfig,
    consolidate_adapter,
)
from lifealign.core.errors import ConfigError, TrainingError
from support.consolidation import Oracle, close, normal

MODULES = {"layers.0.q_proj": (12, 10), "layers.0.v_proj": (6, 10), "layers.1.q_proj": (12, 10)}
RANK = 4


def random_adapter(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    out = {}
    for i, (module, (rows, columns)) in enumerate(MODULES.items()):
        out[f"{module}.lora_A"] = scale * normal(seed + 2 * i, RANK, columns).float()
        out[f"{module}.lora_B"] = scale * normal(seed + 2 * i + 1, rows, RANK).float()
    return out


def life(config: ConsolidationConfig, tasks: int, seed: int = 0, through_disk: bool = False) -> list[Any]:
    weights, state, results = random_adapter(0), {}, []
    for t in range(tasks):
        now = {
            k: v + 0.3 * random_adapter(100 * (t + 1))[k] + 0.2 * random_adapter(7000)[k] for k, v in weights.items()
        }
        result = consolidate_adapter(weights, now, state, config, scaling=2.0, seed=seed, task_index=t)
        results.append(result)
        weights, state = result.adapter, load(save(result.state)) if through_disk else result.state
    return results


def delta_w(adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    return {m: adapter[f"{m}.lora_B"].double() @ adapter[f"{m}.lora_A"].double() for m in MODULES}


def test_factors_treats_every_matrix_by_itself() -> None:
    oracles = {name: Oracle() for name in random_adapter(0)}
    weights = random_adapter(0)
    for t, result in enumerate(life(ConsolidationConfig(), 4)):
        assert list(result.adapter) == list(weights)
        for name, before in weights.items():
            change = 0.3 * random_adapter(100 * (t + 1))[name] + 0.2 * random_adapter(7000)[name]
            update = (before + change).double() - before.double()
            expected = before.double() + oracles[name](update, 0.9, 0.5)
            close(result.adapter[name].double(), expected, 2e-6)
            assert result.state[f"{name}.rows"].shape == (t + 1, before.numel())
            assert result.state[f"{name}.rows"].dtype == torch.float32
        weights = result.adapter


@pytest.mark.parametrize("space", ["factors", "delta_w"])
@pytest.mark.parametrize("projection", ["history", "random", "shrink", "none"])
@pytest.mark.parametrize("capacity", [None, 2])
def test_a_life_through_the_disk_is_the_same_bit_for_bit(space: str, projection: str, capacity: int | None) -> None:
    config = ConsolidationConfig(space=space, projection=projection, basis_capacity=capacity)
    for one, two in zip(life(config, 4), life(config, 4, through_disk=True), strict=True):
        assert one.adapter.keys() == two.adapter.keys() and one.state.keys() == two.state.keys()
        assert all(torch.equal(one.adapter[k], two.adapter[k]) for k in one.adapter)
        assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)
        assert one.diagnostics == two.diagnostics
        assert json.loads(json.dumps(one.diagnostics)) == one.diagnostics
        assert {v.dtype for v in one.adapter.values()} == {torch.float32}


@pytest.mark.parametrize(
    "options",
    [
        {"theta": 0.5},
        {"overlap_scale": 0.1},
        {"projection": "random"},
        {"projection": "shrink"},
        {"projection": "none"},
        {"basis_capacity": 1},
    ],
)
@pytest.mark.parametrize("space", ["factors", "delta_w"])
def test_every_option_changes_the_weights(options: dict[str, Any], space: str) -> None:
    usual = life(ConsolidationConfig(space=space), 3)[-1].adapter
    changed = life(ConsolidationConfig(**{"space": space, **options}), 3)[-1].adapter
    assert any(not torch.allclose(usual[k], changed[k], atol=1e-5) for k in usual)


def test_the_space_changes_the_model() -> None:
    factors, products = (delta_w(life(ConsolidationConfig(space=s), 3)[-1].adapter) for s in ("factors", "delta_w"))
    assert all(float((factors[m] - products[m]).norm() / factors[m].norm()) > 0.01 for m in MODULES)


def test_the_seed_decides_the_random_control() -> None:
    config = ConsolidationConfig(projection="random")
    one, other = (life(config, 3, seed=s)[-1].adapter for s in (0, 1))
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("space", ["factors", "delta_w"])
def test_summed_diagnostics(space: str) -> None:
    diagnostics = life(ConsolidationConfig(space=space), 3)[-1].diagnostics
    per, total = list(diagnostics["matrices"].values()), diagnostics["summed"]
    assert list(diagnostics["matrices"]) == sorted(random_adapter(0) if space == "factors" else MODULES)
    assert total["matrices"] == len(per)

    def energy(key: str) -> float:
        return sum(d[key] ** 2 for d in per)

    assert total["rank_kept"] == pytest.approx(sum(d["rank"] for d in per) / len(per))
    assert total["energy_kept"] == pytest.approx(energy("denoised_norm") / energy("update_norm"))
    assert total["kept_ratio"] == pytest.approx(math.sqrt(energy("refined_norm") / energy("update_norm")))
    overlapping = sum(d["overlap"] * d["denoised_norm"] ** 2 for d in per)
    assert total["overlap"] == pytest.approx(overlapping / energy("denoised_norm"))
    assert 0.05 < total["overlap"] < 1
    assert ("truncation_error" in total) == (space == "delta_w")


def test_gauge_changes_factors_but_not_delta_w() -> None:
    """(A, B) -> (G^-1 A, B G) is the same model; the second task is given in either gauge."""
    gauge = torch.linalg.qr(normal(1, RANK, RANK))[0] @ torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.2]).double())

    def turn(adapter: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for m in MODULES:
            out[f"{m}.lora_A"] = (torch.linalg.inv(gauge) @ adapter[f"{m}.lora_A"].double()).float()
            out[f"{m}.lora_B"] = (adapter[f"{m}.lora_B"].double() @ gauge).float()
        return out

    def second(config: ConsolidationConfig, turned: bool) -> dict[str, Tensor]:
        first = life(config, 1)[0]
        start = first.adapter
        now = {k: v + 0.3 * random_adapter(200)[k] for k, v in start.items()}
        if turned:
            start, now = turn(start), turn(now)
        result = consolidate_adapter(start, now, first.state, config, scaling=2.0, seed=0, task_index=1)
        return delta_w(result.adapter)

    difference = {}
    for space in ("factors", "delta_w"):
        config = ConsolidationConfig(space=space)
        plain, turned = second(config, False), second(config, True)
        difference[space] = max(float((plain[m] - turned[m]).norm() / plain[m].norm()) for m in MODULES)
    assert difference["delta_w"] < 1e-5
    assert difference["factors"] > 0.01


def test_every_matrix_of_every_task_draws_its_own_numbers() -> None:
    start = {f"{m}.lora_{k}": torch.zeros(5, 5) for m in ("one", "two") for k in "AB"}
    now = {k: torch.eye(5)[:, :1] @ torch.ones(1, 5) if k.endswith("A") else torch.eye(5) for k in start}
    config = ConsolidationConfig(space="delta_w")

    def spare(seed: int, task_index: int) -> list[Tensor]:
        out = consolidate_adapter(start, now, {}, config, scaling=1.0, seed=seed, task_index=task_index).adapter
        assert not out["one.lora_B"][:, 1:].any()
        return [out["one.lora_A"][1:], out["two.lora_A"][1:]]

    drawn = [*spare(0, 0), *spare(0, 1), *spare(1, 0)]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(6) for j in range(i))
    assert all(torch.equal(a, b) for a, b in zip(spare(0, 0), drawn[:2], strict=True))


def test_delta_w_without_denoising_or_projection_changes_nothing() -> None:
    weights = random_adapter(0)
    now = {k: v + random_adapter(50)[k] for k, v in weights.items()}
    config = ConsolidationConfig(space="delta_w", theta=1.0, overlap_scale=1.0)
    result = consolidate_adapter(weights, now, {}, config, scaling=2.0, seed=0, task_index=0)
    for module, expected in delta_w(now).items():
        close(delta_w(result.adapter)[module], expected, 1e-5)
    assert result.diagnostics["summed"]["truncation_error"] < 1e-12


def test_an_untouched_adapter_stays_as_it_is() -> None:
    weights = random_adapter(0)
    result = consolidate_adapter(weights, weights, {}, ConsolidationConfig(), scaling=2.0, seed=0, task_index=0)
    assert all(torch.equal(result.adapter[k], weights[k]) for k in weights) and result.state == {}
    product_result = consolidate_adapter(
        weights, weights, {}, ConsolidationConfig(space="delta_w"), scaling=2.0, seed=0, task_index=0
    )
    for module, expected in delta_w(weights).items():
        close(delta_w(product_result.adapter)[module], expected, 1e-5)
    assert product_result.state == {}


def test_mistakes_are_named() -> None:
    weights = random_adapter(0)
    options = {"scaling": 2.0, "seed": 0, "task_index": 0}
    broken = {**weights, "layers.0.q_proj.lora_B": torch.full((12, RANK), math.nan)}
    with pytest.raises(TrainingError, match=r"layers\.0\.q_proj\.lora_B"):
        consolidate_adapter(weights, broken, {}, ConsolidationConfig(), **options)
    with pytest.raises(ValueError, match="names or shapes"):
        consolidate_adapter(weights, dict(list(weights.items())[:-1]), {}, ConsolidationConfig(), **options)
    for mine, others in (("factors", "delta_w"), ("delta_w", "factors")):
        state = life(ConsolidationConfig(space=others), 1)[0].state
        with pytest.raises(ConfigError, match=f"space {mine}"):
            consolidate_adapter(weights, weights, state, ConsolidationConfig(space=mine), **options)
    with pytest.raises(ValidationError, match="projection none reads no overlap_scale"):
        ConsolidationConfig(projection="none", overlap_scale=0.5)
    config = ConsolidationConfig(projection="none")
    assert config.overlap_scale is None and ConsolidationConfig.model_validate_json(config.model_dump_json()) == config
    assert ConsolidationConfig().overlap_scale == 0.5
