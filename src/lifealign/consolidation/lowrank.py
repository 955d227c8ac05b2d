"""Matrices that are products of thin factors, and consolidation on them without ever multiplying one out.

Shapes: dW [O, I] = b_OK @ a_KI, with K far below O and I; R the adapter's rank. All arithmetic is float64 on the CPU.
Inner products are traces of K x K matrices, singular values come from the QR factors and a K x K core: O(K^2 (O + I)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lifealign.consolidation.subspace import TOLERANCE, Projection, diagnose, energy_rank


class Product(NamedTuple):
    """The matrix b_OK @ a_KI."""

    b_OK: Tensor
    a_KI: Tensor


def combine(terms: Sequence[tuple[float, Product]]) -> Product:
    """The sum of c_i X_i as one product; its K is the sum of theirs."""
    return Product(torch.cat([c * x.b_OK for c, x in terms], 1), torch.cat([x.a_KI for _, x in terms], 0))


def difference(start: Product, now: Product) -> Product:
    """Now - start as dB A + B_start dA, without cancellation: exactly zero for an untouched adapter."""
    return Product(torch.cat([now.b_OK - start.b_OK, start.b_OK], 1), torch.cat([now.a_KI, now.a_KI - start.a_KI], 0))


def inner(x: Product, y: Product) -> float:
    """<X, Y> = trace(X^T Y), by K x K matrices."""
    return float(((x.b_OK.T @ y.b_OK) * (x.a_KI @ y.a_KI.T)).sum())


class Stack:
    """All combinations sum_i c_i X_i of some products, through one QR of all their factors.

    sum_i c_i X_i = Q_b C Q_a^T with orthonormal columns in Q_b [O, .] and Q_a [I, .]: the core C has the norm and the
    singular values of the sum. (The root of a trace would lose half of the digits where terms cancel.)
    """

    def __init__(self, pieces: Sequence[Product]) -> None:
        whole = combine([(1.0, x) for x in pieces])
        self.qb, self.rb = torch.linalg.qr(whole.b_OK)
        self.qa, self.ra = torch.linalg.qr(whole.a_KI.T)
        self.widths = torch.tensor([x.a_KI.shape[0] for x in pieces])

    def core(self, coefficients: Sequence[float]) -> Tensor:
        """The core C for one coefficient per piece."""
        c = torch.tensor(coefficients, dtype=torch.float64).repeat_interleave(self.widths)
        core: Tensor = (self.rb * c) @ self.ra.T
        return core

    def norm(self, coefficients: Sequence[float]) -> float:
        """Frobenius norm of the sum."""
        return float(torch.linalg.matrix_norm(self.core(coefficients)))

    def svd(self, coefficients: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Thin SVD of the sum: u_OK, singular_K (falling), v_KI."""
        u, singular, v = torch.linalg.svd(self.core(coefficients), full_matrices=False)
        return self.qb @ u, singular, v @ self.qa.T


def split(u_OK: Tensor, singular_K: Tensor, v_KI: Tensor) -> Product:
    """The matrix u diag(s) v as a balanced product: sqrt(s) goes into each factor."""
    root_K = singular_K.sqrt()
    return Product(u_OK * root_K, root_K[:, None] * v_KI)


def project(x: Product, history: Sequence[Product], tol: float = TOLERANCE) -> list[float]:
    """Coefficients c_i such that sum_i c_i H_i is the orthogonal projection of X on the span of the history.

    By the Gram matrix of the history scaled to unit length; singular values <= tol * largest are dropped.
    """
    if not history:
        return []
    gram = _gram([*history, x])
    target, gram = gram[:-1, -1], gram[:-1, :-1]
    length = gram.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    values, vectors = torch.linalg.eigh(gram / length[:, None] / length)
    keep = values > tol**2 * values[-1]
    along = (vectors[:, keep].T @ (target / length)) / values[keep]
    return [float(c) for c in (vectors[:, keep] @ along) / length]


