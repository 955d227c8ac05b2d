"""LifeAlign (arXiv 2509.17183): focalized preference optimization, replay, short-to-long memory consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

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
from lifealign.training.strategy import History, PreferenceDataset

IMPORTED = "imported"
"""Name of the task of an adapter that a memory began with."""
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

        _newer: ClassVar[frozenset[str]] = Replay.Config._newer | {
            "begin",
            "rehearse",
            "sleep_epochs",
            "sleep_learning_rate",
        }
        loss: ObjectiveName = "fpo"
        """As in the objective; the paper's focal loss by default."""
        replay_share: float = Field(0.2, ge=0, le=1)
        """Share of a task's distinct rows that become candidates after it; 0: consolidation alone. 0 <= replay_share <= 1."""
        consolidate: Literal["task", "stage"] = "task"
        """`task`: once, for both stages. `stage`: after SFT and after the preference stage (needs sft.epochs)."""
        begin: Literal["memory", "initial"] = "memory"
        """Where a task is learnt: on the memory's weights (paper), or on the initial adapter, so that its update needs no other."""
        rehearse: bool = True
        """Train kept rows together with a task's own (paper); false: the kept rows are for the sleep alone."""
        sleep_epochs: int = Field(0, ge=0)
        """Passes over kept and new rows that teach one adapter what all updates know, after a task. 0 <= sleep_epochs; 0: none."""
        sleep_learning_rate: float = Field(1e-3, gt=0)
        """Peak learning rate of the sleep. 0 < sleep_learning_rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._basis: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}

    @property
    def update_space(self) -> Literal["factors", "delta_w"]:
        """The space of the consolidation: after one in `delta_w` the factors are split again."""
        space: Literal["factors", "delta_w"] = self.config.space
        return space

    @property
    def learns_apart(self) -> bool:
        """With `begin: initial`, unless kept rows are rehearsed; consolidation still keeps an update clear of earlier ones."""
        rehearses = self.config.rehearse and self.config.replay_share > 0
        return self.config.begin == "initial" and not rehearses

    def check(self, config: RunConfig) -> None:
        """Two consolidations need two stages."""
        super().check(config)
        if self.config.consolidate == "stage" and not config.sft.epochs:
            raise ConfigError(
                "strategy.consolidate=stage consolidates after each stage, but sft.epochs=0 leaves only one; "
                "use strategy.consolidate=task, or set sft.epochs"
            )
        alone = [f"begin={self.config.begin}"] * (self.config.begin != "memory")
        if asked := [*alone, *[f"sleep_epochs={self.config.sleep_epochs}"] * bool(self.config.sleep_epochs)]:
            other = [
                f"{k}={getattr(self.config, k)}"
                for k in ("space", "consolidate")
                if getattr(self.config, k) in ("delta_w", "stage")
            ]
            if other:
                raise ConfigError(
                    f"strategy.{asked[0]} needs updates that add up in the factors and are consolidated once, but strategy.{other[0]}; "
                    "leave one of them out"
                )
        changed = "sleep_learning_rate" in self.config.model_fields_set and not self.config.sleep_epochs
        if changed and self.config.sleep_learning_rate != 1e-3:
            raise ConfigError(
                f"strategy.sleep_learning_rate={self.config.sleep_learning_rate} has no effect without strategy.sleep_epochs; set "
                "it to 1 or more, or leave the rate out"
            )
        if not self.config.rehearse and not self.config.sleep_epochs and self.config.replay_share:
            raise ConfigError(
                "strategy.rehearse=false keeps rows for the sleep alone, but strategy.sleep_epochs=0; set it to 1 or more, or "
                "strategy.replay_share=0 to keep none"
            )

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """With `begin: initial`, start from the weights that the memory began with."""
        if self.config.begin == "initial":
            restore(model, _begun(history))

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows and, if they are rehearsed, the buffer's."""
        if self.config.rehearse:
            return super().training_set(task, history)
        return PreferenceDataset(task.train, (task.name,) * len(task.train))

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
        fresh = _begun(history) if self.config.begin == "initial" else None
        result = consolidate_adapter(
            fresh or self._start or history.adapter(),
            snapshot(model),
            self._basis,
            self.config,
            scaling=self.lora.scale,
            seed=self.seed,
            task_index=len(history.tasks),
        )
        adapter = result.adapter
        if fresh is not None:
            memory = history.adapter()
            adapter = {name: memory[name] + (tensor - fresh[name]) for name, tensor in adapter.items()}
        restore(model, adapter)
        self._basis = result.state
        return result

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Span the bases anew by the updates that are left: nothing needs to be kept clear of one that is gone."""
        left = [history.around(name) for name in history.tasks if name not in history.retired]
        self._basis = state_of(left, self.config, scaling=self.lora.scale)
        return ()

    def state_dict(self) -> dict[str, Tensor]:
        """The bases; during a task, also the weights at the start of the preference stage."""
        return self._basis | {START + name: tensor for name, tensor in self._start.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._basis = {n: t for n, t in state.items() if not n.startswith(START)}
        self._start = {n.removeprefix(START): t for n, t in state.items() if n.startswith(START)}


def _begun(history: History) -> Mapping[str, Tensor]:
    """The weights that a memory began with: the initial ones, or those of an adapter that was trained elsewhere."""
    return history.adapter(IMPORTED if IMPORTED in history.tasks else "initial")
