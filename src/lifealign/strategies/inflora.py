"""InfLoRA (Liang & Li 2024, arXiv 2404.00228): adapters that read nothing of what earlier tasks put in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.losses import ObjectiveConfig
from lifealign.strategies.base import History
from lifealign.strategies.growing import Growing
from lifealign.tasks import Task

NOISE = 1e-6
"""Singular values below this share of ||C||_F are rounding of a basis in float32, not directions of inputs."""


class Basis(NamedTuple):
    """What a module's new adapters may not read, by DualGPM (Liang & Li 2023): the smaller of two complements is kept.

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


def protect(moment_II: Tensor, basis: Basis, threshold: float) -> Basis:
    """The basis after a task: the fewest directions more with which `threshold` of the inputs' energy tr C is protected.

    DualGPM's criterion (InfLoRA, appendix) on the inputs themselves: their squared singular values are C's eigenvalues.
    """
    inputs = len(moment_II)
    total = float(moment_II.trace())
    energy, vectors = torch.linalg.eigh(basis.free(basis.free(moment_II).T))
    energy, vectors = energy.flip(0).clamp(min=0) / total, vectors.flip(1)
    share = 1 - energy.sum() + torch.cat([energy.new_zeros(1), energy.cumsum(0)])
    more = int((share < threshold - 1e-9).sum())
    if basis.kind == "remove":
        q = torch.linalg.qr(torch.cat([basis.vectors_IK, vectors[:, :more]], 1), mode="complete")[0]
        kept = basis.vectors_IK.shape[1] + more
        return Basis(q[:, :kept], "remove") if kept <= inputs / 2 else Basis(q[:, kept:], "retain")
    q = torch.linalg.qr(basis.vectors_IK.T @ vectors[:, :more], mode="complete")[0]
    return Basis(basis.vectors_IK @ q[:, more:], "retain")


class InfLora(Growing):
    """A_t is set once, from the task's inputs less what earlier tasks put in, and only B_t is trained; A_1 .. B_{t-1} stay.

    Adapted: the paper trains image classifiers; here it is the preference loss (and that of an SFT stage), the inputs are
    those of all tokens of prompts and both answers, and any module may be adapted (the paper: k and v). DualGPM counts the
    energy of the inputs, as in the paper; the authors' code squares C's eigenvalues once more. Beyond `tasks` tasks the
    threshold stays at `lame`; where the basis leaves fewer than r directions the other rows of A_t are zero.
    Kept: the adapters of all tasks, t n, and at most I / 2 columns of length I per module. Cost: 1 + t r columns more in
    each adapted module; twice a task, a forward of its rows and an eigendecomposition [I, I] per module.
    """

    class Config(ObjectiveConfig):
        """Objective and what DualGPM protects."""

        lamb: float = Field(0.95, gt=0, le=1)
        """Share of the inputs' energy that is protected after the first task. 0 < lamb <= lame."""
        lame: float = Field(1.0, gt=0, le=1)
        """The share it grows to, after `tasks` tasks. lamb <= lame <= 1."""
        tasks: int = Field(10, ge=1)
        """Tasks over which the share grows, linearly. 1 <= tasks."""

        @model_validator(mode="after")
        def _grows(self) -> InfLora.Config:
            if self.lamb > self.lame:
                raise ValueError(f"lamb {self.lamb} must not be above lame {self.lame}")
            return self

    def __post_init__(self) -> None:
        super().__post_init__()
        self._reading: dict[str, Tensor] = {}
        self._bases: dict[str, Basis] = {}

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """The adapter, its A frozen."""
        model = super().attach(base)
        for parameter in _readers(model).values():
            parameter.requires_grad_(False)
        return model

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Set A_t from the task's rows, as the model sees them before it learns them."""
        super().begin_task(model, task, history)
        self._reading = {name: p.detach().cpu().clone() for name, p in _readers(model).items()}
        for name, moment_II in self.view.input_moments(task.train).items():
            a_RI = reading(moment_II, self._basis(name, len(moment_II)), self.lora.r)
            self._reading[f"{name}.lora_A"] = a_RI.float()
        self._place(model)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Protect the task's inputs, as the model sees them now."""
        c = self.config
        threshold = min(c.lame, c.lamb + (c.lame - c.lamb) * len(history.tasks) / c.tasks)
        for name, moment_II in self.view.input_moments(task.train).items():
            basis = protect(moment_II, self._basis(name, len(moment_II)), threshold)
            self._bases[name] = Basis(basis.vectors_IK.float().contiguous(), basis.kind)
        shares = [b.protected / len(b.vectors_IK) for b in self._bases.values()]
        return {
            "threshold": threshold,
            "protected_share": sum(shares) / max(len(shares), 1),
            "protected": {name: b.protected for name, b in self._bases.items()},
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The products of earlier tasks, A_t, and the bases."""
        state = super().state_dict() | {f"reading/{name}": a for name, a in self._reading.items()}
        return state | {f"{b.kind}/{name}": b.vectors_IK for name, b in self._bases.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        super().load_state_dict(state)
        self._reading, self._bases = {}, {}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind == "reading":
                self._reading[name] = tensor
            elif kind in ("remove", "retain"):
                self._bases[name] = Basis(tensor, "remove" if kind == "remove" else "retain")

    def mount(self, model: nn.Module) -> None:
        """Put A_t and the products of earlier tasks in place."""
        super().mount(model)
        self._place(model)

    def _finished(self, history: History) -> Mapping[str, Tensor]:
        return {**history.adapter(), **self._reading}

    @torch.no_grad()
    def _place(self, model: nn.Module) -> None:
        for name, parameter in _readers(model).items():
            if name in self._reading:  # before the first task B is zero, so that any A will do
                parameter.copy_(self._reading[name])

    def _basis(self, name: str, inputs: int) -> Basis:
        known = self._bases.get(name)
        return nothing(inputs) if known is None else Basis(known.vectors_IK.double(), known.kind)


def _readers(model: nn.Module) -> dict[str, nn.Parameter]:
    """The A of the adapter in training, by name."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }
