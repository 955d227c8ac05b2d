"""LifeAlign (arXiv 2509.17183): focalized preference optimization, replay, short-to-long memory consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from lifealign.consolidation.adapter import ConsolidatedAdapter, ConsolidationConfig, consolidate_adapter, state_of
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Task
from lifealign.model.adapters import restore, snapshot
from lifealign.strategies.replay import Replay
from lifealign.training.losses import ObjectiveName
from lifealign.training.replay import ReplayBuffer
from lifealign.training.strategy import History

START = "start/"
"""Prefix of the weights after the first of two consolidations, in the state of an unfinished task."""


class LifeAlign(Replay):
    """Replay earlier rows with the focal loss, and consolidate the adapter's change once per task.

    LifeAlign (arXiv 2509.17183): focalized preference optimization (eq. 3), replay, and short-to-long memory
    consolidation, in which the change is denoised, projected and added.

    Kept: the buffer and, per adapter matrix, an orthonormal basis of the refined updates so far.

    Cost: that of replay; consolidation is O(k n) a matrix after k tasks.
    """

    class Config(Replay.Config, ConsolidationConfig):
        """Objective, buffer and consolidation."""

        loss: ObjectiveName = "fpo"
        """As in the objective; the paper's focal loss by default."""
        replay_share: float = Field(0.2, ge=0, le=1)
        """Share of a task's distinct rows that become candidates after it; 0: consolidation alone. 0 <= replay_share <= 1."""
        consolidate: Literal["task", "stage"] = "task"
        """`task`: once, for both stages. `stage`: after SFT and after the preference stage (needs sft.epochs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._basis: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}

    @property
    def update_space(self) -> Literal["factors", "delta_w"]:
        """The space of the consolidation: after one in `delta_w` the factors are split again."""
        space: Literal["factors", "delta_w"] = self.config.space
        return space

    def check(self, config: RunConfig) -> None:
        """Two consolidations need two stages."""
        super().check(config)
        if self.config.consolidate == "stage" and not config.sft.epochs:
            raise ConfigError(
                "strategy.consolidate=stage consolidates after each stage, but sft.epochs=0 leaves only one; "
                "use strategy.consolidate=task, or set sft.epochs"
            )

    def end_sft(self, model: nn.Module, task: Task, history: History) -> None:
        """With `consolidate: stage`, the first of two consolidations; the diagnostics are those of the second."""
        if self.config.consolidate == "stage":
            self._start = self._consolidate(model, history).adapter

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Long-term memory LM_t = LM_{t-1} + RSM_t; the model holds LM_t afterwards."""
        result = self._consolidate(model, history)
        self._start = {}
        return result.diagnostics

    def adopt(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Keep the directions of the adapter, so that later updates are refined against them; it is not denoised itself."""
        whole = self.config.model_copy(update={"theta": 1.0})
        result = consolidate_adapter(
            history.adapter(), snapshot(model), {}, whole, scaling=self.lora.scale, seed=self.seed, task_index=0
        )
        self._basis = result.state
        return result.diagnostics

    def _consolidate(self, model: nn.Module, history: History) -> ConsolidatedAdapter:
        result = consolidate_adapter(
            self._start or history.adapter(),
            snapshot(model),
            self._basis,
            self.config,
            scaling=self.lora.scale,
            seed=self.seed,
            task_index=len(history.tasks),
        )
        restore(model, result.adapter)
        self._basis = result.state
        return result

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Span the bases anew by the updates that are left: nothing needs to be kept clear of one that is gone."""
        left = [history.step(name) for name in history.tasks if name not in history.retired]
        self._basis = state_of(left, self.config, scaling=self.lora.scale)
        return ()

    def state_dict(self) -> dict[str, Tensor]:
        """The bases; during a task, also the weights at the start of the preference stage."""
        return self._basis | {START + name: tensor for name, tensor in self._start.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._basis = {n: t for n, t in state.items() if not n.startswith(START)}
        self._start = {n.removeprefix(START): t for n, t in state.items() if n.startswith(START)}
