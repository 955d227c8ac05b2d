"""ISA: rows by how likely their features are among those of the task (arXiv 2411.10545).

Shapes: N rows, D features, K principal components.
"""

from __future__ import annotations

import numpy as np

from lifealign.training.selectors import Array, Candidates

COMPONENTS = 32
"""Most principal components that ISA keeps: with few rows, the covariances of all features would be singular."""
ROWS_EACH = 8
"""Rows for each of them: with about as many components as rows, every row is as far from the mean as any other."""
ROUNDS = 100
"""Most rounds of expectation maximisation."""
SMALLEST = 0.1
"""Least share of the rows in each of the two parts."""
FLOOR = 1e-3
"""Least variance of a component, as a share of the mean over all."""


def information_change(likelihood_N: Array) -> Array:
    """Delta = -p log p [N], p = exp(l'), l' the log-likelihood scaled to [0, 1] (ISA, arXiv 2411.10545).

    It is what the sum -sum p log p loses with a row. p is no probability: it lies in [1, e], so Delta falls from 0 for the least likely
    row to -e for the most likely one. The largest Delta are thus the least likely rows, the outliers.
    """
    spread = np.ptp(likelihood_N)
    scaled = (likelihood_N - likelihood_N.min()) / spread if spread else np.zeros_like(likelihood_N)
    return -np.exp(scaled) * scaled


def mixture_likelihood(features_ND: Array) -> Array:
    """Log-likelihood [N] of rows under a mixture of two normal distributions with diagonal covariances, fitted to them.

    The features are first projected on their `COMPONENTS` strongest principal components. The fit starts from the halves below and
    above the median of the first one, so it is the same on every call. A part that ends with less than `SMALLEST` of the rows has
    taken the outliers, which would be likely there; then one normal distribution is fitted to all rows.
    """
    centred = features_ND - features_ND.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    x_NK = centred @ directions[: min(COMPONENTS, max(1, len(centred) // ROWS_EACH))].T
    share = (x_NK[:, :1] > np.median(x_NK[:, 0])).astype(float)
    found, smallest = _fitted(x_NK, np.hstack([share, 1 - share]))
    return found if smallest >= SMALLEST else _fitted(x_NK, np.ones((len(x_NK), 1)))[0]


def _fitted(x_NK: Array, parts: Array) -> tuple[Array, float]:
    """Log-likelihood [N] under the mixture of one normal distribution for each column of `parts`, and its least weight."""
    least = max(FLOOR * float(x_NK.var(0).mean()), 1e-12)
    likelihood, before = np.zeros(len(x_NK)), -np.inf
    for _ in range(ROUNDS):
        mass = parts.sum(0) + 1e-12
        means = parts.T @ x_NK / mass[:, None]
        variances = np.maximum(parts.T @ x_NK**2 / mass[:, None] - means**2, least)
        distances = (x_NK[:, None] - means) ** 2 / variances + np.log(2 * np.pi * variances)
        logs = np.log(mass / len(x_NK)) - distances.sum(-1) / 2
        likelihood = np.logaddexp.reduce(logs, axis=1)
        parts = np.exp(logs - likelihood[:, None])
        if likelihood.sum() - before < 1e-6 * len(x_NK):
            break
        before = float(likelihood.sum())
    return likelihood, float(parts.sum(0).min() / len(x_NK))


def isa_tail(candidates: Candidates, count: int) -> list[int]:
    """The rows with the largest Delta first, as the paper sorts: the least likely ones, the outliers."""
    change = information_change(mixture_likelihood(candidates.features()))
    return [int(i) for i in np.argsort(-change, kind="stable")[:count]]


def isa_mode(candidates: Candidates, count: int) -> list[int]:
    """The rows whose removal changes the sum most first: the most likely, typical ones."""
    change = information_change(mixture_likelihood(candidates.features()))
    return [int(i) for i in np.argsort(change, kind="stable")[:count]]
