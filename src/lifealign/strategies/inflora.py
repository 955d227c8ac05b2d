"""InfLoRA (Liang & Li 2024, arXiv 2404.00228): adapters that do not read the inputs of earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.data.tasks import Task
from lifealign.strategies._dualgpm import Basis, Energy, nothing, protect, reading, share_read
from lifealign.strategies._growing import Growing
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.signs import Sign
from lifealign.training.strategy import History

READS = 0.05
"""Smallest mean share of their input's energy that a task's adapters should read.

At equal B an adapter's output grows with the root of the share. On SmolLM2 the first task's read .77; at .05 the output is a
quarter of theirs. The second task's read .165 by the authors' criterion and .037 by the plain one, of which nothing was learnt.
"""


class InfLora(Growing):
    """Add an adapter per task that reads only inputs which earlier tasks do not use.

    InfLoRA (Liang & Li 2024, arXiv 2404.00228). A_t is set once, from the task's inputs less those of earlier tasks,
    and only B_t is trained; A_1 .. B_{t-1} stay.

    Adapted: the paper trains image classifiers; here it is the preference loss, the inputs are those of all tokens of
    prompts and both answers, and any module may be adapted (the paper: k and v). Their thresholds of .95 to 1 belong to
    the criterion of their code, which squares the singular values of the moment C = X X^T (`energy: squared`). Measured
    by the energy of X itself (`plain`), as the paper's text has it, the same numbers protect so many directions of a
    language model that later adapters read a few percent of their input and do not learn. Beyond `tasks` tasks the
    threshold stays at `protected_last`; if the basis leaves fewer than r directions, the other rows of A_t are zero.

    SFT stage: the same adapter, with the SFT loss.

    Kept: the adapters of all tasks, t n, and at most I / 2 columns of length I per module.

    Cost: 1 + t r columns more in each adapted module; twice per task, a forward of its rows and an eigendecomposition
    [I, I] per module.
    """

    signs = (Sign("reads", "the adapter reads more of its input than a sliver", low=READS),)

    class Config(ObjectiveConfig):
        """Objective and what DualGPM protects."""

        energy: Energy = "squared"
        """What the shares count: `squared` singular values of the inputs' moment, as the authors' code, or the `plain` energy."""
        protected_first: float = Field(0.95, gt=0, le=1)
        """Share of the inputs' energy that is protected after the first task. 0 < protected_first <= protected_last."""
        protected_last: float = Field(1.0, gt=0, le=1)
        """The share it grows to, after `tasks` tasks. protected_first <= protected_last <= 1."""
        tasks: int = Field(10, ge=1)
        """Tasks over which the share grows, linearly. 1 <= tasks."""

        @model_validator(mode="after")
        def _grows(self) -> InfLora.Config:
            if self.protected_first > self.protected_last:
                raise ValueError(
                    f"protected_first {self.protected_first} must not be above protected_last {self.protected_last}"
                )
            return self

    def __post_init__(self) -> None:
        super().__post_init__()
        self._reading: dict[str, Tensor] = {}
        self._bases: dict[str, Basis] = {}
        self._reads: dict[str, float] = {}

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
        moments = self.view.input_moments(task.train)
        found: dict[int, Tensor] = {}  # modules that read the same tensor have one moment, and so one basis and one A
        for name, moment_II in moments.items():
            if id(moment_II) not in found:
                found[id(moment_II)] = reading(moment_II, self._basis(name, len(moment_II)), self.lora.r).float()
            self._reading[f"{name}.lora_A"] = found[id(moment_II)]
            self._reads[name] = share_read(found[id(moment_II)], moment_II)
        self._place(model)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Protect the task's inputs, as the model sees them now."""
        c = self.config
        threshold = min(
            c.protected_last, c.protected_first + (c.protected_last - c.protected_first) * len(history.tasks) / c.tasks
        )
        moments = self.view.input_moments(task.train)
        found: dict[int, Basis] = {}
        for name, moment_II in moments.items():
            if id(moment_II) not in found:
                basis = protect(moment_II, self._basis(name, len(moment_II)), threshold, c.energy)
                found[id(moment_II)] = Basis(basis.vectors_IK.float().contiguous(), basis.kind)
            self._bases[name] = found[id(moment_II)]
        shares = [b.protected / len(b.vectors_IK) for b in self._bases.values()]
        return {
            "threshold": threshold,
            "reads": sum(self._reads.values()) / max(len(self._reads), 1),
            "read": dict(self._reads),
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
