"""Formulas of losses of unpaired feedback: pure functions of log-probs, one value per row, float32.

Shapes: B rows, each one answer with a label: desirable (thumbs up) or not. A log-prob is the sum over the response tokens, in
nats. Nothing here is reduced over the batch but the reference points, which are numbers of a whole optimizer step, without a
gradient: the training loop forms them over the step and passes them in, so that a step is the same however it is split into
forwards.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LabelWeights(NamedTuple):
    """Weights of rows by their label (KTO's lambda_D and lambda_U), > 0."""

    desirable: float = 1.0
    undesirable: float = 1.0

    def of(self, desirable: Tensor, like: Tensor) -> Tensor:
        """The weight of each row, [B], in the type of `like`."""
        return torch.where(desirable, torch.full_like(like, self.desirable), torch.full_like(like, self.undesirable))


def balanced_weights(desirable: int, undesirable: int, ratio: float = 1.0) -> LabelWeights:
    """Weights with lambda_D n_D = ratio lambda_U n_U, the smaller of them 1 (KTO, arXiv 2402.01306).

    If there are no rows of one label, both weights are 1.

    Args:
        desirable: n_D, rows with that label. 0 <= desirable.
        undesirable: n_U. 0 <= undesirable.
        ratio: the paper takes 1 to 3/2. 0 < ratio.
    """
    if not desirable or not undesirable:
        return LabelWeights()
    quotient = ratio * undesirable / desirable
    return LabelWeights(max(quotient, 1.0), max(1 / quotient, 1.0))


def kto_reference_point(policy: Tensor, reference: Tensor) -> Tensor:
    """z0 = max(0, mean(log pi(y'|x) - log ref(y'|x))), a scalar without a gradient, nats (KTO, arXiv 2402.01306).

    It estimates KL(pi || ref) from answers y' that belong to other prompts of the step: row i's prompt with row i + 1's answer.
    Answers of the prompts themselves would move z0 with what is trained.

    Args:
        policy: summed log-probs of K >= 1 such answers, [K].
        reference: the same of the reference, [K].
    """
    return (policy - reference).detach().mean().clamp(min=0)


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    z0: Tensor | float,
    beta: float,
    weights: LabelWeights = LabelWeights(),  # noqa: B008
) -> Tensor:
    """lambda_y - v [B] (KTO, arXiv 2402.01306), in [0, lambda_y].

    v = lambda_D sigmoid(beta (r - z0)) of a desirable answer and lambda_U sigmoid(beta (z0 - r)) of another one, with
    r = log pi(y|x) - log ref(y|x). The gradient is largest at r = z0 and goes to 0 on both sides.

    Args:
        policy: summed log-probs with gradient, [B].
        reference: the same of the reference, [B].
        desirable: labels, bool [B].
        z0: `kto_reference_point` of the whole step, nats. 0 <= z0.
        beta: reward per nat. 0 < beta.
        weights: lambda_D and lambda_U.
    """
    gain = beta * (policy - reference - z0)
    # 1 - sigmoid(x) itself is 0 in float32 from x = 17 on, and so is the gradient of sigmoid(x).
    return weights.of(desirable, gain) * torch.exp(F.logsigmoid(torch.where(desirable, -gain, gain)))


def bco_shift(policy: Tensor, reference: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """Reward shift (mean reward of desirable answers + mean reward of the others) / 2, a scalar without a gradient.

    The delta of BCO (arXiv 2404.04656), in reward units. Both labels count the same, whatever their numbers. If a step has one label
    alone, the shift is the mean of that one.

    Args:
        policy: summed log-probs of all B >= 1 rows of a step, [B].
        reference: the same of the reference, [B].
        desirable: labels, bool [B].
        beta: reward per nat. 0 < beta.
    """
    reward = beta * (policy - reference).detach()
    means = [reward[rows].mean() for rows in (desirable, ~desirable) if bool(rows.any())]
    return torch.stack(means).mean()


def bco_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    shift: Tensor | float,
    beta: float,
    weights: LabelWeights = LabelWeights(),  # noqa: B008
) -> Tensor:
    """-log sigmoid(r - delta) [B] of a desirable answer, -log sigmoid(delta - r) of another one (BCO, arXiv 2404.04656).

    r = beta [log pi(y|x) - log ref(y|x)]: the cross-entropy of a classifier whose logit is the reward. Its mean bounds DPO's loss
    from above.

    Args:
        policy: summed log-probs with gradient, [B].
        reference: the same of the reference, [B].
        desirable: labels, bool [B].
        shift: delta, of `bco_shift` for the whole step or a moving average of it, reward units.
        beta: reward per nat. 0 < beta.
        weights: of rows by their label; 1 and 1 in the paper.
    """
    logit = beta * (policy - reference) - shift
    return weights.of(desirable, logit) * -F.logsigmoid(torch.where(desirable, logit, -logit))
