"""Preference losses by name, and the objective that a configuration makes of one; the formulas are in `pair_losses`.

Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from lifealign.core.config import Frozen
from lifealign.core.errors import ConfigError, TrainingError
from lifealign.core.registry import Registry
from lifealign.model.batch import PairLogps
from lifealign.training.pair_losses import (
    dpo_loss,
    focal_gradient,
    focal_weight,
    ipo_loss,
    log_ratio,
    orpo_loss,
    preference_margin,
    simpo_loss,
)

ReferenceName = Literal["base", "task_start", "previous_task"]


class Pairs(NamedTuple):
    """The inputs of a loss for B pairs.

    Attributes:
        policy: summed log-probs with gradient, [B] each.
        reference: summed log-probs of the reference, [B] each.
        lengths_chosen: response tokens of the chosen answers, [B], >= 1.
        lengths_rejected: response tokens of the rejected answers, [B], >= 1.
        margin: `preference_margin`, [B], with gradient.
    """

    policy: PairLogps
    reference: PairLogps
    lengths_chosen: Tensor
    lengths_rejected: Tensor
    margin: Tensor


LossFunction = Callable[[Pairs, "ObjectiveConfig"], Tensor | tuple[Tensor, Tensor]]
"""(pairs, options) -> loss [B]; or (loss, weight), both [B], if the loss is weighted pair by pair."""


@dataclass(frozen=True)
class Loss:
    """A loss that `strategy.loss` can name.

    Attributes:
        function: computes it.
        reads_reference: False: the reference's log-probs are not used.
    """

    function: LossFunction
    reads_reference: bool = True


def _check_loss(value: Any) -> str | None:
    callable_loss = isinstance(value, Loss) and callable(value.function)
    return None if callable_loss else f"expected a function (pairs, options) -> loss [B], got {value!r}"


LOSSES: Registry[Loss] = Registry(
    "loss",
    "lifealign.losses",
    check=_check_loss,
    code=lambda loss: loss.function,
    adapt=lambda value: value if isinstance(value, Loss) else Loss(value),
)


def register_loss(name: str, function: Any = None, *, reads_reference: bool = True) -> Any:
    """Register a loss under a name for `strategy.loss`; a decorator if `function` is left out.

    Args:
        name: lower-case letters, digits, - and _.
        function: (`Pairs`, options) -> loss [B], or (loss, weight). The options are the strategy's Config.
        reads_reference: False: no reference log-probs are needed, and an option `reference` is refused.

    Raises:
        ConfigError: the name is taken or malformed, or `function` is not a function.
    """
    if function is None:
        return lambda function: register_loss(name, function, reads_reference=reads_reference)
    LOSSES.register(name, Loss(function, reads_reference))
    return function


def _known_loss(name: str) -> str:
    try:
        LOSSES.find(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


ObjectiveName = Annotated[str, AfterValidator(_known_loss)]


class ObjectiveConfig(Frozen):
    """Options of the preference objective, for strategies' Configs to inherit; options of other losses are refused."""

    defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "fpo": {"gamma": 2.0},
        "simpo": {"beta": 2.0, "simpo_margin": 0.5},
        "orpo": {"orpo_weight": 0.1},
    }
    own_terms: ClassVar[bool] = False
    """Whether the strategy's loss of a pair has terms besides the objective, to which no focal weight applies."""
    readers: ClassVar[Mapping[str, str]] = {"gamma": "fpo", "simpo_margin": "simpo", "orpo_weight": "orpo"}

    loss: ObjectiveName = "dpo"
    """`dpo`, `fpo` (focal DPO), `ipo`, `simpo` or `orpo`; the last two read no reference."""
    beta: float = Field(0.1, gt=0)
    """Reward per nat of log-ratio; IPO's tau. 0 < beta. 0.1, for simpo 2.0; orpo has none."""
    gamma: float | None = Field(None, ge=0)
    """Focal exponent, fpo only; 0 is DPO. 0 <= gamma. 2.0."""
    normalise_weights: bool = False
    """fpo only: divide each optimizer step's gradient by the mean focal weight of its pairs (a fair match with DPO)."""
    simpo_margin: float | None = Field(None, ge=0)
    """Target reward margin, simpo only (the paper's gamma). 0 <= simpo_margin. 0.5."""
    orpo_weight: float | None = Field(None, ge=0)
    """Weight of the odds-ratio term beside the likelihood, orpo only. 0 <= orpo_weight. 0.1."""
    reference: ReferenceName = "base"
    """Reference policy: `base` (adapter off), `task_start` (after the SFT stage), `previous_task` (before the task)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_objective_defaults(cls, values: Any) -> Any:
        # Filled in, not resolved later, so that a memory's stored configuration has every number that was used.
        if not isinstance(values, Mapping):
            return values
        loss = values.get("loss", cls.model_fields["loss"].default)
        own = cls.defaults.get(loss, {}) if isinstance(loss, str) else {}
        return {**values, **{key: value for key, value in own.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _refuse_foreign_options(self) -> ObjectiveConfig:
        for key, owner in self.readers.items():
            value = getattr(self, key)
            if value is not None and self.loss != owner:
                raise ValueError(f"{key} is read by loss {owner} only, got {key} {value} with loss {self.loss}")
        if self.normalise_weights and self.loss != "fpo":
            raise ValueError(f"normalise_weights is read by loss fpo only, got loss {self.loss}")
        if self.normalise_weights and self.own_terms:
            raise ValueError(
                "normalise_weights would divide this strategy's own terms by the mean focal weight, too; leave it at false"
            )
        if self.reference != "base" and not LOSSES[self.loss].reads_reference:
            raise ValueError(f"loss {self.loss} reads no reference, got reference {self.reference}; leave it at base")
        if self.loss == "orpo" and self.beta != type(self).model_fields["beta"].default:
            raise ValueError(f"loss orpo reads no beta, got beta {self.beta}; its only option is orpo_weight")
        return self


class Losses(NamedTuple):
    """Losses, margins and weights of one batch of pairs.

    Attributes:
        loss: [B], with gradient.
        margin: [B], detached: the implicit reward margin against the reference, whatever the objective.
        weight: [B], detached: the focal weight; ones for objectives without one.
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

    def __call__(
        self, policy: PairLogps, reference: PairLogps, lengths_chosen: Tensor, lengths_rejected: Tensor
    ) -> Losses:
        """Losses of B pairs.

        Args:
            policy: summed log-probs with gradient, [B].
            reference: summed log-probs of the reference, [B]; the reference-free objectives use them for `margin` only.
            lengths_chosen: response tokens of the chosen answers, [B], >= 1.
            lengths_rejected: response tokens of the rejected answers, [B], >= 1.
        """
        name, margin = self.config.loss, preference_margin(policy, reference, self.config.beta)
        found = LOSSES[name].function(Pairs(policy, reference, lengths_chosen, lengths_rejected, margin), self.config)
        loss, weight = found if isinstance(found, tuple) else (found, torch.ones_like(margin))
        if loss.shape != margin.shape or weight.shape != margin.shape:
            raise TrainingError(
                f"loss {name!r} returned shape {list(loss.shape)} for {len(margin)} pairs; return one value per pair"
            )
        return Losses(loss, margin.detach(), weight.detach())

    def margin_gradient(self, margin: Tensor) -> Tensor:
        """dL/dr [B] of the objectives that can skip pairs by weight: `fpo`, and `dpo` as `fpo` with gamma = 0."""
        return focal_gradient(margin, self.config.gamma or 0.0)


def _dpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return dpo_loss(pairs.margin)


def _fpo(pairs: Pairs, options: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    assert options.gamma is not None
    weight = focal_weight(pairs.margin, options.gamma)
    return weight * dpo_loss(pairs.margin), weight


def _ipo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return ipo_loss(log_ratio(pairs.policy, pairs.reference), options.beta)


def _simpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    assert options.simpo_margin is not None
    lengths = pairs.lengths_chosen, pairs.lengths_rejected
    return simpo_loss(pairs.policy, *lengths, options.beta, options.simpo_margin)


def _orpo(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    assert options.orpo_weight is not None
    return orpo_loss(pairs.policy, pairs.lengths_chosen, pairs.lengths_rejected, options.orpo_weight)


LOSSES.built_in(
    {
        "dpo": Loss(_dpo),
        "fpo": Loss(_fpo),
        "ipo": Loss(_ipo),
        "simpo": Loss(_simpo, reads_reference=False),
        "orpo": Loss(_orpo, reads_reference=False),
    }
)
