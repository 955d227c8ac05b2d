"""Continual proximal policy optimization (CPPO; Zhang et al., ICLR 2024), adapted to offline preference pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import RowKind, Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.replay import ReplayBuffer
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, PreferenceDataset, Step, Strategy


def balance_weights(
    margin_B: Tensor, logp_B: Tensor, seen_M2: Tensor, threshold_std: float, lower: float, upper: float
) -> tuple[Tensor, Tensor]:
    """Weights alpha, beta [B] of the policy and the retention loss, by how a pair compares with those seen.

    A value is high above mean + threshold_std * std (population), low below mean - threshold_std * std, of its column of `seen_M2`.

    | probability | reward margin | alpha | beta |
    |---|---|---|---|
    | high | high | upper | upper |
    | high | low | upper | lower |
    | low | high | upper | lower |
    | low | low | lower | lower |
    | all others | | 1 | 1 |

    Args:
        margin_B: reward margins.
        logp_B: mean log-prob per token of the chosen answer, nats.
        seen_M2: (margin, mean log-prob) of M >= 1 pairs.
        threshold_std: standard deviations, >= 0.
        lower: weight below 1.
        upper: weight above 1.
    """
    mean, spread = seen_M2.mean(0), threshold_std * seen_M2.std(0, correction=0)
    deviation_B2 = torch.stack([margin_B, logp_B], 1) - mean
    good, likely = (deviation_B2 > spread).unbind(1)
    bad, unlikely = (-deviation_B2 > spread).unbind(1)
    alpha_B, beta_B = torch.ones_like(margin_B), torch.ones_like(margin_B)
    alpha_B[(good | bad) & (likely | unlikely)] = upper
    alpha_B[bad & unlikely] = lower
    beta_B[(good | bad) & (likely | unlikely)] = lower
    beta_B[good & likely] = upper
    return alpha_B, beta_B


class Cppo(Strategy):
    """Weigh each pair by its margin and probability, and hold token log-probs near the previous policy.

    Continual proximal policy optimization (CPPO; Zhang et al., ICLR 2024). Loss of a pair: alpha L_preference + beta
    retention mean_t (log pi_t - log pi_prev,t)^2, with alpha and beta from `balance_weights`.

    Adapted: the paper weighs on-policy samples of PPO. Here a sample is a stored pair; its reward is the implicit
    margin against the reference, its probability the mean log-prob per token of the chosen answer, L_preference the
    objective. Thresholds come from the last `window` pairs trained on, in any task, and stay fixed during an
    optimizer step; until that many are seen, all weights are 1. So the window is as long as the task, unless it is set, and
    weights begin to act with the second pass or task. Weights step to the bounds; they carry no gradient.
    pi_prev is the policy before the task, frozen: its log-probs of the task's response tokens (both answers) are
    computed once. The first task has no earlier policy and no retention.

    SFT stage: plain, without weights and retention.

    Kept: 2 floats per pair of the window. While training, one float per response token of the task.

    Cost: 1, and one forward of the task's rows.
    """

    learns: ClassVar[tuple[RowKind, ...]] = ("pair",)

    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("window_missing", "the window is full, before which all weights are 1 (pairs that it lacks)", high=0),
        Sign("weighted_share", "some of the pairs have a weight other than 1", low=0.01),
    )

    class Config(ObjectiveConfig):
        """Objective, retention, thresholds."""

        own_terms = True

        retention: float = Field(0.1, ge=0)
        """Weight of the squared difference to the previous policy, per response token. 0 <= retention."""
        threshold_std: float = Field(1.0, ge=0)
        """Standard deviations from the mean at which a margin or probability counts as high or low. 0 <= threshold_std."""
        lower: float = Field(0.5, ge=0, le=1)
        """Weight of a loss that should count less. 0 <= lower <= 1."""
        upper: float = Field(2.0, ge=1)
        """Weight of a loss that should count more. 1 <= upper."""
        window: int | None = Field(None, ge=2)
        """Pairs behind mean and deviation; weights are 1 until that many are seen. 2 <= window. None: as many as the task has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen_M2 = torch.zeros(0, 2)
        # Row, margin, mean log-prob, whether a weight is not 1: of the optimizer step under way.
        self._step: list[tuple[int, float, float, bool]] = []
        self._window = self.config.window or 2
        self._counts = torch.zeros(2)  # of this task: pairs, those with a weight that is not 1
        self._previous: list[Tensor] = []

    def begin_task(self, model: nn.Module, task: Task, history: History) -> None:
        """Reset the counts; forget what an interrupted step has seen."""
        self._step, self._counts = [], torch.zeros(2)

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows; the previous policy's log-probs of their tokens are kept with them."""
        dataset = super().training_set(task, history)
        self._previous = self.view.token_logps(dataset.rows) if history.tasks else []
        self._window = self.config.window or max(2, len(dataset.rows))
        return dataset

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Balanced preference and retention loss [B]."""
        logp_B = policy.chosen.detach() / batch.chosen_lengths_B
        rows: list[int] = batch.index_B.tolist()
        alpha_B, beta_B = torch.ones_like(logp_B), torch.ones_like(logp_B)
        if len(self._seen_M2) >= self._window:
            c = self.config
            seen_M2 = self._seen_M2[-self._window :].to(logp_B.device)
            alpha_B, beta_B = balance_weights(objective.margin, logp_B, seen_M2, c.threshold_std, c.lower, c.upper)
        weighted_B = (alpha_B != 1) | (beta_B != 1)
        self._step += zip(rows, objective.margin.tolist(), logp_B.tolist(), weighted_B.tolist(), strict=True)
        loss_B = alpha_B * objective.loss
        if self._previous:
            drift = [
                ((now - self._previous[row].to(now.device)) ** 2).mean()
                for row, now in zip(rows, batch.tokens(), strict=True)
            ]
            loss_B = loss_B + self.config.retention * beta_B * torch.stack(drift)
        return loss_B

    def adjust_update(self, step: Step) -> None:
        """The step's pairs enter the window, in the order of their rows, independent of packing and processes."""
        pairs = sorted(gather_object(self._step))
        self._step = []
        if pairs:
            new_M2 = torch.tensor([[margin, logp] for _, margin, logp, _ in pairs])
            self._seen_M2 = torch.cat([self._seen_M2, new_M2])[-self._window :]
            self._counts = self._counts + torch.tensor([len(pairs), sum(weighted for *_, weighted in pairs)])

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report how many of the trained pairs had a weight other than 1, and of later tasks the share."""
        pairs, weighted = self._counts.tolist()
        later = bool(history.tasks) and pairs > 0  # in the first pass of a life there is nothing to compare with
        return {
            "balance": {"pairs": int(pairs), "weighted": int(weighted)},
            "window_missing": max(0, self._window - len(self._seen_M2)) if later else None,
            "weighted_share": weighted / pairs if later else None,
        }

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """The window holds numbers of the pairs last trained on, without their tasks."""
        return ["margins of its pairs stay in the window until newer ones replace them"] if len(self._seen_M2) else ()

    def state_dict(self) -> dict[str, Tensor]:
        """The window: (margin, mean log-prob) of the pairs last trained on, oldest first; and this task's counts."""
        return {"seen": self._seen_M2, "counts": self._counts} if len(self._seen_M2) else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._seen_M2 = state.get("seen", torch.zeros(0, 2))
        self._counts = state.get("counts", torch.zeros(2))
