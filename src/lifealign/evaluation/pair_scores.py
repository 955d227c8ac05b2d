"""Scores of held-out pairs: PURE functions of log-probs, numpy only; each gives one value per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifealign.data.tasks import Row
from lifealign.evaluation.metrics import Array


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probs of N held-out pairs, float64.

    Attributes:
        policy: [N, 2] (chosen, rejected), summed over the answer's tokens, nats.
        reference: [N, 2], of the base model.
        tokens: [N, 2], length of each answer.
        beta: reward per nat.
        rows: the N rows themselves, in the same order.
    """

    policy: Array
    reference: Array
    tokens: Array
    beta: float
    rows: Sequence[Row] = ()


def accuracy(pairs: PairLogProbs) -> Array:
    """1 where the reward margin is positive, 0.5 where it is 0 (policy equals reference), else 0; [N]."""
    return _wins(margin(pairs))


def margin(pairs: PairLogProbs) -> Array:
    """Beta * (log-ratio of the chosen answer - log-ratio of the rejected one), [N]."""
    ratio = pairs.policy - pairs.reference
    return np.asarray(pairs.beta * (ratio[:, 0] - ratio[:, 1]))


def likelihood_accuracy(pairs: PairLogProbs) -> Array:
    """1 where the chosen answer has the higher mean log-prob per token, 0.5 where both are equal, else 0; [N]."""
    mean = pairs.policy / pairs.tokens
    return _wins(mean[:, 0] - mean[:, 1])


def nll(pairs: PairLogProbs) -> Array:
    """Negative log-likelihood per token of the chosen answer, nats, [N]."""
    return np.asarray(-(pairs.policy[:, 0] / pairs.tokens[:, 0]))


def _wins(difference: Array) -> Array:
    return np.asarray((difference > 0) + 0.5 * (difference == 0), dtype=np.float64)
