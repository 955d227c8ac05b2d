"""Names of preference losses, and what a loss is given.

Shapes: B pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lifealign.core.errors import ConfigError
from lifealign.core.registry import Registry
from lifealign.model.batch import PairLogps

OPTIONS = (
    "gamma",
    "normalise_weights",
    "simpo_margin",
    "orpo_weight",
    "label_smoothing",
    "length_normalised",
    "ld_alpha",
    "f_divergence",
    "rpo_alpha",
    "margin_scale",
)
"""Options of `ObjectiveConfig` that some losses read and others refuse."""


class Pairs(NamedTuple):
    """The inputs of a loss for B pairs.

    Attributes:
        policy: log-probs with gradient, [B] each: summed over an answer's tokens, each times its weight (`ld_alpha`).
        reference: the same of the reference.
        lengths_chosen: response tokens of the chosen answers, [B], >= 1.
        lengths_rejected: response tokens of the rejected answers, [B], >= 1.
        log_ratio: h [B], with gradient: `pair_losses.log_ratio`, or what `length_normalised` or `f_divergence` puts there.
        margin: beta h, [B], with gradient; less the gap that the row asks for (`margin_scale`).
        prompts: ids of the rows' prompts; empty: each row has a prompt of its own.
        answers: ids of the rows' two answers, (chosen, rejected); empty with `prompts`.
    """

    policy: PairLogps
    reference: PairLogps
    lengths_chosen: Tensor
    lengths_rejected: Tensor
    log_ratio: Tensor
    margin: Tensor
    prompts: Sequence[Sequence[int]] = ()
    answers: Sequence[tuple[Sequence[int], Sequence[int]]] = ()


LossFunction = Callable[[Pairs, Any], Tensor | tuple[Tensor, Tensor]]
"""(pairs, options) -> loss [B]; or (loss, weight), both [B], if the loss is weighted pair by pair."""


@dataclass(frozen=True)
class Loss:
    """A loss that `strategy.loss` can name.

    Attributes:
        function: computes it.
        reads_reference: False: the reference's log-probs are not used.
        options: names of the options it reads, besides `beta` and `reference`; the others are refused.
        reads_beta: False: `beta` is not used.
        by_prompt: it compares answers across the rows of a prompt, which then share an optimizer step and a forward.
    """

    function: LossFunction
    reads_reference: bool = True
    options: frozenset[str] = frozenset()
    reads_beta: bool = True
    by_prompt: bool = False


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


def register_loss(
    name: str,
    function: Any = None,
    *,
    reads_reference: bool = True,
    options: Iterable[str] = (),
    by_prompt: bool = False,
) -> Any:
    """Register a loss under a name for `strategy.loss`; a decorator if `function` is left out.

    Args:
        name: lower-case letters, digits, - and _.
        function: (`Pairs`, options) -> loss [B], or (loss, weight). The options are the strategy's Config (`losses.ObjectiveConfig`).
        reads_reference: False: no reference log-probs are needed, and an option `reference` is refused.
        options: those of `OPTIONS` that it reads; others are refused. `rpo_alpha` is added to any loss that names it.
        by_prompt: see `Loss`; then `Pairs.prompts` and `Pairs.answers` hold whole groups.

    Raises:
        ConfigError: the name is taken or malformed, `function` is not a function, or there is no such option.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(f"loss {name!r} cannot be registered: unknown options {unknown}; allowed: {list(OPTIONS)}")
    if function is None:
        return lambda f: register_loss(name, f, reads_reference=reads_reference, options=options, by_prompt=by_prompt)
    LOSSES.register(name, Loss(function, reads_reference, frozenset(options), by_prompt=by_prompt))
    return function
