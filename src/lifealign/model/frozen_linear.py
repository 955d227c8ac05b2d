"""Products with the base model's frozen matrices, by the faster of two libraries that come with torch.

On a CPU torch computes float32 products with MKL, which uses the full vector width on Intel processors only. oneDNN,
which torch uses for bfloat16, does so on every processor: on an AMD processor with AVX-512 it is 2.3 times as fast in
float32 (docs/explanation/preference-step.md). The faster one is measured on the processor at hand, never assumed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAD = 1.3
"""Speed-up that a way needs to replace the usual one; a smaller one may be noise."""


def seconds(call: Callable[[], object]) -> float:
    """Duration of the fastest of several calls, after one to warm up."""
    call()
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, [..., in] and [out, in] -> [..., out]; the caller defines the gradient."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and onednn_leads():
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator that torch's compiler uses for a linear layer on a CPU; eager code has no public name for it.
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


_given: bool | None = None
"""The choice of an earlier run, which a stopwatch must not overrule (`use_onednn`)."""


def use_onednn(value: bool | None) -> None:
    """Multiply float32 matrices by oneDNN or not, whatever a measurement says; None: measure again."""
    global _given
    _given = value


def onednn_leads() -> bool:
    """Whether float32 products go to oneDNN: as given by `use_onednn`, if it works here, else as measured once per process."""
    exact, faster = _measured()
    return exact and (faster if _given is None else _given)


@functools.cache
def _measured() -> tuple[bool, bool]:
    """Whether oneDNN multiplies float32 matrices as exactly as MKL, and whether clearly faster."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 576, generator=generator)
    weight = torch.randn(1536, 576, generator=generator)
    try:
        same = torch.allclose(_onednn(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-3)
        return same, same and seconds(lambda: _onednn(x, weight)) * LEAD < seconds(lambda: F.linear(x, weight))
    except (AttributeError, RuntimeError):  # torch built without it, or with another signature
        return False, False


class _FrozenProduct(torch.autograd.Function):
    """`product` with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(grad, weight.t()), None, None


class FrozenLinear(nn.Linear):
    """A linear layer with frozen weights; if they are trained after all, it works like `torch.nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Linear`."""
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            return super().forward(input)
        result: Tensor = _FrozenProduct.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


def freeze(model: nn.Module) -> None:
    """Take every parameter out of training and let the linear layers use `product`; names and weights stay."""
    model.requires_grad_(False)
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
