"""Continual optimal policy regularization (COPR; Zhang et al., ACL Findings 2025, arXiv 2402.14228), for pairs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from pydantic import Field, model_validator
from torch import Tensor, nn

from lifealign.data.tasks import Row, RowKind, Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.training.losses import Losses, Objective, ObjectiveConfig
from lifealign.training.pair_losses import sft_nll
from lifealign.training.replay import ReplayBuffer, ReplayConfig, update_buffer
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, PreferenceDataset, Step, Strategy

DROWNS = 10.0
"""Lambda above which the replayed rows are taken to leave the new ones no weight; the default of its bound."""


def target_logit(previous: Tensor, reward: Tensor, beta: float) -> Tensor:
    """Logit of the optimal policy's P*(chosen | the two answers): D_{t-1} + 2 r_x / beta, any shape.

    P* is proportional to pi_{t-1}(y|x) exp(Adv(y) / beta), where the advantages of a pair are +r_x and -r_x.

    Args:
        previous: D_{t-1}, the previous policy's log-prob of the chosen answer minus that of the rejected one, nats.
        reward: r_x, in (0, 1).
        beta: reward per nat, > 0.
    """
    return previous + 2 * reward / beta


def fit_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Mean over the two answers of (log P(y) - log P*(y))^2, P = sigmoid(+-logit), P* = sigmoid(+-target), any shape."""
    chosen = F.logsigmoid(logit) - F.logsigmoid(target)
    rejected = F.logsigmoid(-logit) - F.logsigmoid(-target)
    return (chosen**2 + rejected**2) / 2


