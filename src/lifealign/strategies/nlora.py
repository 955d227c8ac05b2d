"""N-LoRA (Yang et al. 2024, arXiv 2410.10179): a new adapter per task, whose product is kept sparse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import snapshot, trainable
from lifealign.strategies._growing import Growing
from lifealign.strategies._steps import penalty_share
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.strategy import History

BLOCK = 1 << 20
"""Entries of the product held at once."""


class _ProductNorm(torch.autograd.Function):
    """||B A||_1 of B [O, R], A [R, I] in blocks of rows; also computes its gradients sign(BA) A^T and B^T sign(BA)."""

    @staticmethod
    def forward(ctx: Any, b_OR: Tensor, a_RI: Tensor) -> Tensor:
        grad_OR, grad_RI = torch.empty_like(b_OR), torch.zeros_like(a_RI)
        total = b_OR.new_zeros(())
        rows = max(1, BLOCK // a_RI.shape[1])
        for start in range(0, len(b_OR), rows):
            part = slice(start, start + rows)
            product = b_OR[part] @ a_RI
            total += product.abs().sum()
            sign = product.sign()
            grad_OR[part] = sign @ a_RI.T
            grad_RI += b_OR[part].T @ sign
        ctx.save_for_backward(grad_OR, grad_RI)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad_OR, grad_RI = ctx.saved_tensors
        return grad * grad_OR, grad * grad_RI


def product_norm(b_OR: Tensor, a_RI: Tensor) -> Tensor:
    """Sum of the absolute values of all O x I entries of B A, a scalar with a graph."""
    norm: Tensor = _ProductNorm.apply(b_OR, a_RI)  # type: ignore[no-untyped-call]
    return norm


class NLora(Growing):
    """Add an adapter per task whose product is kept sparse: sparse updates rarely change the same entry.

    N-LoRA (Yang et al. 2024, arXiv 2410.10179): the preference loss + penalty_weight sum ||B_t A_t||_1 over modules.

    Adapted: the paper trains a language-model loss; here it is the preference loss. The norm is the paper's, over all O
    x I entries of the current product (without alpha/r), the first task included; the authors' code sums the r x r
    entries of A B, a different matrix, so its weights (0.4 to 1.8) do not apply here.

    SFT stage: the same penalty, with the SFT loss.

    Kept: the adapters of all tasks, t n.

    Cost: 1 + t r columns more in each adapted module; the penalty is 3 r O I.
    """

    class Config(ObjectiveConfig):
        """Objective and weight of the penalty."""

        penalty_weight: float = Field(1e-4, ge=0)
        """Weight of the sum of absolute values of B A. 0 <= penalty_weight."""

    def penalty(self, model: nn.Module) -> Tensor:
        """The norm of the new adapter's products; at B = 0 it has no (sub)gradient, so no graph is made."""
        products = [(b, a) for b, a in self._products(trainable(model)) if bool(b.any())]
        if not products or not self.config.penalty_weight:
            return torch.zeros(())
        norm: Tensor = self.config.penalty_weight * torch.stack([product_norm(b, a) for b, a in products]).sum()
        return norm

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the mean absolute entry of the products; change nothing."""
        products = list(self._products(snapshot(model)))
        entries = sum(b.shape[0] * a.shape[1] for b, a in products)
        total = sum(float(product_norm(b, a)) for b, a in products)
        share = penalty_share(self.log)
        return {"adapters": len(history.tasks) + 1, "mean_abs_entry": total / entries, "penalty_share": share}

    @staticmethod
    def _products(own: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for name, a in own.items():
            if name.endswith(".lora_A"):
                yield own[f"{name.removesuffix('.lora_A')}.lora_B"], a
