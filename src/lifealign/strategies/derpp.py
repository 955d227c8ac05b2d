"""Dark experience replay (DER++): old pairs keep their loss, and the log-probs that they had when their task ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lifealign.data.tasks import RowKind, Task
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.strategies.replay import Replay
from lifealign.training.losses import Losses
from lifealign.training.replay import Exemplar, ReplayBuffer, shuffled
from lifealign.training.signs import Sign
from lifealign.training.strategy import History, PreferenceDataset


def matching_loss(now: Tensor, stored: Tensor) -> Tensor:
    """Mean square of now - stored over the last dimension, [B, K] -> [B] (DER, arXiv 2004.07211, eq. 5)."""
    return ((now - stored) ** 2).mean(-1)


def draw(exemplars: Sequence[Exemplar], size: int, seed: int, task: str, what: str) -> list[Exemplar]:
    """Draw `size` exemplars, going through all of them as often as needed, each time in another random order."""
    keys = [e.row.digest for e in exemplars]
    drawn: list[Exemplar] = []
    while exemplars and len(drawn) < size:
        order = shuffled(keys, seed, task, f"{what} {len(drawn)}")
        drawn += [exemplars[i] for i in order][: size - len(drawn)]
    return drawn


class DERpp(Replay):
    """Replay earlier pairs twice: with the loss, and at the log-probs that they had when their task ended.

    Dark experience replay (DER++; Buzzega et al. 2020, arXiv 2004.07211, eq. 6): L(task's pairs) + logps_weight MSE(z
    now, z stored) on one draw from the buffer + buffer_weight L(pairs) on another.

    Adapted: z, the logits there, are the mean log-probs per token of a pair's two answers, as they were at the end of
    the pair's task. The two draws are independent and each as large as the task (a small buffer is repeated);
    all three parts are shuffled together, and a step's loss is the mean over its pairs, so the parts weigh 1 :
    logps_weight : buffer_weight.

    SFT stage: the same with the NLL of the chosen answers as L and the chosen answer's z alone.

    Kept: the buffer (rows) and two floats per row of it.

    Cost: 3 (each part has the task's size).
    """

    learns: ClassVar[tuple[RowKind, ...]] = ("pair",)

    signs: ClassVar[tuple[Sign, ...]] = (
        Sign("matched", "rows of earlier tasks are held to their stored log-probs, as many as the task has", low=0.5),
    )

    class Config(Replay.Config):
        """Objective, buffer and weights."""

        own_terms = True

        logps_weight: float = Field(0.3, ge=0)
        """Weight of the stored log-probs (paper: alpha), per square nat. 0 <= logps_weight; buffer_weight 0: DER."""
        buffer_weight: float = Field(0.5, ge=0)
        """Weight of the buffer's own loss (the paper's beta). 0 <= buffer_weight; with logps_weight 0 it is replay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._logps: dict[int, tuple[float, float]] = {}  # exemplar's number -> summed log-probs when its task ended
        self._weights_N2 = torch.zeros(0, 2)  # of the loss and of the stored log-probs, by row of the training set
        self._stored_N2 = torch.zeros(0, 2)  # summed log-probs; zeros where there are none

    def training_set(self, task: Task, history: History) -> PreferenceDataset:
        """The task's rows, a draw whose log-probs are matched, and a draw that is trained on."""
        own = {row.digest for row in task.train}
        usable = {row.digest for row in self.view.usable([e.row for e in history.replay.exemplars])} - own
        past = [e for e in history.replay.exemplars if e.row.digest in usable]
        matched = draw(past, len(task.train), self.seed, task.name, "match")
        again = draw(past, len(task.train), self.seed, task.name, "again")
        parts = (
            (len(task.train), (1.0, 0.0)),
            (len(matched), (0.0, self.config.logps_weight)),
            (len(again), (self.config.buffer_weight, 0.0)),
        )
        self._weights_N2 = torch.tensor([weights for size, weights in parts for _ in range(size)])
        self._stored_N2 = torch.zeros(len(self._weights_N2), 2)
        for i, exemplar in enumerate(matched, len(task.train)):
            self._stored_N2[i] = torch.tensor(self._logps[exemplar.index])
        drawn = (*matched, *again)
        rows = (*task.train, *(e.row for e in drawn))
        return PreferenceDataset(rows, (*((task.name,) * len(task.train)), *(e.task for e in drawn)))

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Loss of each pair by the draw that it belongs to, [B]."""
        weights_B2, stored_B2 = self._of(batch)
        lengths_B2 = torch.stack([batch.chosen_lengths_B, batch.rejected_lengths_B], -1)
        now_B2 = torch.stack([policy.chosen, policy.rejected], -1) / lengths_B2
        match_B = matching_loss(now_B2, stored_B2 / lengths_B2)
        return weights_B2[:, 0] * objective.loss + weights_B2[:, 1] * match_B

    def sft_loss(self, batch: PreferenceBatch) -> Tensor:
        """Loss of each token by the draw of its pair, the same for all tokens of a matched answer, [T]."""
        assert batch.token_T is not None
        weights_B2, stored_B2 = self._of(batch)
        lengths = batch.chosen_lengths_B.long()
        now_B = torch.stack([part.mean() for part in torch.split(batch.token_T, lengths.tolist())])
        match_B = matching_loss(now_B[:, None], (stored_B2[:, 0] / lengths)[:, None])
        nll_T = weights_B2[:, 0].repeat_interleave(lengths) * super().sft_loss(batch)
        return nll_T + (weights_B2[:, 1] * match_B).repeat_interleave(lengths)

    def _of(self, batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
        """Weights and stored log-probs [B, 2] of a batch's pairs."""
        index, device = batch.index_B.cpu(), batch.index_B.device
        return self._weights_N2[index].to(device), self._stored_N2[index].to(device)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        """Report the rows whose log-probs were matched, per row of the task; change nothing."""
        # Empty before a first training set, as for an adapter that the memory begins with and whose rows are not known.
        matched = int((self._weights_N2[:, 1] > 0).sum()) if self._weights_N2.numel() else 0
        return {"matched": matched / max(1, len(task.train)) if history.tasks else None}

    def retain(self, task: Task, history: History) -> ReplayBuffer:
        """Keep rows as replay does, and the log-probs of the new ones at the task's final weights."""
        buffer = super().retain(task, history)
        fresh = [e for e in buffer.exemplars if e.index >= history.replay.seen]
        logps = self.view.pair_logps([e.row for e in fresh])  # NaN for rows too long to be trained on
        known = self._logps | {e.index: (float(c), float(r)) for e, (c, r) in zip(fresh, logps, strict=True)}
        self._logps = {e.index: known[e.index] for e in buffer.exemplars}
        return buffer

    def retire(self, before: ReplayBuffer, history: History) -> Sequence[str]:
        """Keep the log-probs of the rows that are left."""
        self._logps = {e.index: self._logps[e.index] for e in history.replay.exemplars}
        return ()

    def state_dict(self) -> dict[str, Tensor]:
        """Numbers [K] of the buffer's rows, and their summed log-probs [K, 2] (chosen, rejected), nats."""
        if not self._logps:
            return {}
        return {"index": torch.tensor(list(self._logps)), "logps": torch.tensor(list(self._logps.values()))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        pairs = zip(state["index"].tolist(), state["logps"].tolist(), strict=True) if state else ()
        self._logps = {int(i): (float(c), float(r)) for i, (c, r) in pairs}
