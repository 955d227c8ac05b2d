"""Rows of one answer in training: options, the weights of a stage, and the reference point of an optimizer step.

The formulas are in `unpaired_losses`. A row's log-ratio h (`pair_losses.log_ratio`) is already signed, because the answer that it
lacks has a log-prob of 0: h = +r of a desirable answer and -r of an undesirable one, r = log pi(y|x) - log ref(y|x).

Shapes: B rows of one forward, N rows of an optimizer step, K rows of it that are feedback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from lifealign.core.frozen import Frozen
from lifealign.data.tasks import FEEDBACK_KINDS, RowKind
from lifealign.model.batch import PreferenceBatch
from lifealign.model.encoded import EncodedPair
from lifealign.training.unpaired_losses import (
    LabelWeights,
    balanced_weights,
    bco_loss,
    bco_shift,
    kto_loss,
    kto_reference_point,
)

READERS: Mapping[RowKind, Sequence[str]] = {
    "undesirable": ("unpaired_loss", "desirable_weight", "undesirable_weight"),
    "demonstration": ("demonstration_weight",),
}
"""Kind of rows -> options of the objective that only such rows read."""


class FeedbackConfig(Frozen):
    """Options for rows of one answer; they change nothing for pairs."""

    feedback_keys: ClassVar[frozenset[str]] = frozenset(
        {"unpaired_loss", "desirable_weight", "undesirable_weight", "demonstration_weight"}
    )

    unpaired_loss: Literal["kto", "bco"] = "kto"
    """Loss of feedback on one answer (thumbs up or down): `kto` or `bco`, with `beta`, against the reference."""
    desirable_weight: float | None = Field(None, gt=0)
    """Weight of a desirable answer (thumbs up). 0 < desirable_weight. None: both labels weigh the same in sum."""
    undesirable_weight: float | None = Field(None, gt=0)
    """Weight of an undesirable answer (thumbs down). 0 < undesirable_weight. None: both labels weigh the same in sum."""
    demonstration_weight: float = Field(1.0, gt=0)
    """Weight of a demonstration's NLL per token. 0 < demonstration_weight."""

    def label_weights(self, desirable: int, undesirable: int) -> LabelWeights:
        """Weights as configured; those left open balance the labels: weight times number is equal for both.

        Args:
            desirable: number of such rows. 0 <= desirable.
            undesirable: number of such rows. 0 <= undesirable.
        """
        up, down = self.desirable_weight, self.undesirable_weight
        both = desirable > 0 and undesirable > 0
        if up is None and down is None:
            return balanced_weights(desirable, undesirable)
        if up is None:
            assert down is not None
            return LabelWeights(down * undesirable / desirable if both else 1.0, down)
        if down is None:
            return LabelWeights(up, up * desirable / undesirable if both else 1.0)
        return LabelWeights(up, down)


class StepTerms(NamedTuple):
    """What the loss of feedback needs of a whole optimizer step.

    Attributes:
        point: KTO's z0, nats, or BCO's shift, reward units.
        weights: of the rows by their label.
    """

    point: float = 0.0
    weights: LabelWeights = LabelWeights()


