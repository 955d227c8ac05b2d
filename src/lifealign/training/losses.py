"""Options of preference losses, and the objective that a configuration makes of one.

The formulas are in `pair_losses` and `aft_losses`, the names in `loss_registry`.

Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from lifealign.core.errors import TrainingError
from lifealign.data.tasks import FEEDBACK_KINDS
from lifealign.model.batch import PairLogps
from lifealign.training.feedback import FeedbackConfig, RowTerms, feedback_losses
from lifealign.training.loss_registry import LOSSES as LOSSES
from lifealign.training.loss_registry import OPTIONS as OPTIONS
from lifealign.training.loss_registry import Loss as Loss
from lifealign.training.loss_registry import LossFunction
from lifealign.training.loss_registry import Pairs as Pairs
from lifealign.training.loss_registry import register_loss as register_loss
from lifealign.training.pair_losses import (
    DivergenceName,
    divergence_log_ratio,
    dpo_loss,
    focal_gradient,
    focal_weight,
    hinge_loss,
    ipo_loss,
    length_normalised_log_ratio,
    log_ratio,
    orpo_loss,
    robust_dpo_loss,
    sft_nll,
    simpo_loss,
)

ReferenceName = Literal["base", "task_start", "previous_task"]


ObjectiveName = Annotated[str, AfterValidator(LOSSES.known)]


REWARDS = ("length_normalised", "ld_alpha", "f_divergence")
"""Options that change how an answer's log-probs become its reward, of which one may be set."""


