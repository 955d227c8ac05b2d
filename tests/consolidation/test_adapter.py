"""Consolidation against golden numbers, hand-derived cases and a dense oracle that keeps the whole history."""

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
    SubspaceBasis,
    consolidate,
    consolidate_adapter,
    denoise,
)
from lifealign.consolidation.lowrank import Product, Stack, combine, consolidate_product, project
from lifealign.core.errors import ConfigError, TrainingError
from support.golden import golden_numbers

TYPES = [torch.float32, torch.float64]
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_numbers("consolidation")  # type: ignore[no-any-return]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(got: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=atol)


# --- denoise


@pytest.mark.parametrize("dtype", TYPES)
def test_denoise_golden(golden: dict[str, Any], dtype: torch.dtype) -> None:
    for entry in golden["denoise"]:
        matrix = torch.tensor(entry["matrix"], dtype=dtype)
        for case in entry["cases"]:
            got = denoise(matrix, case["theta"])
            assert (got.rank, got.update.dtype) == (case["rank"], dtype)
            close(got.update, torch.tensor(case["result"], dtype=torch.float64), EXACT[dtype])
            # eight decimals of energy
            assert got.energy_kept == pytest.approx(entry["energy"][case["rank"] - 1], abs=max(EXACT[dtype], 5.1e-9))


@pytest.mark.parametrize("dtype", TYPES)
def test_denoise_at_the_threshold(dtype: torch.dtype) -> None:
    """diag(3, 1) has shares .9 and 1: theta .9 is reached by one direction, a turn of the axes notwithstanding."""
    for seed in range(20):
        q = torch.linalg.qr(normal(seed, 5, 5))[0]
        w = torch.linalg.qr(normal(seed + 100, 4, 4))[0]
        turned = (q[:, :2] * torch.tensor([3.0, 1.0])) @ w[:2]
        assert denoise(turned.to(dtype), 0.9).rank == 1
        assert denoise(turned.to(dtype), 0.9001).rank == 2


def test_theta_one_keeps_all_bit_for_bit() -> None:
    # The smallest direction's energy is 1e-20 of the largest's: a cumulative sum reaches 1 long before it.
    matrix = (torch.linalg.qr(normal(0, 6, 4))[0] * torch.tensor([1.0, 1e-3, 1e-6, 1e-10])) @ torch.linalg.qr(
        normal(1, 4, 4)
    )[0]
    got = denoise(matrix, 1.0)
    assert torch.equal(got.update, matrix) and (got.rank, got.energy_kept) == (4, 1.0)
    single = torch.outer(normal(2, 6), normal(3, 4))
    assert denoise(single, 1.0).rank == 1 and torch.equal(denoise(single, 1.0).update, single)


