"""Directions of a module's inputs that belong to earlier tasks (DualGPM), and those that a new adapter may read.

Shapes: I inputs of a module, K kept directions, R rank. Float64 on the CPU.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

NOISE = 1e-6
"""Singular values below this share of ||C||_F are rounding of a basis in float32, not directions of inputs."""


Energy = Literal["squared", "plain"]
"""What the threshold counts of C, the moment of the inputs; see `protect`."""


class Basis(NamedTuple):
    """Inputs that a module's new adapters may not read (DualGPM, Liang & Li 2023), as the smaller of two complements.

    Attributes:
        vectors_IK: orthonormal columns, K <= I / 2.
        kind: `remove`: they span the inputs of earlier tasks. `retain`: they span all the rest.
    """

    vectors_IK: Tensor
    kind: Literal["remove", "retain"]

    def free(self, x_IJ: Tensor) -> Tensor:
        """The part of the columns of x that lies outside the inputs of earlier tasks."""
        inside = self.vectors_IK @ (self.vectors_IK.T @ x_IJ)
        return x_IJ - inside if self.kind == "remove" else inside

    @property
    def protected(self) -> int:
        """Dimensions that belong to earlier tasks."""
        inputs, kept = self.vectors_IK.shape
        return kept if self.kind == "remove" else inputs - kept


def nothing(inputs: int) -> Basis:
    """The basis before any task."""
    return Basis(torch.zeros(inputs, 0, dtype=torch.float64), "remove")


def reading(moment_II: Tensor, basis: Basis, rank: int) -> Tensor:
    """A_t [R, I]: the first left singular vectors of C' = free(C), over sqrt(3); zero rows where C' has no more directions.

    Args:
        moment_II: C, the mean of x x^T over the new task's inputs, float64.
        basis: of the earlier tasks.
        rank: R.
    """
    free_II = basis.free(moment_II)
    values, vectors = torch.linalg.eigh(free_II @ free_II.T)  # left singular vectors; the values squared
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    found = values > (NOISE * torch.linalg.matrix_norm(moment_II)) ** 2
    a_RI = torch.zeros(rank, len(moment_II), dtype=torch.float64)
    a_RI[: vectors.shape[1]] = (vectors * found).T / math.sqrt(3)
    return a_RI


def share_read(a_RI: Tensor, moment_II: Tensor) -> float:
    """Share of the inputs' energy tr C in the span of an A with orthogonal rows of one length; 0 to 1.

    It is what the adapter can see of a task: at equal B, its output has this share of what all inputs would give.
    """
    rows_RI = a_RI.double() * math.sqrt(3)
    return float(((rows_RI @ moment_II) * rows_RI).sum() / moment_II.trace())


def protect(moment_II: Tensor, basis: Basis, threshold: float, energy: Energy) -> Basis:
    """The basis after a task: add the fewest directions, largest first, that protect `threshold` of the inputs' energy.

    `squared` is the criterion of the authors' code: the squared singular values of C, and of free(C) for what is added.
    `plain` measures tr C, the energy of the inputs themselves, whose squared singular values are C's eigenvalues. Where one
    direction holds most of the energy, as in language models, their counts differ by far: eigenvalues 9, 1, 1, 1 are 0.75
    of tr C and 0.96 of ||C||^2 in the first.
    """
    inputs = len(moment_II)
    free_II = basis.free(moment_II)
    if energy == "squared":
        matrix_II, total = free_II @ free_II.T, float(moment_II.square().sum())
    else:
        matrix_II, total = basis.free(free_II.T), float(moment_II.trace())
    energies, vectors = torch.linalg.eigh(matrix_II)
    energies, vectors = energies.flip(0).clamp(min=0) / total, vectors.flip(1)
    share = 1 - energies.sum() + torch.cat([energies.new_zeros(1), energies.cumsum(0)])
    more = int((share < threshold - 1e-9).sum())
    if basis.kind == "remove":
        q = torch.linalg.qr(torch.cat([basis.vectors_IK, vectors[:, :more]], 1), mode="complete")[0]
        kept = basis.vectors_IK.shape[1] + more
        return Basis(q[:, :kept], "remove") if kept <= inputs / 2 else Basis(q[:, kept:], "retain")
    q = torch.linalg.qr(basis.vectors_IK.T @ vectors[:, :more], mode="complete")[0]
    return Basis(basis.vectors_IK @ q[:, more:], "retain")
