"""Single-task learning (STL): a fresh adapter per task, each task answered by its own; the baseline for forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from lifealign.data.tasks import Task
from lifealign.model.adapters import fresh_factors, restore, snapshot, trainable
from lifealign.training.strategy import History, Strategy


class Single(Strategy):
    """Keep one adapter per task, and answer each task with its own.

    No paper: this is single-task learning (STL), against which forgetting is measured. Every task starts from the
    initial weights, learns its own rows, and is scored with the adapter that it left. Nothing is forgotten, and
    nothing is passed on: BWT is 0, and `last` is STL in the paper of LifeAlign. A task that was not learnt is scored
    with the initial weights (the base model); a prompt of no known task is answered by the latest adapter, which is
    also the one that is exported.

    Kept: the adapters of all tasks, t n.

    Cost: 1.
    """

    sums_updates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._adapters: dict[str, dict[str, Tensor]] = {}

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Start again from the initial adapter."""
        restore(model, self._initial(model))

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Keep the trained adapter."""
        self._adapters[task.name] = snapshot(model)
        return {"adapters": len(self._adapters)}

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters by position and task."""
        return {
            f"{position}/{task}/{name}": tensor
            for position, (task, adapter) in enumerate(self._adapters.items())
            for name, tensor in adapter.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._adapters = {}
        for key in sorted(state, key=lambda k: int(k.split("/")[0])):  # a file orders its tensors by name
            _, task, name = key.split("/", 2)
            self._adapters.setdefault(task, {})[name] = state[key]

    def select(self, model: nn.Module, task: str | None) -> None:
        """Put the task's own adapter in place; None: the latest."""
        known = task if task is not None else next(reversed(self._adapters), None)
        restore(model, self._adapters[known] if known in self._adapters else self._initial(model))

    def _initial(self, model: nn.Module) -> dict[str, Tensor]:
        return fresh_factors({name: tuple(p.shape) for name, p in trainable(model).items()}, self.seed)
