"""Updates, products and golden numbers for the tests of consolidation."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(got: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


class Oracle:
    """SLMC as the paper writes it: the whole history, its SVD at every task."""

    def __init__(self) -> None:
        self.history: list[Tensor] = []

    def __call__(self, update: Tensor, theta: float, lam: float) -> Tensor:
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        k = int((torch.cumsum(s**2, 0) / (s**2).sum() < theta).sum()) + 1
        denoised = ((u[:, :k] * s[:k]) @ v[:k]).flatten()
        inside = torch.zeros_like(denoised)
        if self.history:
            s, v = torch.linalg.svd(torch.stack(self.history), full_matrices=False)[1:]
            v = v[s > 1e-10 * s[0]]
            inside = v.T @ (v @ denoised)
        refined = denoised - inside + lam * inside
        self.history.append(refined)
        return refined.view_as(update)
