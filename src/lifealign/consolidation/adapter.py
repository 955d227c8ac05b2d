"""Short-to-long memory consolidation (SLMC, LifeAlign, arXiv 2509.17183): PURE functions of tensors, on the CPU.

After a task, the short-term memory SM (what training changed) becomes a refined update RSM, and the long-term memory
grows by it. Per matrix: denoise (low-rank part of SM), project (the part along earlier refined updates), refine (scale
that part by lambda). See docs/explanation/consolidation.md.

Shapes: m x n one matrix; N = m n its entries, flattened row by row; K directions of the past. Arithmetic is float64;
between tasks the state is kept in float32, as the weights are. LoRA: dW [O, I] = scaling B_OR A_RI.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lifealign.consolidation.lowrank import Product, consolidate_product, history_of
from lifealign.consolidation.subspace import (
    TOLERANCE,
    Denoised,
    Projection,
    SubspaceBasis,
    check_weights,
    denoise,
    diagnose,
)
from lifealign.core.config import Frozen
from lifealign.core.errors import ConfigError

__all__ = [
    "Consolidated",
    "ConsolidatedAdapter",
    "ConsolidationConfig",
    "Denoised",
    "SubspaceBasis",
    "consolidate",
    "consolidate_adapter",
    "denoise",
    "state_of",
    "summed",
]

Diagnostics = dict[str, float | int]


class Consolidated(NamedTuple):
    """Result of `consolidate`.

    Attributes:
        refined: RSM, [m, n], in the type of the update.
        diagnostics: plain numbers, see `consolidate`.
    """

    refined: Tensor
    diagnostics: Diagnostics


def consolidate(
    update: Tensor,
    basis: SubspaceBasis,
    theta: float,
    overlap_scale: float,
    projection: Projection = "history",
    generator: torch.Generator | None = None,
) -> Consolidated:
    """Denoise, project and refine one matrix's update; the basis grows by the result.

    RSM = SM' - (1 - overlap_scale) SM_p: overlap_scale 1 changes nothing, 0 removes the part along the past's directions.

    Diagnostics: `rank` and `energy_kept` of the denoising; `overlap` = ||SM_p||^2 / ||SM'||^2 with the history,
    whatever the projection, and `chance_overlap` = K / (m n), its mean for a random direction;
    `kept_ratio` = ||RSM|| / ||SM||; `basis_rank` after this update; the norms `update_norm` (SM), `denoised_norm` (SM')
    and `refined_norm` (RSM).

    Args:
        update: SM, [m, n], float32 or float64.
        basis: of vectors of m n entries; extended in place.
        theta: share of the energy to keep, in (0, 1].
        overlap_scale: in [0, 1]. Not used by `none`.
        projection: `history`; or a control: `random` projects on a random subspace of the same dimension, `shrink`
            scales SM' to the norm that `history` would give, `none` only denoises.
        generator: required by `random`, otherwise not used.

    Raises:
        ValueError: an argument out of range.
        TypeError: an update that is not float32 or float64.
        TrainingError: values that are not finite.
        torch.linalg.LinAlgError: the SVD did not converge.
    """
    if not 0 <= overlap_scale <= 1:
        raise ValueError(f"overlap_scale must be in [0, 1], got {overlap_scale}")
    if basis.n != update.numel():
        raise ValueError(f"the basis has vectors of {basis.n} entries, but the update has {update.numel()}")
    kept = denoise(update, theta)
    denoised = kept.update.double().flatten()
    inside = basis.project(denoised)
    refined = _refine(denoised, inside, overlap_scale, projection, basis, generator)
    diagnostics = diagnose(
        kept.rank,
        kept.energy_kept,
        _norm(update.double()),
        _norm(denoised),
        _norm(inside),
        _norm(refined),
        basis.rank,
        basis.n,
    )
    # Beyond the past, SM' and RSM span the same, but RSM may be only rounding there (lambda 0), so SM' decides.
    basis.extend(refined if projection == "random" else denoised, member=refined)
    return Consolidated(refined.view_as(update).to(update.dtype), {**diagnostics, "basis_rank": basis.rank})


def _refine(
    denoised: Tensor,
    inside: Tensor,
    overlap_scale: float,
    projection: Projection,
    basis: SubspaceBasis,
    generator: torch.Generator | None,
) -> Tensor:
    """RSM [N] of SM' [N] and its part in the span of the past."""
    match projection:
        case "history":
            return denoised - (1 - overlap_scale) * inside
        case "random":
            if generator is None:
                raise ValueError("projection random needs a generator")
            return denoised - (1 - overlap_scale) * _random_basis(basis, generator).project(denoised)
        case "shrink":
            size = _norm(denoised)
            wanted = math.hypot(_norm(denoised - inside), overlap_scale * _norm(inside))
            return denoised * (wanted / size if size else 1.0)
        case "none":
            return denoised
        case _:
            raise ValueError(f"projection must be history, random, shrink or none, got {projection!r}")


def _norm(tensor: Tensor) -> float:
    """Frobenius norm."""
    return float(torch.linalg.vector_norm(tensor))


def _random_basis(like: SubspaceBasis, generator: torch.Generator) -> SubspaceBasis:
    basis = SubspaceBasis(like.n)
    draws = torch.randn(like.n, like.rank, generator=generator, dtype=torch.float64)
    basis.rows = torch.linalg.qr(draws)[0].T
    return basis


class ConsolidationConfig(Frozen):
    """Options of the consolidation; the Config of the strategy that consolidates inherits from it."""

    space: Literal["factors", "delta_w"] = "factors"
    """`factors`: every A and every B by itself (paper). `delta_w`: each module's dW = (alpha/r) B A."""
    theta: float = Field(0.9, gt=0, le=1)
    """Share of an update's energy that denoising keeps. 0 < theta <= 1."""
    overlap_scale: float | None = Field(None, ge=0, le=1)
    """Lambda: share kept of an update's part along the past. 0 <= overlap_scale <= 1. 0.5; projection none has none."""
    projection: Projection = "history"
    """`history` (paper), or a control: `random` subspace, `shrink` to the same norm, `none` (denoise only)."""
    basis_capacity: int | None = Field(None, ge=1)
    """Directions of the past kept per matrix, the most energetic; None: all. 1 <= basis_capacity."""

    @model_validator(mode="before")
    @classmethod
    def _fill_lambda(cls, values: Any) -> Any:
        if (
            not isinstance(values, Mapping)
            or values.get("overlap_scale") is not None
            or values.get("projection") == "none"
        ):
            return values
        return {**values, "overlap_scale": 0.5}

    @model_validator(mode="after")
    def _refuse_foreign_lambda(self) -> ConsolidationConfig:
        if self.projection == "none" and self.overlap_scale is not None:
            raise ValueError(f"projection none reads no overlap_scale, got {self.overlap_scale}; leave it out")
        return self


class ConsolidatedAdapter(NamedTuple):
    """Result of `consolidate_adapter`.

    Attributes:
        adapter: long-term weights, float32, same names and shapes as before.
        state: named tensors for the next task, float32.
        diagnostics: {"matrices": {name: numbers}, "summed": numbers}, JSON-able.
    """

    adapter: dict[str, Tensor]
    state: dict[str, Tensor]
    diagnostics: dict[str, Any]


def consolidate_adapter(
    start: Mapping[str, Tensor],
    now: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    config: ConsolidationConfig,
    *,
    scaling: float,
    seed: int,
    task_index: int,
) -> ConsolidatedAdapter:
    """Consolidate every matrix of an adapter, one at a time.

    Args:
        start: weights before the task, `<module>.lora_A` [R, I] and `<module>.lora_B` [O, R].
        now: weights after it, same names and shapes.
        state: as the last call returned it; empty before the first task.
        config: the options.
        scaling: alpha / r; read by space `delta_w`.
        seed: of the run.
        task_index: 0-based number of the task in the memory's life.

    Raises:
        ValueError: names or shapes differ.
        ConfigError: the state belongs to another space.
        TrainingError: weights that are not finite.
    """
    if {k: v.shape for k, v in start.items()} != {k: v.shape for k, v in now.items()}:
        raise ValueError("the adapter's names or shapes changed during the task")
    for name, tensor in now.items():
        check_weights(tensor, name)
    if foreign := [key for key in state if (".history." in key) != (config.space == "delta_w")]:
        raise ConfigError(f"space {config.space}: the memory was consolidated in the other space ({foreign[0]})")

    adapter: dict[str, Tensor] = {}
    grown: dict[str, Tensor] = {}
    matrices: dict[str, Diagnostics] = {}
    step = _step_delta_w if config.space == "delta_w" else _step_factors
    units = sorted({k.rpartition(".")[0] for k in now} if config.space == "delta_w" else now)
    for name in units:
        generator = torch.Generator().manual_seed(_matrix_seed(seed, task_index, name))
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        weights, memory, matrices[name] = step(name, start, now, own, config, scaling, generator)
        adapter |= {k: v.to(now[k].dtype).contiguous() for k, v in weights.items()}
        grown |= {f"{name}.{k}": v.float().contiguous() for k, v in memory.items()}
    return ConsolidatedAdapter({k: adapter[k] for k in now}, grown, {"matrices": matrices, "summed": summed(matrices)})


_Step = tuple[dict[str, Tensor], dict[str, Tensor], Diagnostics]
_Weights = Mapping[str, Tensor]


def _step_factors(
    name: str,
    start: _Weights,
    now: _Weights,
    state: _Weights,
    config: ConsolidationConfig,
    scaling: float,
    generator: torch.Generator,
) -> _Step:
    update = now[name].detach().cpu().double() - start[name].detach().cpu().double()
    if state:
        basis = SubspaceBasis.from_state(state, config.basis_capacity)
    else:
        basis = SubspaceBasis(update.numel(), config.basis_capacity)
    overlap_scale = 1.0 if config.overlap_scale is None else config.overlap_scale
    result = consolidate(update, basis, config.theta, overlap_scale, config.projection, generator)
    memory = basis.state_dict() if basis.rank else {}
    return {name: start[name].detach().cpu().double() + result.refined}, memory, result.diagnostics


def _step_delta_w(
    name: str,
    start: _Weights,
    now: _Weights,
    state: _Weights,
    config: ConsolidationConfig,
    scaling: float,
    generator: torch.Generator,
) -> _Step:
    a, b = f"{name}.lora_A", f"{name}.lora_B"
    pieces = sorted({k.rpartition(".")[0] for k in state})
    result = consolidate_product(
        Product(start[b].detach().cpu(), start[a].detach().cpu()),
        Product(now[b].detach().cpu(), now[a].detach().cpu()),
        [Product(state[f"{piece}.B"], state[f"{piece}.A"]) for piece in pieces],
        config.theta,
        1.0 if config.overlap_scale is None else config.overlap_scale,
        scaling=scaling,
        generator=generator,
        projection=config.projection,
        capacity=config.basis_capacity,
    )
    memory = _history_state(result.history)
    return {a: result.adapter.a_KI, b: result.adapter.b_OK}, memory, result.diagnostics


def state_of(
    steps: Sequence[tuple[_Weights, _Weights]], config: ConsolidationConfig, *, scaling: float
) -> dict[str, Tensor]:
    """The state that spans given updates alone, such as those that are left when another one was taken out.

    It is spanned anew, because a direction that came in with one update may be needed by a later one, which added none
    of its own. An update that is only rounding beside its weights spans nothing.

    Args:
        steps: weights before and after each update, in the order of the updates.
        config: the options that the updates were consolidated with.
        scaling: alpha / r; read by space `delta_w`.
    """
    state: dict[str, Tensor] = {}
    names = list(steps[0][1]) if steps else []
    for name in sorted({k.rpartition(".")[0] for k in names} if config.space == "delta_w" else names):
        if config.space == "delta_w":
            a, b = f"{name}.lora_A", f"{name}.lora_B"
            products = [[Product(scaling * w[b].double(), w[a].double()) for w in step] for step in steps]
            kept = _history_state(history_of(products, config.basis_capacity))
        else:
            kept = _basis_of([(before[name], after[name]) for before, after in steps], config.basis_capacity)
        state |= {f"{name}.{k}": v.float().contiguous() for k, v in kept.items()}
    return state


def _basis_of(steps: Sequence[tuple[Tensor, Tensor]], capacity: int | None) -> dict[str, Tensor]:
    basis = SubspaceBasis(steps[0][1].numel(), capacity)
    for before, after in steps:
        update = after.double().flatten() - before.double().flatten()
        rounding = 4 * torch.finfo(after.dtype).eps * _norm(after.double())  # stored weights, and so their difference
        if _norm(update) > rounding:
            basis.tol = max(TOLERANCE, rounding / _norm(update))
            basis.extend(update)
    return basis.state_dict() if basis.rank else {}


def _history_state(history: Sequence[Product]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for i, piece in enumerate(history):
        state |= {f"history.{i:05d}.B": piece.b_OK, f"history.{i:05d}.A": piece.a_KI}
    return state


def _matrix_seed(seed: int, task_index: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{task_index}/{name}".encode()).digest()[:8], "big") >> 1


def summed(matrices: Mapping[str, Diagnostics]) -> Diagnostics:
    """One set of diagnostics for all matrices: ranks are means, shares are shares of the summed squared norms."""

    def total(key: str, value: Callable[[Diagnostics], float] = lambda d: 1.0) -> float:
        return sum(float(d[key]) ** 2 * value(d) for d in matrices.values())

    def mean(key: str) -> float:
        return sum(float(d[key]) for d in matrices.values()) / max(1, len(matrices))

    update, denoised, refined = total("update_norm"), total("denoised_norm"), total("refined_norm")
    out: Diagnostics = {
        "matrices": len(matrices),
        "rank_kept": mean("rank"),
        "basis_rank": mean("basis_rank"),
        "energy_kept": denoised / update if update else 1.0,
        "overlap": total("denoised_norm", lambda d: d["overlap"]) / denoised if denoised else 0.0,
        "chance_overlap": total("denoised_norm", lambda d: d["chance_overlap"]) / denoised if denoised else 0.0,
        "kept_ratio": math.sqrt(refined / update) if update else 1.0,
        "update_norm": math.sqrt(update),
        "denoised_norm": math.sqrt(denoised),
        "refined_norm": math.sqrt(refined),
    }
    if any("truncation_error" in d for d in matrices.values()):
        long_term = total("long_term_norm")
        error = total("long_term_norm", lambda d: float(d["truncation_error"]) ** 2)
        out["truncation_error"] = math.sqrt(error / long_term) if long_term else 0.0
    return out
