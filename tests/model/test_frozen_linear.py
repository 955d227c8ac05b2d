"""Products with frozen matrices: both libraries, values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lifealign.model import frozen_linear as products
from lifealign.model.frozen_linear import FrozenLinear, freeze, onednn_leads, product


@pytest.fixture(params=[True, False], ids=["onednn", "usual"])
def leads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_leads", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_frozen_layer_gives_what_a_linear_layer_gives(leads: bool, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)
    frozen = nn.Sequential(copy.deepcopy(linear))
    freeze(frozen)
    assert type(frozen[0]) is FrozenLinear
    x = torch.randn(2, 7, 24, dtype=dtype).transpose(0, 1).requires_grad_()  # not contiguous
    wanted = linear(x)
    got = frozen(x)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    up = torch.randn_like(wanted).transpose(0, 1).contiguous().transpose(0, 1)
    (grad,), (wanted_grad,) = (torch.autograd.grad(y, x, up) for y in (got, wanted))
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-5, atol=1e-5)
    (expanded,), (wanted_expanded,) = (torch.autograd.grad(y.sum(), x) for y in (frozen(x), linear(x)))
    torch.testing.assert_close(expanded, wanted_expanded, rtol=1e-5, atol=1e-5)


def test_onednn_does_the_product_where_it_leads(leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(products, "_onednn", lambda x, w, b=None: used.append(x.dtype) or F.linear(x, w, b))
    for dtype in (torch.float32, torch.bfloat16):
        product(torch.ones(2, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype))
    assert used == ([torch.float32] if leads else [])


def test_a_weight_that_is_trained_after_all_has_its_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    freeze(model)
    model[0].weight.requires_grad_(True)
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model[0].weight.grad, torch.ones(2, 3))


@pytest.mark.parametrize("broken", ["missing", "wrong"])
def test_a_torch_without_the_operator_or_with_another_one_keeps_to_the_usual_way(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if broken == "missing":
            raise AttributeError("no such operator")
        return F.linear(x, weight, bias) + 1

    monkeypatch.setattr(products, "_onednn", other)
    products._measured.cache_clear()
    try:
        assert not onednn_leads()
        products.use_onednn(True)  # as a checkpoint of another machine says
        assert not onednn_leads()
    finally:
        products.use_onednn(None)
        products._measured.cache_clear()


def test_names_and_weights_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Embedding(4, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
