"""The inputs of a loss for a batch of rows: log-probs, lengths, tokens, kinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lifealign.data.tasks import RowKind


@dataclass(frozen=True)
class PairLogps:
    """Summed log-probs of the two answers of each pair; 0 for an answer that a row of another kind lacks.

    Attributes:
        chosen: [B], nats, float32 (or float64).
        rejected: [B], nats, float32 (or float64).

    Raises:
        ValueError: the shapes differ, or a half-precision type, in which sums over tokens lose whole nats.
    """

    chosen: Tensor
    rejected: Tensor

    def __post_init__(self) -> None:
        if self.chosen.shape != self.rejected.shape:
            raise ValueError(
                f"chosen has shape {tuple(self.chosen.shape)}, but rejected has {tuple(self.rejected.shape)}; "
                "they must be equal"
            )
        for logps in (self.chosen, self.rejected):
            if logps.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(f"log-probs must be float32 or float64, got {logps.dtype}")


@dataclass(frozen=True)
class PreferenceBatch:
    """The inputs of a strategy's loss for the pairs of one forward.

    Attributes:
        index_B: positions of the pairs' rows in the strategy's training set.
        chosen_lengths_B: response tokens of the chosen answers, float32.
        rejected_lengths_B: response tokens of the rejected answers, float32.
        token_T: the policy's log-probs of all response tokens, chosen then rejected of each pair (SFT: chosen only), with
            a graph; None outside training.
        prompts: ids of the pairs' prompts as in the pack, including virtual ones.
        kinds: of the rows; empty: all are pairs. A row of one answer has a length of 0 for the other one.
        gaps: the rows' `Row.margin`, 0 where there is none; empty: there is none.
        answers: ids of the pairs' answers, (chosen, rejected).
        sft_T: SFT stage only: the loss of each token, if it is not the token's NLL (see `sft_losses`).
    """

    index_B: Tensor
    chosen_lengths_B: Tensor
    rejected_lengths_B: Tensor
    token_T: Tensor | None = None
    prompts: tuple[tuple[int, ...], ...] = ()
    kinds: tuple[RowKind, ...] = ()
    gaps: tuple[float, ...] = ()
    answers: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    sft_T: Tensor | None = None

    def tokens(self) -> list[Tensor]:
        """`token_T` of the preference stage, split into one part per pair."""
        assert self.token_T is not None
        sizes = (self.chosen_lengths_B + self.rejected_lengths_B).long().tolist()
        return list(torch.split(self.token_T, sizes))
