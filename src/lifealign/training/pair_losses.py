"""Formulas of preference losses: pure functions of log-probs, one value per pair, float32.

Shapes: B pairs. A log-prob is the sum over the response tokens of one answer, in nats; a margin is in units of reward
(beta times nats). Nothing here is reduced over the batch and no weight is detached: the training loop averages, so that
a step is the same however it is split into forwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lifealign.model.batch import PairLogps


def log_ratio(policy: PairLogps, reference: PairLogps) -> Tensor:
    """Log-ratio h [B] = [log pi(y_c|x) - log ref(y_c|x)] - [log pi(y_r|x) - log ref(y_r|x)], nats."""
    return (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)


def preference_margin(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    """Implicit reward margin r [B] = beta h (DPO, arXiv 2305.18290, eq. 7). 0 < beta."""
    return beta * log_ratio(policy, reference)


def dpo_loss(margin: Tensor) -> Tensor:
    """-log sigmoid(r) [B] (DPO, arXiv 2305.18290, eq. 7)."""
    return -F.logsigmoid(margin)


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
