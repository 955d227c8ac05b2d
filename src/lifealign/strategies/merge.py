"""Merging of task vectors: task arithmetic, TIES, DARE, SLERP, MagMax.

The formulas and their papers are in `consolidation.merging`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, assert_never

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lifealign.consolidation import merging
from lifealign.consolidation.lowrank import Product, truncate
from lifealign.data.tasks import Task
from lifealign.model.adapters import restore, snapshot
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.strategy import History, Strategy

Method = Literal["task_arithmetic", "ties", "dare", "slerp", "magmax"]
LOOKS_AT_ENTRIES = frozenset({"ties", "dare", "magmax"})


class Merge(Strategy):
    """Train each task separately, and merge the updates of all tasks after each one.

    By task arithmetic (Ilharco et al. 2023, arXiv 2212.04089), TIES (Yadav et al. 2023, arXiv 2306.01708), DARE (Yu et
    al. 2024, arXiv 2311.03099), SLERP (Shoemake 1985; two at a time, as the tasks came) or MagMax (Marczak et al. 2024,
    arXiv 2407.06322).

    Each task is trained from the initial adapter, for MagMax from where the training of the previous task ended (not
    from the merged weights). The initial dW is 0, so tau_t = dW_t = (alpha/r) B_t A_t, which the state keeps as
    factors. The long-term weights are the merged dW of each module, cut to rank r by an SVD; `truncation_error` in the
    diagnostics is the share that this loses.

    Adapted: the papers merge whole models, here each module's dW is merged by itself (trimming, sign election and angle
    are per module); the merged weights are those after task t for every t, not only at the end.

    Kept: the factors of every task, t n numbers after t tasks.

    Cost: 1 and, once per task, an SVD of t r x t r per module; methods that look at entries take one of a dense O x I.
    """

    sums_updates: ClassVar[bool] = False

    class Config(ObjectiveConfig):
        """Objective and merging."""

        owners: ClassVar[Mapping[str, tuple[str, ...]]] = {
            "scale": ("task_arithmetic", "ties", "dare", "magmax"),
            "keep": ("ties",),
            "drop": ("dare",),
            "interpolation": ("slerp",),
        }
        method_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
            "ties": {"scale": 1.0, "keep": 0.2},
            "dare": {"drop": 0.9},
            "slerp": {"interpolation": 0.5},
            "magmax": {"scale": 0.5},
        }

        method: Method = "task_arithmetic"
        """`task_arithmetic`, `ties`, `dare` (then task arithmetic), `slerp` or `magmax`."""
        scale: float | None = Field(None, gt=0)
        """Factor of the merged update; slerp has none. 0 < scale. None: 1/T after T tasks; ties 1.0, magmax 0.5."""
        keep: float | None = Field(None, gt=0, le=1)
        """ties only: share of each task's entries that are kept, the largest. 0 < keep <= 1. Default 0.2."""
        drop: float | None = Field(None, ge=0, lt=1)
        """dare only: probability of dropping an entry. 0 <= drop < 1. Default 0.9."""
        interpolation: float | None = Field(None, ge=0, le=1)
        """slerp only: how far from the merged update to the new one. 0 <= interpolation <= 1. Default 0.5."""

        @model_validator(mode="before")
        @classmethod
        def _fill_method_defaults(cls, values: Any) -> Any:
            if not isinstance(values, Mapping):
                return values
            method = values.get("method")
            own = cls.method_defaults.get(method, {}) if isinstance(method, str) else {}
            return {**values, **{key: value for key, value in own.items() if values.get(key) is None}}

        @model_validator(mode="after")
        def _refuse_options_of_other_methods(self) -> Merge.Config:
            for key, readers in self.owners.items():
                value = getattr(self, key)
                if value is not None and self.method not in readers:
                    raise ValueError(
                        f"{key} is read by method {', '.join(readers)} only, got {key} {value} with method {self.method}"
                    )
            return self

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tasks: list[dict[str, Tensor]] = []

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """The task starts from the initial adapter; MagMax continues from the unmerged weights of the last task."""
        sequential = self.config.method == "magmax" and self._tasks
        restore(model, self._tasks[-1] if sequential else history.adapter("initial"))

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Merge all tasks' updates; the model holds the merged weights afterwards."""
        self._tasks = [*self._tasks, snapshot(model)]
        merged: dict[str, Tensor] = {}
        modules: dict[str, dict[str, float]] = {}
        for name in sorted({key.rpartition(".")[0] for key in self._tasks[0]}):
            product, modules[name] = self._merge(name, len(history.tasks))
            merged |= {f"{name}.lora_A": product.a_KI.float(), f"{name}.lora_B": product.b_OK.float()}
        restore(model, merged)
        norm = math.hypot(*(m["long_term_norm"] for m in modules.values()))
        lost = math.hypot(*(m["long_term_norm"] * m["truncation_error"] for m in modules.values()))
        summed = {"matrices": len(modules), "long_term_norm": norm, "truncation_error": lost / norm if norm else 0.0}
        return {"matrices": modules, "summed": summed}

    def state_dict(self) -> dict[str, Tensor]:
        """Factors of every task's update."""
        return {f"{i:05d}.{name}": tensor for i, task in enumerate(self._tasks) for name, tensor in task.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        tasks: dict[str, dict[str, Tensor]] = {}
        for key in sorted(state):
            index, _, name = key.partition(".")
            tasks.setdefault(index, {})[name] = state[key]
        self._tasks = list(tasks.values())

    def _merge(self, module: str, task_index: int) -> tuple[Product, dict[str, float]]:
        """The merged dW of a module in the adapter's rank, and the loss by truncation."""
        scaling = self.lora.scale
        taus = [Product(scaling * f[f"{module}.lora_B"].double(), f[f"{module}.lora_A"].double()) for f in self._tasks]
        dense = self.config.method in LOOKS_AT_ENTRIES
        merged = merging.merged_svd(taus, lambda taus_TOI: self._combine(module, taus_TOI), dense)
        return truncate(merged, self.lora.r, scaling, self._generator(f"spare/{task_index}", module))

    def _combine(self, module: str, taus_TOI: Tensor) -> Tensor:
        c = self.config
        scale = 1 / len(taus_TOI) if c.scale is None else c.scale
        method: Method = c.method
        match method:
            case "task_arithmetic":
                return merging.task_arithmetic(taus_TOI, scale)
            case "ties":
                return merging.ties(taus_TOI, c.keep, scale)
            case "dare":
                # Each task has its own draws, so the same entries are dropped in every later merge.
                sparse = [
                    merging.dare(tau, c.drop, self._generator(f"dare/{i}", module)) for i, tau in enumerate(taus_TOI)
                ]
                return merging.task_arithmetic(torch.stack(sparse), scale)
            case "slerp":
                return merging.running_slerp(list(taus_TOI), c.interpolation)
            case "magmax":
                return scale * merging.magmax(taus_TOI)
            case _:
                assert_never(method)

    def _generator(self, what: str, module: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/merge/{what}/{module}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
