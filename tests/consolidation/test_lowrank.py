"""Consolidation of products B A against a dense oracle that keeps the history."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lifealign.consolidation.lowrank import Product, Stack, combine, consolidate_product, project
from support.consolidation import Oracle, close, normal


def product(seed: int, rows: int = 20, rank: int = 3, columns: int = 15) -> Product:
    return Product(normal(seed, rows, rank), normal(seed + 500, rank, columns))


def dense(x: Product) -> Tensor:
    return x.b_OK @ x.a_KI


def test_product_algebra() -> None:
    x, y = product(1), product(2, rank=5)
    close(dense(combine([(2.0, x), (-0.5, y)])), 2 * dense(x) - 0.5 * dense(y), 1e-12)
    stack = Stack([x, y, x])
    assert stack.norm([2.0, -0.5, 0.0]) == pytest.approx(float((2 * dense(x) - 0.5 * dense(y)).norm()), rel=1e-12)
    assert stack.norm([1.0, 0.0, -1.0]) < 1e-13
    many = [product(i, rank=4) for i in range(9)]  # more factors than rows
    expected = sum((i * dense(x) for i, x in enumerate(many)), torch.zeros(20, 15).double())
    u, s, v = Stack(many).svd([float(i) for i in range(9)])
    close((u * s) @ v, expected, 1e-10)
    close(s, torch.linalg.svdvals(expected), 1e-10)


def test_projection_on_dependent_products() -> None:
    x, y, target = product(1), product(2), product(3)
    history = [
        x,
        y,
        combine([(1.0, x), (-2.0, y)]),
        Product(torch.zeros(20, 1).double(), torch.zeros(1, 15).double()),
    ]
    # A direction of relative length 1e-7 is rounding of float32 weights, not a direction.
    history.append(combine([(1.0, x), (1e-7, product(4))]))
    inside = sum(
        (c * dense(h) for c, h in zip(project(target, history), history, strict=True)), torch.zeros(20, 15).double()
    )
    q = torch.linalg.qr(torch.stack([dense(x).flatten(), dense(y).flatten()]).T)[0]
    close(inside.flatten(), q @ (q.T @ dense(target).flatten()), 1e-6)


def lora_tasks(count: int, dtype: torch.dtype = torch.float64) -> list[tuple[Product, Product]]:
    """Start and end of training of each task (the start is made of what the test consolidated; here: increments)."""
    out = []
    common = normal(900, 20, 4), normal(901, 4, 15)
    for t in range(count):
        b = 0.3 * normal(10 * t + 1, 20, 4) + 0.2 * (t % 3) * common[0]
        a = 0.3 * normal(10 * t + 2, 4, 15) + 0.2 * (t % 3) * common[1]
        out.append(Product(b.to(dtype), a.to(dtype)))
    return out


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("theta", [0.9, 1.0])
def test_delta_w_equals_the_dense_oracle(dtype: torch.dtype, atol: float, lam: float, theta: float) -> None:
    """Six tasks on dW = 2 B A; LM is truncated to rank 4 after each, and the oracle goes on from the truncated one."""
    scaling = 2.0
    now = Product(torch.zeros(20, 4, dtype=dtype), normal(77, 4, 15).to(dtype))
    oracle, history = Oracle(), ()
    for t, (db, da) in enumerate(lora_tasks(6, dtype)):
        start, now = now, Product(now.b_OK + db, now.a_KI + da)
        got = consolidate_product(
            start, now, history, theta, lam, scaling=scaling, generator=torch.Generator().manual_seed(t)
        )
        before, after = (scaling * dense(Product(x.b_OK.double(), x.a_KI.double())) for x in (start, now))
        refined = oracle(after - before, min(theta, 1 - 1e-14), lam)
        long_term = before + refined
        u, s, v = torch.linalg.svd(long_term)
        scale = float(long_term.abs().max())
        close(scaling * dense(got.adapter), (u[:, :4] * s[:4]) @ v[:4], 1e-10 * scale)
        assert got.diagnostics["truncation_error"] == pytest.approx(float(s[4:].norm() / s.norm()), abs=1e-10)
        assert got.diagnostics["kept_ratio"] == pytest.approx(
            float(refined.norm() / (after - before).norm()), rel=1e-10
        )
        assert got.diagnostics["basis_rank"] == t + 1
        # Balanced: both factors carry the root of the singular values.
        live = got.adapter.b_OK.any(0)
        b, a = got.adapter.b_OK[:, live], got.adapter.a_KI[live]
        assert len(a) == (3 if t == 0 and theta < 1 else 4)
        close(b.T @ b, a @ a.T, 1e-10 * scale)
        now, history = Product(*(x.to(dtype) for x in got.adapter)), got.history
        close(scaling * dense(Product(now.b_OK.double(), now.a_KI.double())), (u[:, :4] * s[:4]) @ v[:4], atol * scale)


def test_delta_w_overlap_is_that_of_the_dense_history() -> None:
    zero = Product(torch.zeros(20, 4).double(), torch.zeros(4, 15).double())
    x, y = product(1, rank=4), product(2, rank=4)
    args = {"theta": 1.0, "overlap_scale": 0.5, "scaling": 1.0, "generator": torch.Generator().manual_seed(0)}
    first = consolidate_product(zero, x, (), **args)
    mixed = Product(*svd_split(dense(x) + dense(y)))
    second = consolidate_product(Product(torch.zeros(20, 8).double(), mixed.a_KI), mixed, first.history, **args)
    dx, dm = dense(x).flatten(), dense(mixed).flatten()
    assert second.diagnostics["overlap"] == pytest.approx(float((dx @ dm) ** 2 / (dx @ dx) / (dm @ dm)), rel=1e-10)


def test_delta_w_controls() -> None:
    zero = Product(torch.zeros(20, 6).double(), torch.zeros(6, 15).double())
    past = (product(1), product(2))
    now = combine([(1.0, product(1)), (1.0, product(3))])

    def run(mode: str, lam: float, seed: int = 0) -> dict[str, float | int]:
        generator = torch.Generator().manual_seed(seed)
        options = {"scaling": 1.0, "generator": generator, "projection": mode}
        return consolidate_product(zero, now, past, 1.0, lam, **options).diagnostics

    history, shrunk, none = (run(mode, 0.25) for mode in ("history", "shrink", "none"))
    assert shrunk["refined_norm"] == pytest.approx(history["refined_norm"], rel=1e-12)
    assert none["refined_norm"] == pytest.approx(none["denoised_norm"], rel=1e-12)
    assert history["overlap"] == shrunk["overlap"] == none["overlap"] > 0.1
    for seed in range(20):
        # lambda 0 on any subspace is a projection: it can only shorten, and two directions of 300 shorten little.
        random = run("random", 0.0, seed)
        assert random["overlap"] == history["overlap"]
        assert 0.9 < random["refined_norm"] / random["denoised_norm"] < 1 - 1e-9


def test_delta_w_does_not_take_rounding_for_a_direction() -> None:
    zero = Product(torch.zeros(20, 3).double(), torch.zeros(3, 15).double())
    history: tuple[Product, ...] = ()
    for size in (1.0, 2.0):
        now = Product(size * product(1).b_OK, product(1).a_KI)
        got = consolidate_product(zero, now, history, 1.0, 0.0, scaling=1.0, generator=torch.Generator())
        history = got.history
    assert got.diagnostics["overlap"] == pytest.approx(1.0, abs=1e-12)
    assert (len(history), got.diagnostics["basis_rank"]) == (1, 1)
    assert got.diagnostics["refined_norm"] < 1e-12


def svd_split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :8] * s[:8], v[:8]


def test_spare_directions_of_the_adapter_can_still_learn() -> None:
    """A rank-1 update in a rank-4 adapter: three directions start anew (b = 0, a random), dW is untouched."""
    start = Product(torch.zeros(20, 4).double(), normal(5, 4, 15))
    now = Product(torch.outer(normal(6, 20), torch.tensor([1.0, 0, 0, 0]).double()), start.a_KI)
    got = consolidate_product(start, now, (), 0.9, 0.5, scaling=2.0, generator=torch.Generator().manual_seed(0))
    assert got.diagnostics["rank"] == 1
    close(dense(got.adapter), dense(now), 1e-12)
    assert torch.equal(got.adapter.b_OK[:, 1:], torch.zeros(20, 3).double())
    fresh = got.adapter.a_KI[1:]
    assert torch.linalg.matrix_rank(fresh) == 3 and fresh.abs().max() <= 1 / math.sqrt(15)


def test_delta_w_capacity_keeps_the_largest_updates() -> None:
    history: tuple[Product, ...] = ()
    zero = Product(torch.zeros(20, 3).double(), torch.zeros(3, 15).double())
    sizes = [1.0, 5.0, 0.1, 3.0]
    for i, size in enumerate(sizes):
        now = Product(size * product(i).b_OK, product(i).a_KI)
        got = consolidate_product(zero, now, history, 1.0, 1.0, scaling=1.0, generator=torch.Generator(), capacity=2)
        history = got.history
        assert got.diagnostics["basis_rank"] == min(2, i + 1)
    close(dense(history[0]), 5 * dense(product(1)), 1e-10)
    close(dense(history[1]), 3 * dense(product(3)), 1e-10)
