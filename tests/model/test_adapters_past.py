"""Frozen factors beside the adapter in training (`adapters.set_past`), against weights that are added up densely."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import LoraConfig
from lifealign.model.adapters import (
    PAST,
    adapter_off,
    attach_lora,
    concatenated,
    fresh_factors,
    restore,
    set_past,
    snapshot,
    trainable,
)
from support.tiny import make_model, save_tiny

LORA = LoraConfig(r=2, alpha=6, target_modules=("q_proj", "v_proj"))
GPT2 = LoraConfig(r=2, alpha=6, target_modules=("c_attn",))  # Conv1D: weights are stored transposed
IDS = torch.tensor([[5, 17, 40, 200, 3, 99, 120]])


def random_factors(model: nn.Module, rank: int, seed: int) -> dict[str, Tensor]:
    """Factors of another rank for every adapted module, no entry zero."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        name: (rank, p.shape[1]) if name.endswith(".lora_A") else (p.shape[0], rank)
        for name, p in trainable(model).items()
    }
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def dense(kind: str, lora: LoraConfig, *adapters: Mapping[str, Tensor]) -> Tensor:
    """Logits of a base model whose weights are W + (alpha/r) sum_i B_i A_i, added up here."""
    base = make_model(kind)
    modules = dict(base.named_modules())
    for adapter in adapters:
        for name, a in adapter.items():
            if name.endswith(".lora_A"):
                module = name.removesuffix(".lora_A")
                delta = (lora.alpha / lora.r) * adapter[f"{module}.lora_B"] @ a
                weight = modules[module].weight
                weight.data += delta.T if kind == "gpt2" else delta
    with torch.no_grad():
        return base(input_ids=IDS).logits


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(("kind", "lora"), [("llama", LORA), ("gpt2", GPT2)])
def test_forward_is_that_of_all_factors_added_to_the_weights(kind: str, lora: LoraConfig) -> None:
    model = attach_lora(make_model(kind), lora, 0).eval()
    base = dense(kind, lora)
    own, first, second = (random_factors(model, rank, seed) for rank, seed in ((2, 1), (2, 2), (4, 3)))
    restore(model, own)
    torch.testing.assert_close(logits(model), dense(kind, lora, own), atol=1e-5, rtol=0)
    for past in (first, second, first):  # a past may grow and shrink
        set_past(model, past, lora)
        torch.testing.assert_close(logits(model), dense(kind, lora, own, past), atol=1e-5, rtol=0)
        assert float((logits(model) - dense(kind, lora, own)).abs().max()) > 1e-2
        with adapter_off(model):
            assert torch.equal(logits(model), base)
        torch.testing.assert_close(logits(model), dense(kind, lora, own, past), atol=1e-5, rtol=0)
    set_past(model, {}, lora)
    torch.testing.assert_close(logits(model), dense(kind, lora, own), atol=1e-5, rtol=0)
    set_past(model, {}, lora)  # nothing to take away


def test_only_what_was_trained_before_is_trained() -> None:
    """Names, values, flags and identity of the trained parameters outlive a past, also one with a part frozen."""
    model = attach_lora(make_model(), LORA, 0).eval()
    own = random_factors(model, 2, 1)
    restore(model, own)
    for name, parameter in model.named_parameters():
        if "layers.0" in name and "lora_A" in name:
            parameter.requires_grad_(False)
    before = trainable(model)
    assert len(before) == 2 * 2 * 2 - 2  # two layers, two modules, two factors; two A's frozen
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for past in (random_factors(model, 3, 2), random_factors(model, 5, 3), {}):
        for name, parameter in list(model.named_parameters()):
            if name.endswith("lora_A.default.weight") and "layers.0" in name and past:
                key = name.removeprefix("base_model.model.").removesuffix(".default.weight")
                past[key] = torch.full((next(iter(past.values())).shape[1], parameter.shape[1]), 0.1)
        set_past(model, past, LORA)
        with adapter_off(model):
            pass
        after = trainable(model)
        assert set(after) == set(before) and all(after[name] is before[name] for name in before)
        flags = [p.requires_grad for name, p in model.named_parameters() if f".{PAST}." in name]
        assert flags == [False] * (8 if past else 0)
        assert {name: torch.equal(t, own[name]) for name, t in snapshot(model).items()} == dict.fromkeys(before, True)
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_gradients_reach_the_adapter_in_training_alone() -> None:
    model = attach_lora(make_model(), LORA, 0).eval()
    set_past(model, random_factors(model, 3, 2), LORA)
    model(input_ids=IDS).logits.square().mean().backward()
    assert all(p.grad is not None for p in trainable(model).values())
    assert [name for name, p in model.named_parameters() if p.grad is not None and ".default." not in name] == []


