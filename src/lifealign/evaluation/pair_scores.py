"""Scores of held-out rows: PURE functions of log-probs, numpy only; each gives one value per row.

NaN where a score is not defined: such a row has no value. An answer that a row lacks has a log-prob of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lifealign.data.tasks import FEEDBACK_KINDS, Row
from lifealign.evaluation.metrics import Array


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probs of N held-out rows, float64.

    Attributes:
        policy: [N, 2] (chosen, rejected), summed over the answer's tokens, nats.
        reference: [N, 2], of the base model.
        tokens: [N, 2], length of each answer; 0: the row lacks it.
        beta: reward per nat.
        rows: the N rows themselves, in the same order; empty: all are pairs.
        point: KTO's reference point z0 of these rows, nats; 0 if none is feedback on one answer.
    """

    policy: Array
    reference: Array
    tokens: Array
    beta: float
    rows: Sequence[Row] = ()
    point: float = 0.0

    def has(self, *kinds: str) -> Array:
        """Whether each row is of one of these kinds, [N] bool."""
        found = [row.kind in kinds for row in self.rows] or ["pair" in kinds] * len(self.policy)
        return np.asarray(found, dtype=bool)


def accuracy(pairs: PairLogProbs) -> Array:
    """1 where the reward margin is positive, 0.5 where it is 0 (policy equals reference), else 0; [N]."""
    return _wins(margin(pairs))


def margin(pairs: PairLogProbs) -> Array:
    """Beta * (log-ratio of the chosen answer - log-ratio of the rejected one), [N].

    Of feedback on one answer: how far its reward is on the right side of the reference point, above it for a desirable answer and
    below it for an undesirable one. Not defined for demonstrations.
    """
    ratio = pairs.policy - pairs.reference
    signed = ratio[:, 0] - ratio[:, 1]
    sign = pairs.has("desirable").astype(float) - pairs.has("undesirable")
    return np.where(pairs.has("pair", *FEEDBACK_KINDS), pairs.beta * (signed - sign * pairs.point), np.nan)


def likelihood_accuracy(pairs: PairLogProbs) -> Array:
    """1 where the chosen answer has the higher mean log-prob per token, 0.5 where both are equal, else 0; [N]; pairs alone."""
    mean = _per_token(pairs)
    return _wins(mean[:, 0] - mean[:, 1])


def nll(pairs: PairLogProbs) -> Array:
    """Negative log-likelihood per token of the chosen answer, nats, [N]; of rows that have one."""
    return np.asarray(-_per_token(pairs)[:, 0])


def _per_token(pairs: PairLogProbs) -> Array:
    """Mean log-prob per token [N, 2]; NaN for an answer that a row lacks."""
    missing = pairs.tokens == 0
    return np.where(missing, np.nan, pairs.policy / np.where(missing, 1, pairs.tokens))


def _wins(difference: Array) -> Array:
    wins = np.asarray((difference > 0) + 0.5 * (difference == 0), dtype=np.float64)
    return np.where(np.isnan(difference), np.nan, wins)
