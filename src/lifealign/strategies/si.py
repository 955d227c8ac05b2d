"""Synaptic intelligence: hold each weight by how much its path through training lowered the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import trainable
from lifealign.strategies._quadratic import weighted_distance
from lifealign.strategies._steps import penalty_share
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, Step, Strategy


def importance(path: Tensor, displacement: Tensor, xi: float) -> Tensor:
    """max(w, 0) / (d^2 + xi) by entry: what one task adds to Omega (Zenke et al. 2017, eq. 5).

    Args:
        path: w, the part of the loss's fall that an entry's path accounts for.
        displacement: d, the entry's end minus its start.
        xi: > 0; keeps entries finite that returned to their start.
    """
    return path.clamp(min=0) / (displacement**2 + xi)


class SI(Strategy):
    """Hold each weight where the last task left it, as strongly as it lowered earlier losses.

    Synaptic intelligence (SI; Zenke, Poole & Ganguli 2017, arXiv 1703.04200). The penalty is penalty_weight sum Omega
    (theta - theta*)^2. w = - sum over the steps of g dtheta, an estimate of an entry's share in the fall of the
    loss; Omega += w / (d^2 + xi) at the end of a task.

    Adapted: g is the gradient of the loss that is trained, on the step's pairs, without the penalty and before
    clipping; dtheta is the change that AdamW made. A path along which the loss rose counts as 0, or the penalty would
    have no lower bound. The entries of a LoRA adapter move by hundredths at most: with the paper's xi of 0.1 the
    denominator is xi for nearly all of them, and the penalty 1e-4 of the loss. So xi is far smaller here. Where d^2 is well above
    it, to move each entry as far as a task moved it costs `penalty_weight` times the fall of that task's loss.

    SFT stage: the same penalty, and w accumulates over both stages, each with its own loss.

    Kept: Omega, n numbers (theta* is the stored adapter); within a task, n more for w.

    Cost: 1.
    """

    signs: ClassVar[tuple[Sign, ...]] = (Sign("penalty_share", "the penalty is felt beside the loss", low=0.001),)

    class Config(ObjectiveConfig):
        """Objective and penalty."""

        penalty_weight: float = Field(0.1, ge=0)
        """Share of a task's fall of the loss that it costs to move as far again (the paper's c). 0 <= penalty_weight."""
        xi: float = Field(1e-6, gt=0)
        """Squared displacement of a weight below which it counts less; choose it below (learning rate x steps)^2. 0 < xi."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._omega: dict[str, Tensor] = {}
        self._path: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """theta* is where the last task ended; a new path begins there."""
        self._anchor = dict(history.adapter())
        self._path = {}

    def penalty(self, model: nn.Module) -> Tensor:
        """Penalty penalty_weight sum Omega (theta - theta*)^2; zero before the first task's end."""
        if not self._omega:
            return super().penalty(model)
        return float(self.config.penalty_weight) * weighted_distance(trainable(model), self._anchor, self._omega)

    def adjust_gradients(self, step: Step) -> None:
        """Copy the loss's gradient; change nothing."""
        self._gradients = {name: p.grad.clone() for name, p in step.parameters.items() if p.grad is not None}

    @torch.no_grad()
    def adjust_update(self, step: Step) -> None:
        """One step of the path integral: w -= g dtheta; no weight is changed."""
        for name, p in step.parameters.items():
            fall = -self._gradients[name] * (p - step.before[name])
            self._path[name] = self._path[name].to(p.device) + fall if name in self._path else fall
        self._gradients = {}

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Add this task's Omega to that of earlier tasks."""
        falls = {name: path.cpu() for name, path in self._path.items()}
        for name, p in trainable(model).items():
            if name in falls:  # else no step was taken
                fresh = importance(falls[name], p.detach().cpu() - self._anchor[name], self.config.xi)
                self._omega[name] = self._omega[name] + fresh if name in self._omega else fresh
        self._path = {}
        total = sum(float(path.sum()) for path in falls.values())
        rising = sum(float(path.clamp(max=0).sum()) for path in falls.values())
        omega = sum(float(t.sum()) for t in self._omega.values())
        told = {"loss_fall": total, "rising_part": rising, "omega_sum": omega}
        return {"path": told, "penalty_share": penalty_share(self.log)}

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Omega is one running sum, so a task's part stays in it; theta* is the adapter without the task."""
        return ["its part of Omega stays in the running sum, so later tasks are still held where it mattered"]

    def state_dict(self) -> dict[str, Tensor]:
        """Omega and, within a task, w; by parameter."""
        return {f"omega/{name}": t for name, t in self._omega.items()} | {
            f"path/{name}": t for name, t in self._path.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._omega = _part(state, "omega/")
        self._path = _part(state, "path/")


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
