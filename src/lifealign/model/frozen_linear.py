"""Products with the base model's frozen matrices, by the faster of two libraries that torch carries for them.

torch gives float32 products on a CPU to MKL, which uses the full width of a processor's vectors on Intel's only. oneDNN, which
torch carries for bfloat16, does so on every processor: on an AMD one with AVX-512 it is 2.3 times as fast in float32
(docs/explanation/preference-step.md). Which one leads is measured on the processor at hand, never assumed.
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
"""How many times as fast a way must be to be taken instead of the usual one; below that it may be noise."""


def seconds(call: Callable[[], object]) -> float:
    """The fastest of several calls, after one to warm up."""
    call()
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give x weight^T + bias, [..., in] and [out, in] -> [..., out], without a gradient of its own."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and onednn_leads():
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator that torch's own compiler puts in for a linear layer on a CPU; eager code has no public name for it.
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


@functools.cache
def onednn_leads() -> bool:
    """Whether oneDNN multiplies float32 matrices clearly faster here than torch's usual library, and as exactly; once a process."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 576, generator=generator)
    weight = torch.randn(1536, 576, generator=generator)
    try:
        same = torch.allclose(_onednn(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-3)
        return same and seconds(lambda: _onednn(x, weight)) * LEAD < seconds(lambda: F.linear(x, weight))
    except (AttributeError, RuntimeError):  # a torch that was built without it, or another signature
        return False


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
    """A linear layer whose weights are not trained; if they are after all, the usual one."""

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