def test_past_draws_nothing_from_the_global_generator() -> None:
    model = attach_lora(make_model(), LORA, 0).eval()
    factors = random_factors(model, 3, 2)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    set_past(model, factors, LORA)
    concatenated(model)
    assert torch.equal(torch.rand(1), expected)


def test_past_keeps_float32_on_a_bfloat16_base() -> None:
    base = make_model().to(torch.bfloat16)
    model = attach_lora(base, LORA, 0).eval()
    factors = random_factors(model, 3, 2)
    set_past(model, factors, LORA)
    kept = {n: p for n, p in model.named_parameters() if f".{PAST}." in n}
    assert len(kept) == 8 and all(p.dtype == torch.float32 for p in kept.values())
    for name, parameter in kept.items():
        key = name.removeprefix("base_model.model.").replace(f".{PAST}.weight", "")
        assert torch.equal(parameter, factors[key])
    assert logits(model).isfinite().all()


def test_dropout_of_the_adapter_in_training_leaves_the_past_alone() -> None:
    """With B = 0 the adapter in training adds nothing, so its dropout must not show."""
    lora = LORA.model_copy(update={"dropout": 0.9})
    model = attach_lora(make_model(), lora, 0).eval()
    factors = random_factors(model, 3, 2)
    set_past(model, factors, lora)
    still = logits(model)
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
    assert torch.equal(logits(model), still)


@pytest.mark.parametrize(("kind", "lora"), [("llama", LORA), ("gpt2", GPT2)])
@pytest.mark.parametrize("ranks", [(2,), (2, 2, 3)])
def test_concatenated_adapter_loads_in_stock_peft_with_the_same_logits(
    tmp_path: Path, ranks: tuple[int, ...], kind: str, lora: LoraConfig
) -> None:
    directory = save_tiny(tmp_path / "base", kind)
    model = attach_lora(make_model(kind), lora, 0).eval()
    own = random_factors(model, 2, 1)
    restore(model, own)
    pasts = [random_factors(model, rank, 10 + rank + i) for i, rank in enumerate(ranks[1:])]
    if pasts:
        joined = {name: torch.cat([p[name] for p in pasts], 0 if name.endswith(".lora_A") else 1) for name in pasts[0]}
        set_past(model, joined, lora)
    live = logits(model)
    torch.testing.assert_close(live, dense(kind, lora, own, *pasts), atol=1e-5, rtol=0)
    one = concatenated(model)
    torch.testing.assert_close(logits(one), live, atol=1e-5, rtol=0)
    assert list(one.peft_config) == ["default"] and one.peft_config["default"].r == sum(ranks)  # type: ignore[arg-type,union-attr,index]
    one.peft_config["default"].base_model_name_or_path = str(directory)  # type: ignore[union-attr,index]
    one.save_pretrained(str(tmp_path / "adapter"))  # type: ignore[operator]
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(loaded), live, atol=1e-5, rtol=0)
    merged = copy.deepcopy(one).merge_and_unload()  # type: ignore[operator]
    torch.testing.assert_close(logits(merged), live, atol=1e-5, rtol=0)


def test_fresh_factors_are_a_function_of_the_seed() -> None:
    shapes = {"m.lora_A": (2, 9), "m.lora_B": (5, 2)}
    one, two = fresh_factors(shapes, 7), fresh_factors(shapes, 8)
    assert torch.equal(one["m.lora_A"], fresh_factors(shapes, 7)["m.lora_A"])
    assert not torch.equal(one["m.lora_A"], two["m.lora_A"])
    assert float(one["m.lora_A"].abs().max()) <= 1 / 3 and not one["m.lora_B"].any()