def test_zero_and_empty_updates_have_rank_zero() -> None:
    got = denoise(torch.zeros(3, 2), 0.9)
    assert (got.rank, got.energy_kept) == (0, 1.0) and torch.equal(got.update, torch.zeros(3, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_an_error(bad: float) -> None:
    matrix = torch.eye(3)
    matrix[1, 2] = bad
    with pytest.raises(TrainingError, match="not finite"):
        denoise(matrix, 0.9)
    basis = SubspaceBasis(9)
    with pytest.raises(TrainingError, match="not finite"):
        consolidate(matrix, basis, 0.9, 0.5)
    assert basis.rank == 0


def test_an_svd_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", fail)
    with pytest.raises(torch.linalg.LinAlgError):
        consolidate(torch.eye(3), SubspaceBasis(9), 0.9, 0.5)


def test_arguments_out_of_range_are_refused() -> None:
    for theta in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="theta"):
            denoise(torch.eye(2), theta)
    for lam in (-0.1, 1.5):
        with pytest.raises(ValueError, match="overlap_scale"):
            consolidate(torch.eye(2), SubspaceBasis(4), 0.9, lam)
    with pytest.raises(ValueError, match="basis is of vectors of 5"):
        consolidate(torch.eye(2), SubspaceBasis(5), 0.9, 0.5)
    with pytest.raises(TypeError, match="bfloat16"):
        denoise(torch.eye(2, dtype=torch.bfloat16), 0.9)
    with pytest.raises(ValueError, match="generator"):
        consolidate(torch.eye(2), SubspaceBasis(4), 0.9, 0.5, "random")
    with pytest.raises(ValueError, match="'sideways'"):
        consolidate(torch.eye(2), SubspaceBasis(4), 0.9, 0.5, "sideways")


# --- basis


@pytest.mark.parametrize("dtype", TYPES)
def test_project_golden_with_rank_traps(golden: dict[str, Any], dtype: torch.dtype) -> None:
    update = torch.tensor([golden["project"]["update"]], dtype=dtype)
    for case in golden["project"]["cases"]:
        basis = SubspaceBasis(4)
        for row in case["history"]:
            basis.extend(torch.tensor(row, dtype=dtype))
        assert basis.rank == torch.linalg.matrix_rank(torch.tensor(case["history"], dtype=torch.float64))
        got = consolidate(update, basis, 1.0, case["lambda"])
        close(got.refined, torch.tensor([case["result"]]), EXACT[dtype])
        assert got.refined.dtype == dtype


def test_rows_stay_orthonormal_for_nearly_dependent_vectors() -> None:
    """One Gram-Schmidt pass loses the digits that two keep: the residuals are 1e-5 of the vectors."""
    basis = SubspaceBasis(300)
    common = normal(0, 300)
    for seed in range(1, 41):
        assert basis.extend(common + 1e-5 * normal(seed, 300))
    close(basis.rows @ basis.rows.T, torch.eye(40), 1e-12)


def test_dependent_zero_and_rounded_vectors_span_nothing() -> None:
    basis = SubspaceBasis(50)
    a, b = normal(1, 50).float(), normal(2, 50).float()
    assert [basis.extend(v) for v in (a, torch.zeros(50), 3 * a, b, (0.1 * a + 0.7 * b), 1e-30 * b)] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert basis.rank == 2
    assert basis.extend(a + 1e-3 * normal(3, 50).float())


def test_energies_are_squared_coordinates() -> None:
    """3 e1, then 4 e1 + 2 e2: 9 + 16 = 25 along e1, 4 along e2."""
    basis = SubspaceBasis(3)
    basis.extend(torch.tensor([3.0, 0, 0]))
    basis.extend(torch.tensor([4.0, 2, 0]))
    close(basis.energies, torch.tensor([25.0, 4.0]), 1e-12)
    close(basis.energy, torch.tensor([[25.0, 8], [8, 4]]), 1e-12)


def test_capacity_keeps_the_most_energetic_directions() -> None:
    """Against the SVD of the history: nothing dropped before, so its largest singular vectors are kept."""
    history = torch.stack([normal(i, 40) * s for i, s in enumerate([1.0, 5, 0.2, 3])])
    capped = SubspaceBasis(40, capacity=3)
    for row in history:
        capped.extend(row)
        close(capped.rows @ capped.rows.T, torch.eye(capped.rank), 1e-12)
    values, v = torch.linalg.svd(history, full_matrices=False)[1:]
    assert capped.rank == 3
    close(capped.rows.T @ capped.rows, v[:3].T @ v[:3], 1e-12)
    close(capped.energies, values[:3] ** 2, 1e-12)


def test_capacity_holds_for_ever() -> None:
    basis = SubspaceBasis(30, capacity=4)
    dominant = normal(99, 30) * 100
    basis.extend(dominant)
    for seed in range(60):
        basis.extend(normal(seed, 30))
        assert basis.rank <= 4
    close(basis.rows @ basis.rows.T, torch.eye(4), 1e-12)
    assert torch.linalg.vector_norm(basis.project(dominant)) / torch.linalg.vector_norm(dominant) > 0.99
    smaller = SubspaceBasis.from_state(basis.state_dict(), capacity=2)
    assert smaller.rank == 2
    close(
        smaller.energies,
        torch.linalg.eigvalsh(basis.energy).flip(0)[:2],
        1e-9,
    )


# --- one matrix


@pytest.mark.parametrize("dtype", TYPES)
def test_slmc_golden(golden: dict[str, Any], dtype: torch.dtype) -> None:
    case = golden["slmc"]
    basis = SubspaceBasis(6)
    long_term = torch.zeros(3, 2, dtype=dtype)
    refined = []
    for update in case["updates"]:
        refined.append(consolidate(torch.tensor(update, dtype=dtype), basis, case["theta"], case["lambda"]).refined)
        long_term += refined[-1]
    close(refined[0], torch.tensor(case["updates"][0]), EXACT[dtype])
    # 1.4 * 5/14 and the like are printed with eight decimals
    atol = max(EXACT[dtype], 5.1e-9)
    close(refined[1].flatten(), torch.tensor(case["refined_2"], dtype=torch.float64), EXACT[dtype])
    close(refined[2].flatten(), torch.tensor(case["refined_3"], dtype=torch.float64), atol)
    close(long_term.flatten(), torch.tensor(case["long_term_3"], dtype=torch.float64), atol)


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


def tasks_with_overlap(count: int, *shape: int) -> list[Tensor]:
    common = normal(1000, *shape)
    return [normal(i, *shape) + (i % 3) * common for i in range(count)]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_basis_equals_the_svd_of_the_history_over_six_tasks(lam: float) -> None:
    basis, oracle = SubspaceBasis(8 * 24), Oracle()
    for t, update in enumerate(tasks_with_overlap(6, 8, 24)):
        expected = oracle(update, 0.9, lam)
        got = consolidate(update, basis, 0.9, lam)
        scale = update.abs().max()
        assert ((got.refined - expected).abs().max() / scale).item() < 2e-15
        assert basis.rank == got.diagnostics["basis_rank"] == t + 1  # for lambda 0 and 1 too
    span = torch.linalg.svd(torch.stack(oracle.history), full_matrices=False)[2]
    close(basis.rows.T @ basis.rows, span.T @ span, 1e-12)


def test_lambda_one_is_no_projection_and_lambda_zero_leaves_the_past_alone() -> None:
    updates = tasks_with_overlap(4, 6, 10)
    free, frozen = SubspaceBasis(60), SubspaceBasis(60)
    history: list[Tensor] = []
    for update in updates:
        assert torch.equal(consolidate(update, free, 0.9, 1.0).refined, denoise(update, 0.9).update)
        refined = consolidate(update, frozen, 0.9, 0.0).refined.flatten()
        for past in history:
            assert abs(float(past @ refined)) < 1e-6 * float(past.norm() * refined.norm())
        history.append(refined)


def test_lambda_zero_with_a_repeated_update_adds_no_rounding_as_a_direction() -> None:
    basis = SubspaceBasis(12)
    update = normal(0, 3, 4)
    consolidate(update, basis, 1.0, 0.0)
    got = consolidate(2 * update, basis, 1.0, 0.0)
    assert basis.rank == 1
    assert got.refined.abs().max().item() < 1e-14
    assert got.diagnostics["overlap"] == pytest.approx(1.0, abs=1e-12)


def test_diagnostics_by_hand() -> None:
    """Past e1; update (3, 4, 0, 0), lambda .5: overlap 9/25, RSM (1.5, 4), kept sqrt(18.25)/5, chance 1/4."""
    basis = SubspaceBasis(4)
    basis.extend(torch.tensor([2.0, 0, 0, 0]))
    diagnostics = consolidate(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), basis, 0.9, 0.5).diagnostics
    assert diagnostics == pytest.approx(
        {
            "rank": 1,
            "energy_kept": 1.0,
            "overlap": 0.36,
            "chance_overlap": 0.25,
            "kept_ratio": math.sqrt(18.25) / 5,
            "basis_rank": 2,
            "update_norm": 5.0,
            "denoised_norm": 5.0,
            "refined_norm": math.sqrt(18.25),
        }
    )
    assert json.loads(json.dumps(diagnostics)) == diagnostics
    # The energies are those of the refined updates: 4 + 1.5^2 along e1, 4^2 along e2.
    close(basis.energies, torch.tensor([6.25, 16.0]), 1e-12)