@dataclass(frozen=True)
class RowTerms:
    """What an objective needs to know of B rows besides their log-probs.

    Attributes:
        kinds: of the rows; empty: all are pairs.
        gaps: `Row.margin` of the rows, 0 for none; empty: there is none.
        step: of their optimizer step.
        prompts: ids of the rows' prompts; empty: not known, each row has its own.
        answers: ids of the rows' answers, (chosen, rejected); empty with `prompts`.
    """

    kinds: Sequence[RowKind] = ()
    gaps: Sequence[float] = ()
    step: StepTerms = field(default_factory=StepTerms)
    prompts: Sequence[Sequence[int]] = ()
    answers: Sequence[tuple[Sequence[int], Sequence[int]]] = ()

    @classmethod
    def of_batch(cls, batch: PreferenceBatch, step: StepTerms) -> RowTerms:
        """Those of the rows of one forward."""
        return cls(batch.kinds, batch.gaps, step, batch.prompts, batch.answers)

    def of(self, index: Sequence[int]) -> RowTerms:
        """Those of the pairs at some positions."""
        gaps, prompts, answers = ([x[i] for i in index] if x else () for x in (self.gaps, self.prompts, self.answers))
        return RowTerms((), gaps, self.step, prompts, answers)  # type: ignore[arg-type]

    @property
    def only_pairs(self) -> bool:
        """Whether all rows are pairs."""
        return all(kind == "pair" for kind in self.kinds)

    def at(self, *kinds: RowKind) -> list[int]:
        """Positions of the rows of these kinds."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]


@dataclass(frozen=True)
class Feedback:
    """The feedback among the rows of a stage.

    Attributes:
        others: position of a row of feedback -> position, in the same list, of its prompt with another row's answer.
        weights: of the rows by their label.
    """

    others: Mapping[int, int] = field(default_factory=dict)
    weights: LabelWeights = field(default_factory=LabelWeights)

    def asked(self, pairs: Sequence[EncodedPair], window: Sequence[int], loss: Literal["kto", "bco"]) -> list[int]:
        """Positions of the rows whose log-probs give the reference point of a step on the rows at `window`."""
        feedback = [i for i in window if pairs[i].kind in FEEDBACK_KINDS]
        return feedback if loss == "bco" else [self.others[i] for i in feedback if i in self.others]


def with_others(pairs: Sequence[EncodedPair], config: FeedbackConfig) -> tuple[list[EncodedPair], Feedback]:
    """The rows with, behind them, each prompt of feedback with an answer that belongs to another prompt.

    KTO estimates how far the policy is from the reference by them. The answer is that of the next row of feedback that has another
    prompt, so it is the same in every epoch, and the reference's log-probs are computed once.
    """
    found = list(pairs)
    others: dict[int, int] = {}
    feedback = [i for i, pair in enumerate(pairs) if pair.kind in FEEDBACK_KINDS]
    longest = max((len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs), default=0)
    for i, j in zip(feedback, _next_prompt([pairs[i] for i in feedback]), strict=True):
        if j is not None:
            others[i] = len(found)
            found.append(_mismatched(pairs[i], pairs[feedback[j]], longest))
    up = sum(pairs[i].kind == "desirable" for i in feedback)
    return found, Feedback(others, config.label_weights(up, len(feedback) - up))


def _next_prompt(pairs: Sequence[EncodedPair]) -> list[int | None]:
    """For each row the position of the next one with another prompt, going round; None if all prompts are equal."""
    count = len(pairs)
    found: list[int | None] = [None] * count
    for step in range(2 * count - 1, -1, -1):
        i, after = step % count, (step + 1) % count
        found[i] = after if pairs[i].prompt != pairs[after].prompt else found[after]
    return found


def _mismatched(asked: EncodedPair, answered: EncodedPair, longest: int) -> EncodedPair:
    """The prompt of one row with the answer of another, cut to `longest` ids in all."""
    room = longest - len(asked.prompt)
    answer = (answered.chosen or answered.rejected)[:room]
    context = min(max(answered.chosen_context, answered.rejected_context), len(answer) - 1)
    return replace(
        asked, chosen=answer, rejected=(), kind="desirable", digest="", chosen_context=context, rejected_context=0
    )


def reference_point(
    config: FeedbackConfig, beta: float, policy_K2: Tensor, reference_K2: Tensor, pairs: Sequence[EncodedPair]
) -> float:
    """KTO's z0 (nats) or BCO's shift (reward units) of a step; 0 without rows.

    Args:
        config: names the loss.
        beta: reward per nat. 0 < beta.
        policy_K2: summed log-probs (chosen, rejected) of the rows that `Feedback.asked` names, [K, 2].
        reference_K2: the same of the reference, [K, 2].
        pairs: those rows.
    """
    if not pairs:
        return 0.0
    policy, reference = policy_K2.sum(1), reference_K2.sum(1)  # of the one answer: the other's is 0
    if config.unpaired_loss == "kto":
        return float(kto_reference_point(policy, reference))
    return float(bco_shift(policy, reference, torch.tensor([p.kind == "desirable" for p in pairs]), beta))


def feedback_losses(
    config: FeedbackConfig, beta: float, log_ratio: Tensor, kinds: Sequence[RowKind], step: StepTerms
) -> tuple[Tensor, Tensor]:
    """Loss [B] and margin [B] of feedback; the margin is the reward's distance from the reference point, positive on the right side.

    Args:
        config: names the loss.
        beta: reward per nat. 0 < beta.
        log_ratio: h [B], nats, with gradient.
        kinds: `desirable` or `undesirable`, [B].
        step: reference point and weights.
    """
    desirable = torch.tensor([kind == "desirable" for kind in kinds], device=log_ratio.device)
    sign = torch.where(desirable, 1.0, -1.0).to(log_ratio.dtype)
    ratio, none = sign * log_ratio, torch.zeros_like(log_ratio)
    if config.unpaired_loss == "kto":
        loss, zero = kto_loss(ratio, none, desirable, step.point, beta, step.weights), beta * step.point
    else:
        loss, zero = bco_loss(ratio, none, desirable, step.point, beta, step.weights), step.point
    return loss, sign * (beta * ratio - zero)
