"""The interface of a strategy; the base class IS sequential preference tuning with one LoRA adapter for life.

A strategy chooses the training rows, the loss and what happens at the end of a task. It never touches the loop, the
store or another strategy: it gets read-only views and returns values. A public method that is not part of the interface
is refused when the class is made; otherwise a misspelt hook would be ignored silently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lifealign.core.config import Frozen, LoraConfig, RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import ROW_KINDS, Row, RowKind, Task
from lifealign.model.adapters import attach_lora
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.training.feedback import READERS
from lifealign.training.losses import Losses, Objective, ObjectiveConfig, ReferenceName
from lifealign.training.replay import ReplayBuffer
from lifealign.training.signs import Sign


class History(Protocol):
    """Read-only view of a memory, as of the task before the current one."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the commits so far, oldest first; empty before the first task."""

    @property
    def retired(self) -> Collection[str]:
        """Those of them that were superseded or withdrawn."""

    @property
    def replay(self) -> ReplayBuffer:
        """The rows kept for replay."""

    def adapter(self, task: str | None = None) -> Mapping[str, Tensor]:
        """Trained tensors as they were after a task; None: after the latest (before any: the initial ones)."""

    def update(self, task: str) -> Mapping[str, Tensor]:
        """Trained tensors after a task minus those before it, if both exist in one shape.

        This is the task's contribution to the policy only if one adapter is trained for life: a method that starts a new
        adapter for each task (`strategies._growing`, `strategies.single`) has the whole of it in `adapter(task)`.
        """

    def around(self, task: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Trained tensors before and after what a task changed."""


@dataclass(frozen=True)
class PreferenceDataset:
    """Rows of one training run with the task that each came from."""

    rows: tuple[Row, ...]
    origin: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.rows) == len(self.origin)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


class ModelView(Protocol):
    """Computations that a strategy may do with the loaded model. Rows that cannot be encoded give NaN.

    `weights` are tensors of `model.adapters.snapshot`, used instead of the trained ones for this call; None: as they
    are now.
    """

    def usable(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that can be encoded, in order; the others have no loss and no gradient."""

    def prompts(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """Ids of the prompts of the rows that can be encoded, in order."""

    def loss_on(self, rows: Sequence[Row]) -> Tensor:
        """Mean loss of rows at the current weights, against the base model, without dropout, with a graph.

        The reference point of feedback is that of these rows alone; for a single row KTO's is 0.
        """

    def pair_logps(self, rows: Sequence[Row], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Summed log-probs [N, 2] (chosen, rejected), nats, float32, without a graph."""

    def token_logps(self, rows: Sequence[Row], weights: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Log-probs of the response tokens, chosen then rejected of each row in one [T_c + T_r], without a graph."""

    def divergence(self, rows: Sequence[Row], weights: Mapping[str, Tensor]) -> Tensor:
        """Mean over the chosen answer's tokens of KL(policy with `weights` || policy now), [N] nats, with a graph."""

    def features(self, prompts: Sequence[Sequence[int]], depth: float = 1.0) -> Tensor:
        """Mean of the base model's hidden states over each prompt's ids (>= 1), [N, D] float32, without a graph.

        `depth` is the share of the layers below them, 0 <= depth <= 1; at 1 they are the last ones, normalised.
        """

    def row_features(self, rows: Sequence[Row]) -> Tensor:
        """`features` of each row's prompt with its chosen (or only) answer, [N, D]."""

    def texts(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Texts of the prompts' ids; for a single user turn, the turn alone without the template's frame."""

    def input_moments(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Mean of x x^T over all token columns, [I, I] float64, for the input x of each adapted module, as it is now."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, as `adjust_gradients` and `adjust_update` see it.

    Attributes:
        model: gradients are in its parameters' ``.grad``.
        parameters: the trained ones by name.
        losses_on: mean loss of rows at the current weights, of the kind that the stage trains (SFT or preference), without
            dropout, in parts that add up to it, so that only the graph of one pack is held at a time.
        index: 0-based optimizer step of the stage.
        stage: `sft` or `preference`.
        before: values of the trained parameters before the optimizer's step; empty in `adjust_gradients`.
        line: the step's line in the log so far, such as ``loss``; a method may add numbers of its own.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    losses_on: Callable[[Sequence[Row]], Iterator[Tensor]]
    index: int
    stage: str = "preference"
    before: Mapping[str, Tensor] = field(default_factory=dict)
    line: dict[str, Any] = field(default_factory=dict)

    def gradients_on(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Gradient of the mean loss of rows, by parameter; ``.grad`` is not changed."""
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        for loss in self.losses_on(rows):
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
            for name, gradient in zip(self.parameters, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
        return total


@dataclass
class Strategy:
    """Sequential preference tuning: train on the task's rows, keep the weights, go on.

    Args:
        config: an instance of the class's Config.
        lora: shape of the adapter.
        seed: of the run.
    """

    Config: ClassVar[type[Frozen]] = ObjectiveConfig
    HOOKS: ClassVar[frozenset[str]] = frozenset(
        [
            "check",
            "schedule",
            "attach",
            "begin_task",
            "training_set",
            "prefix",
            "loss",
            "sft_loss",
            "penalty",
            "adjust_gradients",
            "adjust_update",
            "end_sft",
            "end_task",
            "adopt",
            "retain",
            "retire",
            "state_dict",
            "load_state_dict",
            "mount",
            "select",
            "to_peft",
        ]
    )

    sums_updates: ClassVar[bool] = True
    """True: one plain adapter is trained for life, so its weights are the initial ones plus the change by every task, and
    a task can be weighted or withdrawn (`compose`). False: a task starts elsewhere, or the policy is more than the
    adapter."""

    learns: ClassVar[tuple[RowKind, ...]] = ROW_KINDS
    """Kinds of rows that the method can learn from; a task with others is refused before it is trained."""

    config: Any
    lora: LoraConfig
    seed: int
    objective: Objective = field(init=False)
    view: ModelView = field(init=False)
    """Set by the session that loads the model, before any other hook but `attach` is called."""
    log: Sequence[Mapping[str, Any]] = field(init=False, default=())
    """Set by the loop: the task's steps so far, one line each, as they are stored (`Step.line`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        public = {
            n for n, v in vars(cls).items() if not n.startswith("_") and (callable(v) and not isinstance(v, type))
        }
        if unknown := sorted(public - cls.HOOKS):
            raise TypeError(
                f"{cls.__name__} has public methods that are not hooks: {unknown}; start helpers with an underscore, "
                f"or use one of the hooks {sorted(cls.HOOKS)}"
            )

    def __post_init__(self) -> None:
        self.objective = Objective(self.config)

    @property
    def reference(self) -> ReferenceName:
        """The policy that the objective compares with; see `losses.ObjectiveConfig`."""
        return self.objective.config.reference

    @property
    def reward_beta(self) -> float:
        """Reward per nat of log-ratio, of the margins that are reported. 0 < reward_beta."""
        return self.objective.config.beta

    @property
    def routes(self) -> bool:
        """Whether the memory answers each prompt by the updates of the tasks that it may belong to."""
        return bool(getattr(self.config, "route", False))

    @property
    def learns_apart(self) -> bool:
        """Whether a task is trained without the weights and the rows of earlier ones."""
        return False

    @property
    def normalises_weights(self) -> bool:
        """Whether the loop divides each optimizer step's gradient by the mean weight of its pairs."""
        return self.objective.config.normalise_weights

    @property
    def update_space(self) -> Literal["factors", "delta_w"]:
        """The space in which the updates of a memory's tasks add up (see `consolidation.composing`)."""
        return "factors"

    @property
    def signs(self) -> tuple[Sign, ...]:
        """What must be seen in each task's diagnostics for the method to be itself; a class attribute will do."""
        return ()

    def check(self, config: RunConfig) -> None:
        """Check the strategy's options against the rest of the run's configuration, before a model is loaded.

        Raises:
            ConfigError: two settings contradict each other; names both and the value to change.
        """
        options, skip = self.objective.config, config.train.skip_weight_below
        if config.model.adapter is not None and not self.sums_updates:
            raise ConfigError(
                f"strategy {config.strategy.name} does not go on from one adapter for life, so it cannot begin with the adapter "
                f"{config.model.adapter}; merge the adapter into its base model with PEFT, or choose another strategy, such as lifealign"
            )
        if self.routes and not self.sums_updates:
            raise ConfigError(
                f"strategy.route=true answers a prompt by the updates of the tasks that it may belong to, but strategy "
                f"{config.strategy.name} does not keep a sum of updates; set it to false, or choose another strategy, such as lifealign"
            )
        if options.reference == "task_start" and not config.sft.epochs:
            raise ConfigError(
                "strategy.reference=task_start is the policy after the SFT stage, but sft.epochs=0 leaves that stage out; "
                "set sft.epochs, or use previous_task or base"
            )
        if skip > 0 and options.loss != "fpo":
            raise ConfigError(
                f"train.skip_weight_below={skip} skips pairs by their focal weight, but loss {options.loss!r} has none; "
                "set it to 0, or set strategy.loss=fpo"
            )
        if skip > 0 and options.rpo_alpha:
            raise ConfigError(
                f"train.skip_weight_below={skip} skips pairs by their focal weight, and with them the likelihood term of "
                "rpo_alpha; set one of them to 0"
            )
        if skip > 0 and options.own_terms:
            raise ConfigError(
                f"train.skip_weight_below={skip} skips pairs by their focal weight, and with them the terms that strategy "
                f"{config.strategy.name} adds to their loss; set it to 0"
            )
        for kind, keys in READERS.items():
            changed = [k for k in keys if getattr(options, k) != type(options).model_fields[k].default]
            if changed and kind not in self.learns:
                raise ConfigError(
                    f"strategy.{changed[0]} is for rows of kind {kind}, which strategy {config.strategy.name} does not learn from; "
                    "remove it, or choose another strategy"
                )

    def schedule(self, tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
        """Groups of tasks that are learnt together, in order."""
        return [(task,) for task in tasks]

    def attach(self, base: PreTrainedModel) -> nn.Module:
        """Add the trained parts to the frozen base; also used to evaluate from a store months later."""
        return attach_lora(base, self.lora, self.seed)

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Called with the long-term weights in the model, before anything is trained; also on resume."""

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """Rows of both stages; called once after `begin_task`, with the same weights in the model."""
        return PreferenceDataset(task.train, (task.name,) * len(task.train))

    def prefix(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Virtual token ids (see `soft_prompt`) that the policy sees before each prompt; the reference never does."""
        return [()] * len(prompts)

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Preference loss [B] of the pairs of one forward; the loop averages over the optimizer step.

        Args:
            batch: the pairs.
            policy: summed log-probs [B] with a graph.
            reference: summed log-probs [B] of the reference policy, as the objective sums them (`Objective.beyond`).
            objective: result of `self.objective` for these rows, computed once by the loop; it has the loss of every kind.
        """
        return objective.loss

    def sft_loss(self, batch: PreferenceBatch) -> Tensor:
        """SFT loss [T] of the chosen answers' tokens of one forward (`batch.token_T`), nats; the loop averages over tokens.

        Rows without a chosen answer are not among them.
        """
        assert batch.token_T is not None
        return -batch.token_T if batch.sft_T is None else batch.sft_T

    def penalty(self, model: nn.Module) -> Tensor:
        """Scalar added to the loss once per optimizer step; by default a zero without a graph.

        Its gradient is not clipped: a stiff penalty would scale down the loss's, even in directions that it leaves free.
        """
        return torch.zeros(())

    def adjust_gradients(self, step: Step) -> None:
        """Change the loss's ``.grad`` in place: after the sum over processes, before clipping and before the penalty."""

    def adjust_update(self, step: Step) -> None:
        """Read the parameters after the optimizer's step, or change them in place; the clipped gradients are still there."""

    def end_sft(self, model: nn.Module, task: Task, history: History) -> None:
        """Called after the SFT stage, if any, before the reference log-probs; may rewrite the trained weights."""

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Called after training; may rewrite the trained weights. Returns JSON-able diagnostics, those of `signs` among them."""
        return {}

    def adopt(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Called instead of `end_task` for an adapter that was trained elsewhere and that the model holds now.

        Must leave the trained weights as they are. The task has its rows, which may be none. Returns diagnostics.
        """
        return self.end_task(model, task, history)

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """The rows to keep for replay from now on."""
        return history.replay

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Called with the state of HEAD, when tasks are superseded or withdrawn: drop what the state holds of them alone.

        There is no model. Returns a sentence for each part of the tasks that stays in the state.

        Args:
            before: the rows kept for replay until now, theirs included.
            history: the memory from now on: `adapter()` and `replay` are without the tasks, which are among `retired`.
        """
        return ()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that later tasks need besides weights and replay rows: named tensors only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        assert not state, f"{type(self).__name__} keeps no state, got {sorted(state)[:3]}"

    def mount(self, model: nn.Module) -> None:
        """Put the state's frozen parts into the model; called after `load_state_dict`, before weights are restored."""

    def select(self, model: nn.Module, task: str | None) -> None:
        """Prepare the model for scoring a task's rows or answering prompts (None: no task is known)."""

    def to_peft(self, model: nn.Module) -> nn.Module:
        """The PEFT model to export.

        Raises:
            ConfigError: the trained parts of this method have no PEFT form.
        """
        return model
