"""Formulas of preference losses: pure functions of log-probs, one value per pair, float32.

Shapes: B pairs. A log-prob is the sum over the response tokens of one answer, in nats; a margin is in units of reward
(beta times nats). Nothing here is reduced over the batch and no weight is detached: the training loop averages, so that
a step is the same however it is split into forwards.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lifealign.model.batch import PairLogps

DivergenceName = Literal["reverse_kl", "forward_kl", "js", "alpha"]

STRAIGHT_FROM = 30.0
"""Exponent from which exp goes on in a straight line, so that its value and gradient, squared, stay finite in float32."""


def log_ratio(policy: PairLogps, reference: PairLogps) -> Tensor:
    """Log-ratio h [B] = [log pi(y_c|x) - log ref(y_c|x)] - [log pi(y_r|x) - log ref(y_r|x)], nats."""
    return (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)


def preference_margin(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    """Implicit reward margin r [B] = beta h (DPO, arXiv 2305.18290, eq. 7). 0 < beta."""
    return beta * log_ratio(policy, reference)


def length_normalised_log_ratio(
    policy: PairLogps, reference: PairLogps, lengths_chosen: Tensor, lengths_rejected: Tensor
) -> Tensor:
    """[log pi(y_c|x) - log ref(y_c|x)] / |y_c| - [log pi(y_r|x) - log ref(y_r|x)] / |y_r| [B], nats per token.

    Length-normalised DPO (Tulu 3, arXiv 2411.15124, where beta is 5).

    Args:
        policy: summed log-probs [B].
        reference: the same of the reference.
        lengths_chosen: response tokens behind each sum, [B], >= 1.
        lengths_rejected: the same for the other answer.
    """
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    return chosen / lengths_chosen - rejected / lengths_rejected


def divergence_log_ratio(
    policy: PairLogps, reference: PairLogps, divergence: DivergenceName, alpha: float | None = None
) -> Tensor:
    """f'(u_c) - f'(u_r) [B] of the ratios u = pi/ref, which takes the place of h (f-DPO, arXiv 2309.16240, table 1).

    | divergence | f'(u), but for a constant |
    |---|---|
    | reverse_kl | log u: DPO |
    | forward_kl | -1/u |
    | js | log(2u / (1 + u)) |
    | alpha | (1 - u^-alpha) / alpha; alpha towards 0 is reverse_kl, towards 1 forward_kl |

    u^-alpha is a straight line below u = exp(-30 / alpha), so that an answer that the policy has all but lost keeps a finite
    gradient.

    Args:
        policy: summed log-probs [B].
        reference: the same of the reference.
        divergence: name of f.
        alpha: of `alpha` alone. 0 < alpha < 1.
    """
    if divergence == "reverse_kl":
        return log_ratio(policy, reference)
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    if divergence == "js":
        return F.logsigmoid(chosen) - F.logsigmoid(rejected)
    power = 1.0 if divergence == "forward_kl" else alpha
    assert power is not None
    return (_expm1(-power * rejected) - _expm1(-power * chosen)) / power


def _expm1(exponent: Tensor) -> Tensor:
    """exp(x) - 1, from `STRAIGHT_FROM` on its tangent there."""
    tangent = math.expm1(STRAIGHT_FROM) + (exponent - STRAIGHT_FROM) * math.exp(STRAIGHT_FROM)
    return torch.where(exponent > STRAIGHT_FROM, tangent, torch.expm1(exponent.clamp(max=STRAIGHT_FROM)))


def dpo_loss(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log sigmoid(r) - e log sigmoid(-r) [B], e = label_smoothing.

    e = 0 is DPO (arXiv 2305.18290, eq. 7); above, cDPO (E. Mitchell, "A note on DPO with noisy preferences and relationship
    to IPO", 2023), least at r = log((1 - e) / e). Computed as -log sigmoid(r) + e r, which is the same.

    Args:
        margin: r, [B].
        label_smoothing: share of pairs whose labels are taken to be swapped. 0 <= e < 0.5.
    """
    loss = -F.logsigmoid(margin)
    return loss + label_smoothing * margin if label_smoothing else loss