class Copr(Strategy):
    """Fit the task's optimal policy, and hold the policy to those of earlier tasks on replayed rows.

    Continual optimal policy regularization (COPR; Zhang et al., ACL Findings 2025, arXiv 2402.14228): min over weights,
    max over lambda >= 0 of J_fit + lambda (J_replay - d) + sft_weight NLL(chosen). J_fit is the mean `fit_loss` of
    the task's rows against the target that `target_logit` makes of the policy before the task; J_replay that of
    replayed rows against the targets of the time when they were learnt, which are stored. d is what the rows' fit was at
    the end of their own task, which is stored as well, plus `excess`.

    Adapted: the two answers of a stored pair are all of Y_x. r_x is drawn for each row from a Beta distribution of mean
    `reward`, as a function of the seed; the spread is this package's choice. One multiplier for all earlier tasks: it
    rises by `multiplier_rate` times the violation on the replayed rows of each optimizer step. Rows are mixed as in
    replay, so lambda also stands for the share of replayed rows in a step. It ends at `multiplier_max`, so that a constraint
    out of reach cannot take the new task's weight away. There is no other preference loss, so only `beta` of the objective's
    options applies. `slack` in place of `excess` is a d of one number for all rows; if the fit cannot reach it (a policy that
    has not moved has a fit of 12.5), lambda rises to its bound, or forever without one.

    SFT stage: plain, on the same rows.

    Kept: the buffer, two floats per row of it, lambda.

    Cost: 1 + buffer / task rows, and one forward of the task's rows.
    """

    learns: ClassVar[tuple[RowKind, ...]] = ("pair",)
    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("multiplier", "lambda stays so low that new rows have weight beside replayed ones", high=DROWNS),
    )

    class Config(ReplayConfig):
        """Target, constraint, buffer."""

        _newer: ClassVar[frozenset[str]] = (
            frozenset({"excess", "slack", "multiplier_max", "route"}) | ReplayConfig.replay_keys
        )
        relative: ClassVar[Mapping[str, float]] = {"excess": 0.1, "multiplier_max": DROWNS}
        """Defaults without `slack`, see docs/results/reproduction.md."""

        replay_share: float = Field(0.05, gt=0, le=1)
        """Share of a task's distinct rows that become candidates after it. 0 < replay_share <= 1."""
        beta: float = Field(0.1, gt=0)
        """Reward per nat, of the target and of the reported margins. 0 < beta."""
        route: bool = False
        """Answer and score each prompt by the updates of the tasks that it may belong to; false: by the sum of all updates."""
        reward: float = Field(0.25, gt=0, lt=1)
        """Mean of r_x; the target is 2 r_x / beta nats above the previous policy. 0 < reward < 1."""
        reward_concentration: float = Field(20.0, gt=0)
        """Sum of the Beta distribution's parameters: the larger, the nearer each r_x to its mean. 0 < reward_concentration."""
        excess: float | None = Field(None, ge=0)
        """Rise of the mean fit loss of replayed rows that is allowed since the end of their task, squared nats. 0 <= excess. 0.1 without slack."""
        slack: float | None = Field(None, ge=0)
        """Instead of `excess`: mean fit loss allowed on replayed rows, squared nats. 0 <= slack."""
        multiplier: float = Field(1.0, ge=0)
        """Lambda at the first replayed row. 0 <= multiplier."""
        multiplier_rate: float = Field(0.1, ge=0)
        """Rise of lambda per optimizer step and unit of violation. 0 <= multiplier_rate."""
        multiplier_max: float | None = Field(None, gt=0)
        """Largest lambda: a replayed row weighs at most this many new ones. 0 < multiplier_max. None: no bound. 10 without slack."""
        sft_weight: float = Field(1.0, ge=0)
        """Weight of the NLL per token of the task's chosen answers. 0 <= sft_weight."""

        @model_validator(mode="before")
        @classmethod
        def _fill_constraint(cls, values: Any) -> Any:
            if not isinstance(values, Mapping) or values.get("slack") is not None:
                return values
            return {**values, **{key: value for key, value in cls.relative.items() if values.get(key) is None}}

        @model_validator(mode="after")
        def _one_constraint(self) -> Copr.Config:
            if self.slack is not None and self.excess is not None:
                raise ValueError(
                    f"slack {self.slack:g} and excess {self.excess:g} are two bounds of the same fit; give only excess, which counts "
                    "from the fit at the end of a row's own task"
                )
            if self.multiplier_max is not None and self.multiplier > self.multiplier_max:
                raise ValueError(
                    f"multiplier {self.multiplier:g} is above multiplier_max {self.multiplier_max:g}; lower it"
                )
            return self

    def __post_init__(self) -> None:
        self.objective = Objective(ObjectiveConfig(beta=self.config.beta))  # for the log's margins; not trained on
        self._multiplier = self.config.multiplier
        self._stored_M = torch.zeros(0)  # targets of the buffer's rows, in its order
        self._ended_M = torch.zeros(0)  # fit losses of the buffer's rows when their own task ended; empty with `slack`
        self._known: dict[str, float] = {}  # targets by the row's digest, of buffer and task
        self._target_N = torch.zeros(0)
        self._bound_N = torch.zeros(0)  # fit losses allowed, by row of the training set
        self._own_rows = 0  # rows of the task come first in the training set
        self._step: list[tuple[int, float]] = []  # row, violation: replayed rows of the optimizer step under way

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Find the stored target of each replayed row."""
        digests = [e.row.digest for e in history.replay.exemplars]
        self._known = dict(zip(digests, self._stored_M.tolist(), strict=True))
        self._step = []

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows with their new targets, then the buffer's with the old ones. A row in both counts as new."""
        logps_N2 = self.view.pair_logps(task.train)
        rewards_N = torch.tensor([self._reward(row) for row in task.train])
        own_N = target_logit(logps_N2[:, 0] - logps_N2[:, 1], rewards_N, self.config.beta)
        own = {row.digest: float(target) for row, target in zip(task.train, own_N, strict=True)}
        past = [e for e in history.replay.exemplars if e.row.digest not in own]
        self._target_N = torch.tensor([*own_N.tolist(), *(self._known[e.row.digest] for e in past)])
        allowed = self._allowed(history.replay)
        self._bound_N = torch.tensor([*([0.0] * len(task.train)), *(allowed[e.row.digest] for e in past)])
        self._own_rows = len(task.train)
        self._known |= own
        rows = (*task.train, *(e.row for e in past))
        return PreferenceDataset(rows, ((task.name,) * len(task.train)) + tuple(e.task for e in past))

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Fit and likelihood of the task's rows, lambda times the fit of replayed ones, [B]; the reference is not read."""
        fit_B = fit_loss(policy.chosen - policy.rejected, self._target_N.to(policy.chosen.device)[batch.index_B])
        own_B = batch.index_B < self._own_rows
        rows = batch.index_B[~own_B]
        over = fit_B.detach()[~own_B] - self._bound_N.to(fit_B.device)[rows]
        self._step += zip(rows.tolist(), over.tolist(), strict=True)
        task_B = fit_B + self.config.sft_weight * sft_nll(policy.chosen, batch.chosen_lengths_B)
        return torch.where(own_B, task_B, self._multiplier * fit_B)

    def adjust_update(self, step: Step) -> None:
        """Move lambda by the violation on the step's replayed rows of all processes."""
        over = [value for _, value in sorted(gather_object(self._step))]
        self._step = []
        if over:
            c = self.config
            risen = max(0.0, self._multiplier + c.multiplier_rate * sum(over) / len(over))
            self._multiplier = risen if c.multiplier_max is None else min(risen, c.multiplier_max)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report lambda; change nothing."""
        return {"multiplier": self._multiplier if history.tasks else None}

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """Keep rows as replay does, the new ones with their fit now; a row that could not be encoded has no target and stays out."""
        c = self.config
        buffer = update_buffer(
            history.replay,
            [row for row in task.train if not math.isnan(self._known[row.digest])],
            task.name,
            policy=c.replay_policy,
            share=c.replay_share,
            capacity=c.replay_capacity,
            seed=self.seed,
            select=c.replay_select,
            features=self.view.row_features if c.replay_select != "random" else None,
        )
        if c.slack is None:
            ended = self._ended(history.replay)
            digests = {row.digest for row in task.train}
            fresh = [e.row for e in buffer.exemplars if e.row.digest in digests]
            logps_N2 = self.view.pair_logps(fresh)
            targets_N = torch.tensor([self._known[row.digest] for row in fresh])
            now_N = fit_loss(logps_N2[:, 0] - logps_N2[:, 1], targets_N)
            ended |= dict(zip((row.digest for row in fresh), now_N.tolist(), strict=True))
            self._ended_M = torch.tensor([ended[e.row.digest] for e in buffer.exemplars])
        self._stored_M = torch.tensor([self._known[e.row.digest] for e in buffer.exemplars])
        return buffer

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Keep the targets and fits of the rows that are left, in their order; lambda goes on from where it was."""
        places = {e.row.digest: i for i, e in enumerate(before.exemplars)}
        left = torch.tensor([places[e.row.digest] for e in history.replay.exemplars], dtype=torch.long)
        self._stored_M = self._stored_M[left]
        self._ended_M = self._ended_M[left] if len(self._ended_M) else self._ended_M
        return ()

    def _allowed(self, buffer: ReplayBuffer) -> dict[str, float]:
        """Fit loss allowed for each row of the buffer, by digest."""
        digests, c = [e.row.digest for e in buffer.exemplars], self.config
        if c.slack is not None:
            return dict.fromkeys(digests, float(c.slack))
        ended = self._ended(buffer)
        return {digest: fit + c.excess for digest, fit in ended.items()}

    def _ended(self, buffer: ReplayBuffer) -> dict[str, float]:
        """Fit loss of the buffer's rows at the end of their own task, by digest; 0 for those kept under `slack`."""
        known = self._ended_M.tolist() or [0.0] * len(buffer.exemplars)
        return dict(zip((e.row.digest for e in buffer.exemplars), known, strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """Lambda, and the buffer's targets and fit losses in the order of its rows."""
        state = {"multiplier": torch.tensor(self._multiplier, dtype=torch.float64)}
        kept = {"targets": self._stored_M, "fits": self._ended_M}
        return state | {name: values for name, values in kept.items() if len(values)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._multiplier = float(state["multiplier"])
        self._stored_M = state.get("targets", torch.zeros(0))
        self._ended_M = state.get("fits", torch.zeros(0))

    def _reward(self, row: Row) -> float:
        """r_x of a row: a function of the seed and the row's content."""
        digest = hashlib.sha256(f"{self.seed}|copr|{row.digest}".encode()).digest()
        c = self.config
        generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        return float(generator.beta(c.reward * c.reward_concentration, (1 - c.reward) * c.reward_concentration))
