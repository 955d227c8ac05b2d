"""Losses of the SFT stage by name (`sft.loss`): the likelihood, PoFT, and those from outside.

Shapes: B answers of one forward, T response tokens of them, end of the answer included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lifealign.core.config import SftConfig
from lifealign.core.errors import ConfigError, TrainingError
from lifealign.core.registry import Registry
from lifealign.model.batch import PreferenceBatch

OPTIONS = ("beta", "gamma", "references")
"""Options of `SftConfig` that some losses read and others refuse."""


class Answers(NamedTuple):
    """The inputs of an SFT loss.

    Attributes:
        token_T: the policy's log-probs of the response tokens, one answer after another, nats, with gradient.
        lengths_B: response tokens of each answer, >= 1.
        policy_B: log-prob per token of each answer under the policy, nats, with gradient.
        reference_B: the same under the references, their mean, without gradient; zeros if the loss reads none.
    """

    token_T: Tensor
    lengths_B: Tensor
    policy_B: Tensor
    reference_B: Tensor


SftFunction = Callable[[Answers, SftConfig], Tensor | tuple[Tensor, Tensor]]
"""(answers, options) -> loss; or (loss, weight [B]), if the gradient of each answer has a weight to show in the log."""


@dataclass(frozen=True)
class SftLoss:
    """A loss that `sft.loss` can name.

    Attributes:
        function: computes it.
        per: `token`: it returns [T], averaged over all tokens of an optimizer step; `answer`: [B], over all answers.
        reads_reference: it compares with `sft.references`, whose log-probs are computed once before the stage.
        options: those of `OPTIONS` that it reads; others are refused.
    """

    function: SftFunction
    per: Literal["token", "answer"] = "answer"
    reads_reference: bool = False
    options: frozenset[str] = frozenset()


def _check(value: Any) -> str | None:
    usable = isinstance(value, SftLoss) and callable(value.function)
    return None if usable else f"expected a function (answers, options) -> loss [B], got {value!r}"


SFT_LOSSES: Registry[SftLoss] = Registry(
    "SFT loss",
    "lifealign.sft_losses",
    check=_check,
    code=lambda loss: loss.function,
    adapt=lambda value: value if isinstance(value, SftLoss) else SftLoss(value),
)


def register_sft_loss(
    name: str,
    function: Any = None,
    *,
    per: Literal["token", "answer"] = "answer",
    reads_reference: bool = False,
    options: Iterable[str] = (),
) -> Any:
    """Register a loss under a name for `sft.loss`; a decorator if `function` is left out. See `SftLoss`.

    Raises:
        ConfigError: the name is taken or malformed, `function` is not a function, or there is no such option.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ConfigError(
            f"SFT loss {name!r} cannot be registered: unknown options {unknown}; allowed: {list(OPTIONS)}"
        )
    if function is None:
        return lambda f: register_sft_loss(name, f, per=per, reads_reference=reads_reference, options=options)
    SFT_LOSSES.register(name, SftLoss(function, per, reads_reference, frozenset(options)))
    return function


def poft_loss(policy_B: Tensor, reference_B: Tensor, beta: float = 1.0, gamma: float = 0.0) -> tuple[Tensor, Tensor]:
    """-log sigmoid(beta (r - r_ref) - gamma) [B], and tau [B], the weight of each answer's gradient (PoFT, arXiv 2412.12865).

    r is the log-prob per token of an answer, r_ref its mean over the references. The gradient is -beta tau dr with
    tau = sigmoid(gamma - beta (r - r_ref)): SFT in which an answer counts less the more likely it is under the policy than under
    the references. tau goes to 0 once the policy is far ahead of them.
    """
    margin = beta * (policy_B - reference_B) - gamma
    return -F.logsigmoid(margin), torch.sigmoid(-margin).detach()


def check_sft(options: SftConfig) -> None:
    """Refuse an unknown loss, and options that the loss does not read.

    Raises:
        ConfigError: names the option, its value and the losses that read it.
    """
    loss = SFT_LOSSES.find(options.loss)
    for key in OPTIONS:
        if key not in loss.options and (value := getattr(options, key)) != SftConfig.model_fields[key].default:
            readers = ", ".join(n for n in SFT_LOSSES if not SFT_LOSSES.is_outside(n) and key in SFT_LOSSES[n].options)
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(
                f"sft.{key} is read by sft.loss={readers} only, got {key} {shown} with loss {options.loss}"
            )


def with_loss(
    batch: PreferenceBatch, options: SftConfig, reference_B: Tensor, tokens: int, answers: int
) -> tuple[PreferenceBatch, Tensor | None]:
    """The batch with the loss of each token (`sft_T`), and the weights [B] of the answers, if the loss has any.

    The loss of an answer is spread over its tokens so that the sum over all tokens of a step, divided by their number, is the mean
    over the step's answers.

    Args:
        batch: chosen answers of one forward, with `token_T`.
        options: of the stage.
        reference_B: see `Answers`.
        tokens: response tokens of the whole optimizer step.
        answers: answers of the whole optimizer step.
    """
    loss, lengths_B = SFT_LOSSES.find(options.loss), batch.chosen_lengths_B
    assert batch.token_T is not None
    sizes = lengths_B.long()
    sums_B = torch.stack([part.sum() for part in torch.split(batch.token_T, sizes.tolist())])
    found = loss.function(Answers(batch.token_T, lengths_B, sums_B / lengths_B, reference_B), options)
    value, weight_B = found if isinstance(found, tuple) else (found, None)
    wanted = batch.token_T if loss.per == "token" else sums_B
    if value.shape != wanted.shape or (weight_B is not None and weight_B.shape != sums_B.shape):
        raise TrainingError(
            f"SFT loss {options.loss!r} returned shape {list(value.shape)}; return one value per {loss.per}, {list(wanted.shape)}"
        )
    if loss.per == "answer":
        value = (value * (tokens / answers) / lengths_B).repeat_interleave(sizes)
    return replace(batch, sft_T=value), weight_B


def _nll(answers: Answers, options: SftConfig) -> Tensor:
    return -answers.token_T


def _poft(answers: Answers, options: SftConfig) -> tuple[Tensor, Tensor]:
    return poft_loss(answers.policy_B, answers.reference_B, options.beta, options.gamma)


SFT_LOSSES.built_in(
    {"nll": SftLoss(_nll, "token"), "poft": SftLoss(_poft, reads_reference=True, options=frozenset(OPTIONS))}
)
