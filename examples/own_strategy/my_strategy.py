"""Stay near the start: an L2 pull of the adapter towards where the last task left it."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from lifealign import Strategy, register_strategy
from lifealign.data.tasks import Task
from lifealign.model.adapters import trainable
from lifealign.training.losses import ObjectiveConfig
from lifealign.training.strategy import History


@register_strategy("near_start")
class NearStart(Strategy):
    """Train on each task's rows alone, with pull/2 |theta - theta_start|^2 beside the loss.

    Kept: nothing more.

    Cost: 1.
    """

    class Config(ObjectiveConfig):
        """Objective and penalty."""

        pull: float = Field(1.0, ge=0)
        """Strength of the pull. 0 <= pull."""

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """The start is where the last task ended."""
        self._first = not history.tasks
        self._start = dict(history.adapter())

    def penalty(self, model: nn.Module) -> Tensor:
        """Nothing on the first task, which has no past to keep."""
        if self._first:
            return super().penalty(model)
        parts = [((p - self._start[n].to(p)) ** 2).sum() for n, p in trainable(model).items()]
        return float(self.config.pull) / 2 * sum(parts[1:], parts[0])
