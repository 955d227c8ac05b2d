"""Denoising and the orthonormal basis of the past: the parts of the consolidation of one matrix.

Shapes: m x n one matrix, flattened to a vector of its entries; K directions of the past. Arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lifealign.core.errors import TrainingError

Projection = Literal["history", "random", "shrink", "none"]

TOLERANCE = 1e-6
"""Relative length under which a residual is rounding, not a direction. Weights are float32 (1.2e-7 relative)."""


def check_weights(tensor: Tensor, name: str) -> None:
    """Refuse weights that an SVD cannot handle.

    Raises:
        TypeError: not float32 or float64.
        TrainingError: an infinite or undefined entry.
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: consolidation works in float32 or float64, got {tensor.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise TrainingError(f"{name}: the update has values that are not finite; the task cannot be consolidated")


def energy_rank(singular_K: Tensor, theta: float, eps: float) -> tuple[int, float]:
    """Smallest k whose share of the energy sum_{i<=k} s_i^2 / sum s_i^2 reaches theta, and that share.

    Args:
        singular_K: singular values, falling, [K].
        theta: in (0, 1]; 1 keeps every direction that is not rounding.
        eps: machine epsilon of the type the matrix came in; a share short of theta by a few of it reaches theta.
    """
    if not 0 < theta <= 1:
        raise ValueError(f"theta must be in (0, 1], got {theta}")
    cumulative_K = torch.cumsum(singular_K.double() ** 2, 0)
    if cumulative_K.numel() == 0 or cumulative_K[-1] == 0:
        return 0, 1.0
    if theta == 1:
        return int((singular_K > singular_K[0] * eps * 16).sum()), 1.0
    share_K = cumulative_K / cumulative_K[-1]
    rank = int((share_K < theta - 16 * eps).sum()) + 1
    return rank, float(share_K[rank - 1])


class Denoised(NamedTuple):
    """Result of `denoise`.

    Attributes:
        update: SM', [m, n], in the type of the input.
        rank: directions kept; 0 for a zero update.
        energy_kept: share of the squared norm kept, in [theta, 1]; 1 for a zero update.
    """

    update: Tensor
    rank: int
    energy_kept: float


def denoise(update: Tensor, theta: float) -> Denoised:
    """Keep the smallest number of singular directions that carry a share theta of the energy (squared norm).

    Args:
        update: SM, [m, n], float32 or float64.
        theta: in (0, 1]. 1 returns the update unchanged.

    Raises:
        ValueError: theta out of range, or not a matrix.
        TypeError: an update that is not float32 or float64.
        TrainingError: values that are not finite.
        torch.linalg.LinAlgError: the SVD did not converge.
    """
    if update.ndim != 2:
        raise ValueError(f"an update must be a matrix, got shape {tuple(update.shape)}")
    check_weights(update, "update")
    u, singular, v = torch.linalg.svd(update.double(), full_matrices=False)
    rank, energy = energy_rank(singular, theta, torch.finfo(update.dtype).eps)
    if theta == 1 or rank == singular.numel():
        return Denoised(update.clone(), rank, 1.0)
    return Denoised(((u[:, :rank] * singular[:rank]) @ v[:rank]).to(update.dtype), rank, energy)


class SubspaceBasis:
    """Orthonormal basis of the span of the earlier refined updates of one matrix, grown one direction at a time.

    `energy` [K, K] = sum_t c_t c_t^T, where c_t are the coordinates of history row t in the basis. Over `capacity`, the
    basis is turned to the eigenvectors of `energy`, and the directions with the smallest eigenvalues are dropped with
    their energy: of all subspaces of that dimension, the rest keeps most of the history's squared norm. Without a
    capacity no direction is ever turned or dropped.

    Attributes:
        n: length of the vectors.
        capacity: directions at most; None: no limit.
        tol: a vector whose residual is <= tol times its norm spans nothing new.
        rows: [K, n], orthonormal, float64.
        energy: [K, K], float64.
    """

    def __init__(self, n: int, capacity: int | None = None, tol: float = TOLERANCE) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.n, self.capacity, self.tol = n, capacity, tol
        self.rows = torch.zeros(0, n, dtype=torch.float64)
        self.energy = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def rank(self) -> int:
        """Number of directions K."""
        return self.rows.shape[0]

    @property
    def energies(self) -> Tensor:
        """Squared norm of the history along each direction, [K]."""
        return self.energy.diagonal().clone()

    def project(self, v: Tensor) -> Tensor:
        """The part of v [n] in the span, [n], in v's type."""
        w = v.double()
        return (self.rows.T @ (self.rows @ w)).to(v.dtype)

    def extend(self, v: Tensor, member: Tensor | None = None) -> bool:
        """Add the direction of v's part outside the span; False if that part is negligible.

        Args:
            v: [n].
            member: the history row whose energy is counted, in the span of the basis and v; v itself by default.
        """
        w = v.double()
        row = w if member is None else member.double()
        residual = w - self.project(w)
        length = torch.linalg.vector_norm(residual)
        new = bool(length > self.tol * torch.linalg.vector_norm(w))
        if new:
            residual = residual / length
            residual = residual - self.project(residual)  # twice is enough (Kahan, in Parlett 1998, section 6.9)
            self.rows = torch.cat([self.rows, (residual / torch.linalg.vector_norm(residual))[None]])
            self.energy = torch.nn.functional.pad(self.energy, (0, 1, 0, 1))
        coordinates = self.rows @ row
        self.energy = self.energy + torch.outer(coordinates, coordinates)
        self._enforce_capacity()
        return new

    def _enforce_capacity(self) -> None:
        if self.capacity is None or self.rank <= self.capacity:
            return
        values, vectors = torch.linalg.eigh(self.energy)
        rows = vectors[:, -self.capacity :].flip(1).T @ self.rows
        # QR restores the orthogonality lost to rounding; it may flip a row's sign, which no use of the basis depends on.
        self.rows = torch.linalg.qr(rows.T)[0].T.contiguous()
        self.energy = torch.diag(values[-self.capacity :].flip(0))

    def state_dict(self) -> dict[str, Tensor]:
        """`rows` and `energy`."""
        return {"rows": self.rows, "energy": self.energy}

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], capacity: int | None = None, tol: float = TOLERANCE
    ) -> SubspaceBasis:
        """Make a basis from its `state_dict`; a smaller capacity is applied at once."""
        basis = cls(state["rows"].shape[1], capacity, tol)
        basis.rows, basis.energy = state["rows"].double(), state["energy"].double()
        basis._enforce_capacity()
        return basis


def diagnose(
    rank: int,
    energy_kept: float,
    update: float,
    denoised: float,
    inside: float,
    refined: float,
    history_rank: int,
    size: int,
) -> dict[str, float | int]:
    """Diagnostics of one matrix from its norms; each is explained in `adapter.consolidate`."""
    return {
        "rank": rank,
        "energy_kept": energy_kept,
        "overlap": (inside / denoised) ** 2 if denoised else 0.0,
        "chance_overlap": min(1.0, history_rank / size),
        "kept_ratio": refined / update if update else 1.0,
        "update_norm": update,
        "denoised_norm": denoised,
        "refined_norm": refined,
    }
