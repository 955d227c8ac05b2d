"""LoRA in one autograd function against PEFT's own layer, values and gradients."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import Tensor, nn

from lifealign.model.frozen_linear import freeze
from lifealign.model.lora_product import FusedLoraLinear, fuse_lora


def adapted(dtype: torch.dtype, bias: bool, dropout: float) -> nn.Module:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.Tanh(), nn.Linear(40, 12, bias=bias)).to(dtype)
    freeze(base)
    settings = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["0", "2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    assert isinstance(model, nn.Module)
    return model


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    result = model(x)
    (result.float() * torch.arange(12)).sum().backward()
    assert x.grad is not None
    found = {n.split("lora_")[0] + n[-20:]: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"result": result.detach(), "x": x.grad, **found}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(  # dropout in float32 alone: in other types PEFT draws it in float32 all the same, so another mask
    ("dtype", "close", "dropout"),
    [(torch.float32, 1e-5, 0.0), (torch.float32, 1e-5, 0.4), (torch.float64, 1e-6, 0.0), (torch.bfloat16, 3e-2, 0.0)],
)
def test_values_and_gradients_are_those_of_peft(dtype: torch.dtype, close: float, bias: bool, dropout: float) -> None:
    plain = adapted(dtype, bias, dropout).train()
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    assert sum(isinstance(m, FusedLoraLinear) for m in fused.modules()) == 2
    x = torch.randn(2, 5, 24).to(dtype)
    wanted, found = run(plain, x), run(fused, x)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        difference = (found[name].double() - value.double()).norm() / value.double().norm()
        assert difference < close, (name, float(difference))


def test_the_factors_gradients_stay_float32_and_nothing_is_copied_to_it() -> None:
    model = adapted(torch.bfloat16, False, 0.0)
    fuse_lora(model)
    found = run(model, torch.randn(3, 24).bfloat16())
    assert found["result"].dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for n, p in model.named_parameters() if p.grad is not None)


def test_an_adapter_that_is_off_and_a_second_one_are_left_to_peft() -> None:
    plain = adapted(torch.float32, True, 0.0)
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    x = torch.randn(3, 24)
    with plain.disable_adapter(), fused.disable_adapter():  # type: ignore[operator]
        assert torch.equal(plain(x), fused(x))
    for model in (plain, fused):
        torch.manual_seed(2)
        model.add_adapter("past", peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))  # type: ignore[operator]
        model.base_model.set_adapter(["default", "past"])  # type: ignore[union-attr, operator]
    assert torch.equal(plain(x), fused(x))