def test_a_zero_update_changes_nothing() -> None:
    basis = SubspaceBasis(4)
    basis.extend(torch.tensor([1.0, 0, 0, 0]))
    for mode in ("history", "random", "shrink", "none"):
        got = consolidate(torch.zeros(2, 2), basis, 0.9, 0.5, mode, torch.Generator())
        assert torch.equal(got.refined, torch.zeros(2, 2)) and basis.rank == 1
        assert (got.diagnostics["overlap"], got.diagnostics["kept_ratio"], got.diagnostics["rank"]) == (0.0, 1.0, 0)


def test_the_controls() -> None:
    def run(mode: str, seed: int = 0) -> tuple[Tensor, dict[str, float | int]]:
        basis = SubspaceBasis(80)
        basis.extend(normal(1, 80))
        basis.extend(normal(2, 80))
        update = normal(3, 8, 10) + basis.rows.sum(0).view(8, 10) * 5
        generator = torch.Generator().manual_seed(seed)
        result = consolidate(update, basis, 0.9, 0.25, mode, generator)
        denoised = denoise(update, 0.9).update
        close(basis.project(result.refined.flatten()), result.refined.flatten(), 1e-12)  # it joined the history
        return result.refined - denoised, {
            **result.diagnostics,
            "cosine": float(torch.cosine_similarity(result.refined.flatten(), denoised.flatten(), 0)),
        }

    removed, history = run("history")
    assert torch.linalg.matrix_rank(removed) > 1 and history["overlap"] > 0.1
    nothing, none = run("none")
    assert torch.equal(nothing, torch.zeros(8, 10)) and none["overlap"] == history["overlap"]
    _, shrunk = run("shrink")
    assert shrunk["refined_norm"] == pytest.approx(history["refined_norm"], rel=1e-12)
    assert shrunk["cosine"] == pytest.approx(1.0, abs=1e-12) and history["cosine"] < 0.99
    some, random = run("random")
    again, _ = run("random")
    other, _ = run("random", seed=1)
    assert torch.equal(some, again) and not torch.equal(some, other)
    # A projection on two of 80 random directions takes 2/80 of the energy on average.
    taken = [float(run("random", s)[0].square().sum()) for s in range(300)]
    expected = (1 - 0.25) ** 2 * random["denoised_norm"] ** 2 * 2 / 80
    assert sum(taken) / 300 == pytest.approx(expected, rel=0.15)


# --- products


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


# --- whole adapters

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
