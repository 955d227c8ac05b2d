"""LifeAlign (arXiv 2509.17183): focalized preference optimization, replay, short-to-long memory consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lifealign.consolidate import ConsolidationConfig, consolidate_adapter
from lifealign.losses import ObjectiveName
from lifealign.models import restore, snapshot
from lifealign.strategies.base import History
from lifealign.strategies.replay import Replay
from lifealign.tasks import Task


class LifeAlign(Replay):
    """Replay with the focal loss (eq. 3); once per task the adapter's change is denoised, projected and added.

    Kept: the buffer and, per adapter matrix, an orthonormal basis of the refined updates so far.
    Cost: that of replay; consolidation is O(k n) a matrix after k tasks.
    """

    class Config(Replay.Config, ConsolidationConfig):
        """Objective, buffer and consolidation."""

        loss: ObjectiveName = "fpo"
        """As in the objective; the paper's focal loss by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._basis: dict[str, Tensor] = {}

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Long-term memory LM_t = LM_{t-1} + RSM_t; the model holds LM_t afterwards."""
        result = consolidate_adapter(
            history.adapter(),
            snapshot(model),
            self._basis,
            self.config,
            scaling=self.lora.alpha / self.lora.r,
            seed=self.seed,
            task_index=len(history.tasks),
        )
        restore(model, result.adapter)
        self._basis = result.state
        return result.diagnostics

    def state_dict(self) -> dict[str, Tensor]:
        """The bases."""
        return dict(self._basis)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._basis = dict(state)
