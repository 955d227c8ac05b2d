"""LoRA beside a frozen matrix in one autograd function, for GPUs: no float32 copy of inputs or outputs is made.

PEFT multiplies in the type of the factors, float32 here, so in bfloat16 it copies every input and every output of an adapted
module to float32. On a GPU those copies cost more than the adapter's products. Here the products read bfloat16 and add up in
float32, the factors and their gradients stay float32, and x is kept once for the gradient of A.

Shapes: N columns, I input features, O output features, R rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (d A^T) B^T, [N, I] -> [N, O]; W and bias get no gradient.

    `d` is x after dropout, or None where it is x itself.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, d: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        inner = (x if d is None else d) @ a.to(x.dtype).t()
        result = F.linear(x, weight, bias).addmm_(inner, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(x if d is None else d, inner, weight, a, b)
        ctx.scale, ctx.dropped = scale, d is not None
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d, inner, weight, a, b = ctx.saved_tensors
        need_x, need_d, *_ = ctx.needs_input_grad
        need_a, need_b = ctx.needs_input_grad[4:6]
        grad_b = ctx.scale * wide_product(grad.t(), inner) if need_b else None
        grad_inner = grad @ (ctx.scale * b).to(grad.dtype)
        grad_a = wide_product(grad_inner.t(), d) if need_a else None
        own = a.to(grad.dtype)
        grad_x = grad @ weight if need_x else None
        grad_d = None
        if need_d and ctx.dropped:
            grad_d = grad_inner @ own
        elif grad_x is not None:
            grad_x.addmm_(grad_inner, own)
        return grad_x, grad_d, None, None, grad_a, grad_b, None


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """Left @ right in float32 from half-precision factors, without float32 copies of them where torch can."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class FusedLoraLinear(LoraLinear):  # type: ignore[misc]
    """PEFT's LoRA layer with `_LoraProduct` for plain LoRA on a frozen linear module; anything else is left to PEFT."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As `peft.tuners.lora.Linear`."""
        base = self.get_base_layer()
        names = [name for name in self.active_adapters if name in self.lora_A]
        plain = not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant or self.fan_in_fan_out)
        if not plain or len(names) != 1 or not isinstance(base, nn.Linear) or base.weight.requires_grad:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        name = names[0]
        rows = x.reshape(-1, x.shape[-1])
        dropout = self.lora_dropout[name]
        dropped = dropout(rows) if dropout.training and not isinstance(dropout, nn.Identity) else None
        a, b = cast(nn.Linear, self.lora_A[name]).weight, cast(nn.Linear, self.lora_B[name]).weight
        product: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
            rows, dropped, base.weight, base.bias, a, b, float(self.scaling[name])
        )
        return product.reshape(*x.shape[:-1], product.shape[-1])


def fuse_lora(model: nn.Module) -> None:
    """Let the LoRA layers of `model` use `FusedLoraLinear`; names, weights and what other kinds of layers do stay."""
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__class__ = FusedLoraLinear