class ObjectiveConfig(FeedbackConfig):
    """Options of the preference objective, for strategies' Configs to inherit; options of other losses are refused."""

    defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "fpo": {"gamma": 2.0},
        "simpo": {"beta": 2.0, "simpo_margin": 0.5},
        "orpo": {"orpo_weight": 0.1},
        "robust": {"label_smoothing": 0.1},
        "aft": {"rpo_alpha": 1.0},
        "aft_dc": {"rpo_alpha": 1.0},
        "aft_bc": {"rpo_alpha": 1.0, "beta": 0.4},
        "aft_rank": {"rpo_alpha": 1.0, "beta": 0.4},
    }
    own_terms: ClassVar[bool] = False
    """Whether the strategy's loss of a pair has terms besides the objective, to which no focal weight applies."""
    _newer: ClassVar[frozenset[str]] = frozenset(
        {
            "label_smoothing",
            "rpo_alpha",
            "f_alpha",
            "margin_scale",
            "route",
            "reference_context",
            *REWARDS,
            *FeedbackConfig.feedback_keys,
        }
    )

    loss: ObjectiveName = "dpo"
    """`dpo`, `fpo` (focal DPO), `ipo`, `hinge`, `robust`; without a reference `simpo`, `orpo`, `aft`, `aft_dc`, `aft_bc`, `aft_rank`."""
    beta: float = Field(0.1, gt=0)
    """Reward per nat of log-ratio; IPO's tau; AFT's distance of the boundary, nats per token. 0 < beta. 0.1, for simpo 2.0, with
    length_normalised 5.0, for aft_bc and aft_rank 0.4; orpo, aft and aft_dc have none."""
    gamma: float | None = Field(None, ge=0)
    """Focal exponent, fpo only; 0 is DPO. 0 <= gamma. 2.0."""
    normalise_weights: bool = False
    """fpo only: divide each optimizer step's gradient by the mean focal weight of its pairs (a fair match with DPO)."""
    simpo_margin: float | None = Field(None, ge=0)
    """Target reward margin, simpo only (the paper's gamma). 0 <= simpo_margin. 0.5."""
    orpo_weight: float | None = Field(None, ge=0)
    """Weight of the odds-ratio term beside the likelihood, orpo only. 0 <= orpo_weight. 0.1."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round, dpo (cDPO) and robust. 0 <= label_smoothing < 0.5. 0, for robust 0.1."""
    length_normalised: bool = False
    """Reward per token of an answer, not per answer: dpo, fpo, ipo, hinge, robust."""
    ld_alpha: float = Field(1.0, ge=0, le=1)
    """Weight of the longer answer's tokens beyond the shorter one's length (LD-DPO): dpo, fpo, ipo, hinge, robust. 0 to 1; 1: none."""
    f_divergence: DivergenceName = "reverse_kl"
    """Divergence from the reference (f-DPO) for dpo, fpo, hinge, robust: `reverse_kl`, `forward_kl`, `js` or `alpha`."""
    f_alpha: float | None = Field(None, gt=0, lt=1)
    """Of the divergence `alpha` only: towards 0 it is reverse_kl, towards 1 forward_kl. 0 < f_alpha < 1. 0.5."""
    rpo_alpha: float = Field(0.0, ge=0)
    """Weight of the chosen answer's NLL per token, added to any loss but orpo. 0 <= rpo_alpha; 1 in the RPO paper."""
    margin_scale: float = Field(0.0, ge=0)
    """Reward margin asked for per unit of a row's `margin` (ODPO), dpo and hinge. 0 <= margin_scale; 0: margins are not used."""
    reference: ReferenceName = "base"
    """Reference policy: `base` (adapter off), `task_start` (after the SFT stage), `previous_task` (before the task)."""
    reference_context: str | None = Field(None, min_length=1)
    """Text that the reference sees as a system turn and the policy does not (LongPO), or @FILE. None: both see the same."""
    route: bool = False
    """Answer and score each prompt by the updates of the tasks that it may belong to; false: by the sum of all updates."""

    @model_validator(mode="before")
    @classmethod
    def _fill_objective_defaults(cls, values: Any) -> Any:
        # Filled in, not resolved later, so that a memory's stored configuration has every number that was used.
        if not isinstance(values, Mapping):
            return values
        loss = values.get("loss", cls.model_fields["loss"].default)
        own = dict(cls.defaults.get(loss, {})) if isinstance(loss, str) else {}
        if values.get("length_normalised") is True:
            own["beta"] = 5.0
        if values.get("f_divergence") == "alpha":
            own["f_alpha"] = 0.5
        return {**values, **{key: value for key, value in own.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _refuse_foreign_options(self) -> ObjectiveConfig:
        loss = LOSSES[self.loss]
        for key in self._changed(OPTIONS):
            if key not in loss.options:
                raise ValueError(
                    f"{key} is read by {_readers(key)} only, got {key} {getattr(self, key)} with loss {self.loss}"
                )
        if self.normalise_weights and self.own_terms:
            raise ValueError(
                "normalise_weights would divide this strategy's own terms by the mean focal weight, too; leave it at false"
            )
        if self.reference != "base" and not loss.reads_reference:
            raise ValueError(f"loss {self.loss} reads no reference, got reference {self.reference}; leave it at base")
        if self.reference_context is not None and not loss.reads_reference:
            raise ValueError(f"loss {self.loss} reads no reference, so reference_context has no effect; leave it out")
        if not loss.reads_beta and self.beta != type(self).model_fields["beta"].default:
            raise ValueError(f"loss {self.loss} reads no beta, got beta {self.beta}; leave it out")
        return self

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ObjectiveConfig:
        if len(rewards := self._changed(REWARDS)) > 1:
            raise ValueError(f"{rewards[0]} and {rewards[1]} each define the reward of an answer; set only one of them")
        if self.f_alpha is not None and self.f_divergence != "alpha":
            raise ValueError(
                f"f_alpha is read by f_divergence alpha only, got f_alpha {self.f_alpha} with f_divergence {self.f_divergence}"
            )
        if self.rpo_alpha and self.normalise_weights:
            raise ValueError(
                "normalise_weights would divide the likelihood term of rpo_alpha by the mean focal weight, too; set only one"
            )
        if self.rpo_alpha and self.ld_alpha != 1:
            raise ValueError(
                "rpo_alpha raises the likelihood of whole chosen answers, but ld_alpha takes part of their tokens out; "
                "set only one of them"
            )
        return self

    def _changed(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    def _unused_newer_keys(self) -> set[str]:
        """Without those that the loss has a number of its own for: read back, a 0 left out would become that number."""
        return super()._unused_newer_keys() - self.defaults.get(self.loss, {}).keys()


def _readers(option: str) -> str:
    names = [name for name in LOSSES if not LOSSES.is_outside(name) and option in LOSSES[name].options]
    return f"loss {names[0]}" if len(names) == 1 else f"the losses {', '.join(names[:-1])} and {names[-1]}"


class Losses(NamedTuple):
    """Losses, margins and weights of one batch of rows.

    Attributes:
        loss: [B], with gradient.
        margin: [B], detached: the implicit reward margin against the reference, also of objectives that do not read it; of
            feedback the reward's distance from the reference point, positive on the right side; of a demonstration its reward.
        weight: [B], detached: the focal weight; ones for objectives and rows without one.
    """

    loss: Tensor
    margin: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Objective:
    """The objective of a configuration.

    `config.normalise_weights` changes nothing here: the training loop divides the accumulated gradient of an optimizer
    step by the mean `weight` over all of its pairs, which is exact however the step is split into forwards.
    """

    config: ObjectiveConfig

    @property
    def beyond(self) -> float:
        """Weight of the longer answer's tokens beyond the shorter one's length, in the log-probs that it is given."""
        return self.config.ld_alpha

    @property
    def by_prompt(self) -> bool:
        """Whether rows of one prompt must be in one optimizer step and one forward."""
        return LOSSES[self.config.loss].by_prompt

    def __call__(
        self,
        policy: PairLogps,
        reference: PairLogps,
        lengths_chosen: Tensor,
        lengths_rejected: Tensor,
        rows: RowTerms = RowTerms(),  # noqa: B008
    ) -> Losses:
        """Losses of B rows: pairs have the configured loss, feedback `unpaired_loss`, demonstrations their NLL per token.

        Args:
            policy: log-probs with gradient, [B], summed over tokens with the weight `beyond` (`TokenLogps.pairs`).
            reference: the same of the reference; the reference-free objectives use them for `margin` only.
            lengths_chosen: response tokens of the chosen answers, [B], >= 1.
            lengths_rejected: response tokens of the rejected answers, [B], >= 1.
            rows: kinds and gaps of the rows, and what belongs to their optimizer step; a row of one answer has 0 for the log-prob
                and the length of the other.
        """
        if not rows.only_pairs:
            return self._mixed(policy, reference, lengths_chosen, lengths_rejected, rows)
        c, lengths = self.config, (lengths_chosen, lengths_rejected)
        if c.length_normalised:
            ratio = length_normalised_log_ratio(policy, reference, *lengths)
        else:
            ratio = divergence_log_ratio(policy, reference, c.f_divergence, c.f_alpha)
        margin = c.beta * ratio
        asked = margin - c.margin_scale * margin.new_tensor(rows.gaps) if c.margin_scale and any(rows.gaps) else margin
        found = LOSSES[c.loss].function(Pairs(policy, reference, *lengths, ratio, asked, rows.prompts, rows.answers), c)
        loss, weight = found if isinstance(found, tuple) else (found, torch.ones_like(margin))
        if loss.shape != margin.shape or weight.shape != margin.shape:
            raise TrainingError(
                f"loss {c.loss!r} returned shape {list(loss.shape)} for {len(margin)} pairs; return one value per pair"
            )
        if c.rpo_alpha:  # RPO, arXiv 2404.19733, eq. 1
            loss = loss + c.rpo_alpha * sft_nll(policy.chosen, lengths_chosen)
        return Losses(loss, margin.detach(), weight.detach())

    def _mixed(
        self,
        policy: PairLogps,
        reference: PairLogps,
        lengths_chosen: Tensor,
        lengths_rejected: Tensor,
        rows: RowTerms,
    ) -> Losses:
        c, found = self.config, list[tuple[list[int], Losses]]()
        h = log_ratio(policy, reference)
        if pairs := rows.at("pair"):
            own, other = (PairLogps(p.chosen[pairs], p.rejected[pairs]) for p in (policy, reference))
            found.append((pairs, self(own, other, lengths_chosen[pairs], lengths_rejected[pairs], rows.of(pairs))))
        if judged := rows.at(*FEEDBACK_KINDS):
            loss, margin = feedback_losses(c, c.beta, h[judged], [rows.kinds[i] for i in judged], rows.step)
            found.append((judged, Losses(loss, margin.detach(), torch.ones_like(loss))))
        if shown := rows.at("demonstration"):
            loss = c.demonstration_weight * sft_nll(policy.chosen[shown], lengths_chosen[shown])
            found.append((shown, Losses(loss, c.beta * h[shown].detach(), torch.ones_like(loss))))
        order = torch.tensor([i for at, _ in found for i in at], device=h.device).argsort()
        return Losses(*(torch.cat(parts)[order] for parts in zip(*(losses for _, losses in found), strict=True)))

    def margin_gradient(self, margin: Tensor) -> Tensor:
        """dL/dr [B] of the objectives that can skip pairs by weight: `fpo`, and `dpo` as `fpo` with gamma = 0."""
        return focal_gradient(margin, self.config.gamma or 0.0)


def _dpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return dpo_loss(pairs.margin, options.label_smoothing)


def _fpo(pairs: Pairs, options: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    assert options.gamma is not None
    weight = focal_weight(pairs.margin, options.gamma)
    return weight * dpo_loss(pairs.margin), weight


def _ipo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return ipo_loss(pairs.log_ratio, options.beta)


def _hinge(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return hinge_loss(pairs.margin)


def _robust(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return robust_dpo_loss(pairs.margin, options.label_smoothing)


def _simpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    assert options.simpo_margin is not None
    lengths = pairs.lengths_chosen, pairs.lengths_rejected
    return simpo_loss(pairs.policy, *lengths, options.beta, options.simpo_margin)


def _orpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    assert options.orpo_weight is not None
    return orpo_loss(pairs.policy, pairs.lengths_chosen, pairs.lengths_rejected, options.orpo_weight)


def _against_reference(function: LossFunction, *options: str) -> Loss:
    return Loss(function, options=frozenset(["length_normalised", "ld_alpha", "rpo_alpha", *options]))


LOSSES.built_in(
    {
        "dpo": _against_reference(_dpo, "f_divergence", "label_smoothing", "margin_scale"),
        "fpo": _against_reference(_fpo, "f_divergence", "gamma", "normalise_weights"),
        "ipo": _against_reference(_ipo),
        "hinge": _against_reference(_hinge, "f_divergence", "margin_scale"),
        "robust": _against_reference(_robust, "f_divergence", "label_smoothing"),
        "simpo": Loss(_simpo, reads_reference=False, options=frozenset(["simpo_margin", "rpo_alpha"])),
        "orpo": Loss(_orpo, reads_reference=False, options=frozenset(["orpo_weight"]), reads_beta=False),
        **{name: f"lifealign.training.aft_losses:{name.upper()}" for name in ("aft", "aft_dc", "aft_bc", "aft_rank")},
    }
)