def robust_dpo_loss(margin: Tensor, label_smoothing: float) -> Tensor:
    """[-(1 - e) log sigmoid(r) + e log sigmoid(-r)] / (1 - 2e) [B], e = label_smoothing (rDPO, arXiv 2403.00409).

    If a share e of the labels is swapped at random, its mean over them is DPO's loss with the true labels. Computed as
    -log sigmoid(r) - e r / (1 - 2e), which is the same: it has no lower bound, and pushes r up however large it is.

    Args:
        margin: r, [B].
        label_smoothing: share of pairs whose labels are swapped. 0 <= e < 0.5; 0 is DPO.
    """
    return dpo_loss(margin) - label_smoothing / (1 - 2 * label_smoothing) * margin


def hinge_loss(margin: Tensor) -> Tensor:
    """max(0, 1 - r) [B] (the hinge of SLiC-HF, arXiv 2305.10425, on DPO's margin as in RSO, arXiv 2309.06657).

    From r = 1 on there is no gradient.
    """
    return torch.relu(1 - margin)


def focal_weight(margin: Tensor, gamma: float) -> Tensor:
    """(1 - sigmoid(r))^gamma [B], in [0, 1] (FPO, arXiv 2509.17183, eq. 3). 0 <= gamma.

    Computed as exp(gamma log sigmoid(-r)): 1 - sigmoid(r) itself is 0 in float32 from r = 17 on.
    """
    return torch.exp(gamma * F.logsigmoid(-margin))


def focal_dpo_loss(margin: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - sigmoid(r))^gamma log sigmoid(r) [B] (FPO, arXiv 2509.17183, eq. 3); gamma = 0 is DPO, bit for bit.

    The gradient flows through the weight too. With policy == reference the loss is ln 2 * 0.5^gamma.
    """
    return focal_weight(margin, gamma) * dpo_loss(margin)


def focal_gradient(margin: Tensor, gamma: float) -> Tensor:
    """dL_FPO/dr [B] = -(1-p)^gamma [(1-p) - gamma p ln p], p = sigmoid(r): the gradient lost by skipping a pair."""
    p = torch.sigmoid(margin)
    return -focal_weight(margin, gamma) * (torch.sigmoid(-margin) - gamma * p * F.logsigmoid(margin))


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    """(h - 1/(2 beta))^2 [B] (IPO, arXiv 2310.12036, eq. 17).

    Args:
        h: `log_ratio`, [B], nats: NOT scaled by beta.
        beta: the paper's tau. 0 < beta. The loss pulls h to 1/(2 beta) and no further.
    """
    return (h - 1 / (2 * beta)) ** 2


def simpo_loss(
    policy: PairLogps, lengths_chosen: Tensor, lengths_rejected: Tensor, beta: float, target_margin: float
) -> Tensor:
    """-log sigmoid(beta/|y_c| log pi(y_c|x) - beta/|y_r| log pi(y_r|x) - target) [B] (SimPO, arXiv 2405.14734, eq. 6).

    Args:
        policy: summed log-probs [B]; no reference is used.
        lengths_chosen: response tokens behind each sum, [B], >= 1.
        lengths_rejected: the same for the other answer.
        beta: reward scale; 2.0 to 2.5 in the paper.
        target_margin: the paper's gamma, reward units. 0 <= target_margin.
    """
    return -F.logsigmoid(
        beta * policy.chosen / lengths_chosen - beta * policy.rejected / lengths_rejected - target_margin
    )


def sft_nll(logps: Tensor, lengths: Tensor) -> Tensor:
    """Negative log-likelihood per response token, [B], nats: every row weighs the same, long or short.

    Args:
        logps: summed log-probs [B].
        lengths: response tokens behind each sum, [B], >= 1.
    """
    return -logps / lengths


def orpo_loss(policy: PairLogps, lengths_chosen: Tensor, lengths_rejected: Tensor, weight: float) -> Tensor:
    """NLL(y_c) - weight log sigmoid(log odds(y_c) - log odds(y_r)) [B] (ORPO, arXiv 2403.07691, eq. 6 and 7).

    odds = P / (1 - P), log P the mean log-prob per response token (eq. 3 and 4). 0 <= weight (the paper's lambda).
    """
    nll = sft_nll(policy.chosen, lengths_chosen)
    odds_ratio = _log_odds(-nll) - _log_odds(policy.rejected / lengths_rejected)
    return nll - weight * F.logsigmoid(odds_ratio)


def _log_odds(mean_logp: Tensor) -> Tensor:
    """log(P / (1 - P)) of log P; an answer of probability one (log P = 0) counts as 1 - eps, which keeps it finite."""
    mean_logp = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    return mean_logp - torch.log(-torch.expm1(mean_logp))