def _gram(products: Sequence[Product]) -> Tensor:
    """All inner products <X_i, X_j> = trace(X_i^T X_j): sums over the blocks of one K x K matrix."""
    whole = combine([(1.0, x) for x in products])
    elements = (whole.b_OK.T @ whole.b_OK) * (whole.a_KI @ whole.a_KI.T)
    owner = torch.arange(len(products)).repeat_interleave(torch.tensor([x.a_KI.shape[0] for x in products]))
    member = torch.nn.functional.one_hot(owner, len(products)).double()
    return member.T @ elements @ member


class ConsolidatedProduct(NamedTuple):
    """Result of `consolidate_product`.

    Attributes:
        adapter: new factors b_OR, a_RI (unscaled: dW = scaling b a).
        history: the pieces that span the past, this task's included.
        diagnostics: see `adapter.consolidate`, and `truncation_error` = ||LM - LM_R|| / ||LM||.
    """

    adapter: Product
    history: tuple[Product, ...]
    diagnostics: dict[str, float | int]


def consolidate_product(
    start: Product,
    now: Product,
    history: Sequence[Product],
    theta: float,
    overlap_scale: float,
    *,
    scaling: float,
    generator: torch.Generator,
    projection: Projection = "history",
    capacity: int | None = None,
    tol: float = TOLERANCE,
) -> ConsolidatedProduct:
    """Short-to-long memory consolidation (arXiv 2509.17183) of one module in the space of dW = scaling b a.

    The history is kept as the DENOISED updates SM'_i. They span what the refined ones span: RSM_i is SM'_i plus
    something in the span of the earlier ones. An SM' that adds no direction is not kept.

    Args:
        start: factors before the task, b_OR [O, R] and a_RI [R, I].
        now: factors after the task.
        history: as the last call returned it.
        theta: share of the energy to keep, in (0, 1].
        overlap_scale: share kept of the part in the span of the past: 1 all, 0 nothing.
        scaling: alpha / r (or alpha / sqrt(r)). 0 < scaling.
        generator: for projection `random` and for the spare directions of the adapter.
        projection: `history`; or the controls of `adapter.consolidate`.
        capacity: most pieces to keep, those with the largest norm; None keeps all.
        tol: relative length below which an update counts as lying in the span of the past.

    Raises:
        torch.linalg.LinAlgError: an SVD did not converge.
    """
    eps = torch.finfo(now.b_OK.dtype).eps
    start = Product(scaling * start.b_OK.double(), start.a_KI.double())
    now = Product(scaling * now.b_OK.double(), now.a_KI.double())
    past = [Product(x.b_OK.double(), x.a_KI.double()) for x in history]
    u, singular, v = Stack([difference(start, now)]).svd([1.0])
    rank, energy = energy_rank(singular, theta, eps)
    denoised = split(u[:, :rank], singular[:rank], v[:rank])
    size = float(torch.linalg.vector_norm(singular[:rank]))

    stack, inside, outside, terms = _refine(start, denoised, past, overlap_scale, projection, tol, generator)
    numbers = diagnose(
        rank,
        energy,
        float(torch.linalg.vector_norm(singular)),
        size,
        inside,
        stack.norm([0.0, *terms]),
        len(past),
        start.b_OK.shape[0] * start.a_KI.shape[1],
    )
    adapter, truncated = truncate(stack.svd([1.0, *terms]), start.a_KI.shape[0], scaling, generator)
    if outside > tol * size:
        past.append(denoised)
    past = _largest(past, capacity)
    return ConsolidatedProduct(adapter, tuple(past), {**numbers, "basis_rank": len(past), **truncated})


