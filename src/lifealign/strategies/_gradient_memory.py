"""Shared by methods of gradient projection: rows kept of each task, their gradients, and the projection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.core.errors import TrainingError
from lifealign.data.tasks import Row, Task
from lifealign.strategies._steps import mean_of_steps
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.replay import ReplayBuffer, add_rows
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, Step, Strategy

PROJECTED = "projected"
"""Key of the log: 1 for a step that was projected, 0 for one that the stored rows left as it was."""


class GradientMemoryConfig(ObjectiveConfig):
    """Objective, rows kept, and what is projected."""

    memory_pairs: int = Field(64, ge=1)
    """Pairs kept of each task, drawn with the seed. 1 <= memory_pairs."""
    target: Literal["gradient", "update"] = "update"
    """`update`: project the step that the optimizer made. `gradient`: what it reads, as the papers do with SGD; Adam's scaling by entry undoes that."""


class GradientMemory(Strategy):
    """Base of the methods that project with gradients on stored rows; not a method itself.

    Memory gradients are those of the stage's plain loss (NLL in SFT; the preference loss against the base model) at the
    weights before the optimizer's step. Vectors are flat over all trained tensors, in the order of their names.
    """

    Config = GradientMemoryConfig
    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("projected_share", "the stored rows of earlier tasks change some of the steps", low=0.01),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memory: dict[str, list[Row]] = {}
        self._references_KN: Tensor | None = None
        self._norm = 0.0  # of the gradient before clipping; target `update` only

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Find the stored rows of each earlier task."""
        rows: dict[str, list[Row]] = {}
        for exemplar in history.replay.exemplars:
            rows.setdefault(exemplar.task, []).append(exemplar.row)
        self._memory = {name: self.view.usable(own) for name, own in rows.items()}
        self._references_KN = None

    def adjust_gradients(self, step: Step) -> None:
        """Measure the memory gradients; project the gradient."""
        if not self._memory:
            return
        if self._due(step):
            self._references_KN = self._measured(step)
        gradient = _flat(p.grad for p in step.parameters.values() if p.grad is not None)
        if self.config.target == "update":
            self._norm = float(gradient.norm())
            return
        projected = self._project(gradient, step)
        step.line[PROJECTED] = float(projected is not gradient)
        for parameter, part in zip(step.parameters.values(), _parts(projected, step), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(part)

    @torch.no_grad()
    def adjust_update(self, step: Step) -> None:
        """Project the optimizer's step instead, if that is the target: scaled to the gradient's norm, and back."""
        if not self._memory or self.config.target == "gradient":
            return
        before = _flat(step.before[name] for name in step.parameters)
        descent = before - _flat(step.parameters.values())
        length = float(descent.norm())
        if length == 0 or self._norm == 0:
            return
        scaled = descent * (self._norm / length)
        projected = self._project(scaled, step)
        step.line[PROJECTED] = float(projected is not scaled)
        if projected is not scaled:  # rounding apart, nothing to do otherwise
            after = before - projected * (length / self._norm)
            for parameter, part in zip(step.parameters.values(), _parts(after, step), strict=True):
                parameter.copy_(part)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the share of the steps that were projected; change nothing."""
        return {"projected_share": mean_of_steps(self.log, PROJECTED)}

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """Keep a seeded sample of each task's rows for good."""
        return add_rows(history.replay, task.train, task.name, count=self.config.memory_pairs, seed=self.seed)

    def _due(self, step: Step) -> bool:
        """Whether memory gradients are measured at this step; otherwise the last ones are reused."""
        return True

    def _sets(self, step: Step) -> Mapping[str, Sequence[Row]]:
        """Named sets of rows; each gives one memory gradient."""
        return self._memory

    def _project(self, vector: Tensor, step: Step) -> Tensor:
        """The flat gradient [N] with the method's projection; the tensor itself if nothing changes."""
        raise NotImplementedError

    def _measured(self, step: Step) -> Tensor:
        gradients = []
        for name, rows in self._sets(step).items():
            gradient = _flat(step.gradients_on(rows).values())
            if not math.isfinite(float(gradient.norm())):
                raise TrainingError(
                    f"the gradient on the stored rows of {name} is not finite at step {step.index + 1} of stage {step.stage}; "
                    "lower the learning rate; the memory is as it was before this task"
                )
            gradients.append(gradient)
        return torch.stack(gradients)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _parts(vector: Tensor, step: Step) -> list[Tensor]:
    shapes = [p.shape for p in step.parameters.values()]
    split = torch.split(vector, [math.prod(s) for s in shapes])
    return [part.reshape(shape) for part, shape in zip(split, shapes, strict=True)]
