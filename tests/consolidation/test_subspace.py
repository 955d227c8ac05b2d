"""Denoising, the basis, and SLMC of one matrix: golden numbers, hand-derived cases and an oracle that keeps the history."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.consolidation.adapter import (
    SubspaceBasis,
    consolidate,
    denoise,
)
from lifealign.core.errors import TrainingError
from support.consolidation import Oracle, close, normal
from support.golden import golden_numbers

TYPES = [torch.float32, torch.float64]
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_numbers("consolidation")  # type: ignore[no-any-return]


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
    with pytest.raises(ValueError, match="basis has vectors of 5"):
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