def history_of(steps: Sequence[Sequence[Product]], capacity: int | None = None) -> list[Product]:
    """The history that spans the changes of dW in given steps, as `consolidate_product` takes it.

    Args:
        steps: dW before and after each step, as scaled float64 products.
        capacity: most pieces to keep, those with the largest norm; None keeps all.
    """
    past: list[Product] = []
    for before, after in steps:
        change = difference(before, after)
        u, singular, v = Stack([change]).svd([1.0])
        size = float(torch.linalg.vector_norm(singular))
        # Stored factors are float32, so a product is exact to about 1e-7 of its size, and a difference no better.
        rounding = 4 * torch.finfo(torch.float32).eps * math.sqrt(max(inner(after, after), 0.0))
        if size <= rounding:
            continue
        rank, _ = energy_rank(singular, 1.0, torch.finfo(torch.float32).eps)
        piece, tol = split(u[:, :rank], singular[:rank], v[:rank]), max(TOLERANCE, rounding / size)
        along = project(piece, past, tol)
        if Stack([piece, *past]).norm([1.0, *(-c for c in along)]) > tol * size:
            past = _largest([*past, piece], capacity)
    return past


def _largest(pieces: list[Product], capacity: int | None) -> list[Product]:
    """The pieces with the largest norm, in their order; None: all."""
    if capacity is None or len(pieces) <= capacity:
        return pieces
    kept = torch.argsort(_gram(pieces).diagonal(), stable=True)[-capacity:]
    return [pieces[int(i)] for i in kept.sort().values]


def _refine(
    start: Product,
    denoised: Product,
    past: Sequence[Product],
    overlap_scale: float,
    projection: Projection,
    tol: float,
    generator: torch.Generator,
) -> tuple[Stack, float, float, list[float]]:
    """Stack [start, SM', past, decoys]; ||SM_p||; ||SM_o||; and RSM as coefficients of the stack after start."""
    along = project(denoised, past, tol)
    decoys = [_gaussian_like(h, generator) for h in past] if projection == "random" else []
    stack = Stack([start, denoised, *past, *decoys])
    nothing = [0.0] * len(decoys)
    inside = stack.norm([0.0, 0.0, *along, *nothing])
    outside = stack.norm([0.0, 1.0, *(-c for c in along), *nothing])
    terms = [1.0, *([0.0] * len(past)), *nothing]
    if projection == "history":
        terms = [1.0, *(-(1 - overlap_scale) * c for c in along)]
    elif projection == "random":
        terms[1 + len(past) :] = [-(1 - overlap_scale) * c for c in project(denoised, decoys, tol)]
    elif projection == "shrink":
        size = stack.norm([0.0, *terms])
        terms[0] = math.hypot(outside, overlap_scale * inside) / size if size else 1.0
    return stack, inside, outside, terms


def _gaussian_like(x: Product, generator: torch.Generator) -> Product:
    draws = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in x]
    return Product(*draws)


def truncate(
    long_term: tuple[Tensor, Tensor, Tensor], rank: int, scaling: float, generator: torch.Generator
) -> tuple[Product, dict[str, float]]:
    """The best balanced product of a rank, unscaled, and the error of the truncation.

    Args:
        long_term: SVD of dW = scaling b a: u_OK, singular_K (falling), v_KI, float64.
        rank: of the result, R.
        scaling: alpha / r. 0 < scaling.
        generator: for the spare directions.

    Returns:
        b_OR and a_RI; `truncation_error` = ||dW - dW_R|| / ||dW|| (0 for a zero dW) and `long_term_norm` = ||dW||.
    """
    u, singular, v = long_term
    total = float(torch.linalg.vector_norm(singular))
    error = float(torch.linalg.vector_norm(singular[rank:])) / total if total else 0.0
    # float32 cannot tell directions below this from rounding; sqrt(s) in both factors would make them dead weight.
    live = int((singular[:rank] > 1e-7 * total).sum())
    b_OK, a_KI = split(u[:, :live], singular[:live] / scaling, v[:live])
    # A direction that is zero in both factors never gets a gradient again. Spare ones start like a fresh LoRA's: b = 0
    # and a uniform in +-1/sqrt(I), which leaves the product as it is.
    spare, width = rank - live, v.shape[1]
    fresh = (2 * torch.rand(spare, width, generator=generator, dtype=torch.float64) - 1) / math.sqrt(width)
    b_OR = torch.cat([b_OK, torch.zeros(b_OK.shape[0], spare, dtype=torch.float64)], 1)
    return Product(b_OR, torch.cat([a_KI, fresh], 0)), {"truncation_error": error, "long_term_norm": total}
