"""Win rates where answers are chosen at inference time: best of N, worst of N, and what a transform of rewards does to them.

Two kinds: `model_free`, for calibrated rewards u that are uniform under the reference (InfAlign, arXiv 2412.19792), and
`sampled_win_rate`, from rewards of answers that two models gave. PURE functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
POINTS = 1 << 14
"""Cells of [0, 1] in which u is integrated."""


@dataclass(frozen=True)
class ModelFree:
    """What the optimal policy for a transform does, against the reference.

    Attributes:
        beta: strength of the KL term. 0 < beta.
        kl: KL(policy || reference), nats.
        win: win rate of one answer against one of the reference, [0, 1].
        best: win rate of the best of N against the best of N of the reference.
        worst: win rate of the worst of N against the worst of N of the reference.
    """

    beta: float
    kl: float
    win: float
    best: float
    worst: float


def model_free(transform: Callable[[float], float], beta: float, n: int) -> ModelFree:
    """Win rates of pi*(u) = e^(Phi(u) / beta) / Z over u ~ U[0, 1], with F its distribution function.

    Win 1 - int F; best 1 - N int F^N u^(N-1); worst N int (1 - F)^N (1 - u)^(N-1); KL int f log f.

    Args:
        transform: Phi.
        beta: strength of the KL term. 0 < beta.
        n: answers that decoding chooses among. 1 <= n.
    """
    u, phi = _transformed(transform)
    log_f = _log_density(phi, beta)
    f = np.exp(log_f)
    cumulative = (np.cumsum(f) - f / 2) / POINTS  # at the middle of each cell
    return ModelFree(
        beta,
        float((f * log_f).mean()),
        float(1 - cumulative.mean()),
        float(1 - n * (cumulative**n * u ** (n - 1)).mean()),
        float(n * ((1 - cumulative) ** n * (1 - u) ** (n - 1)).mean()),
    )


def at_kl(transform: Callable[[float], float], kl: float, n: int) -> ModelFree:
    """`model_free` with the beta whose policy is `kl` nats from the reference. 0 < kl.

    Raises:
        ValueError: no beta from 1e-12 to 1e12 reaches it.
    """
    from scipy.optimize import brentq  # here, because reading summaries should not wait for scipy

    phi = _transformed(transform)[1]

    def excess(log_beta: float) -> float:
        log_f = _log_density(phi, math.exp(log_beta))
        return float((np.exp(log_f) * log_f).mean()) - kl

    ends = math.log(1e-12), math.log(1e12)
    if excess(ends[0]) < 0 or excess(ends[1]) > 0:
        raise ValueError(f"no beta gives a KL of {kl:g} nats")
    return model_free(transform, math.exp(brentq(excess, *ends, xtol=1e-9)), n)


def _transformed(transform: Callable[[float], float]) -> tuple[Array, Array]:
    """The middle u of each cell, and Phi(u)."""
    u = (np.arange(POINTS) + 0.5) / POINTS
    return u, np.array([transform(one) for one in u.tolist()])


def _log_density(phi: Array, beta: float) -> Array:
    """Log f in each cell: Phi / beta less the log of its normalisation."""
    log_f = (phi - phi.max()) / beta
    found: Array = log_f - math.log(np.exp(log_f).mean())
    return found


def sampled_win_rate(
    own: Sequence[Sequence[float]], other: Sequence[Sequence[float]], n: int, which: str = "best"
) -> Array:
    """Win rate [P] of the best (or worst) of N answers against that of another model's N, ties half, by prompt.

    Every set of N of a prompt's K answers counts once, so that the mean over prompts has no bias.

    Args:
        own: rewards of a model's answers, P prompts with K >= n answers each.
        other: rewards of the other model's answers to the same prompts.
        n: answers that decoding chooses among; 1: the plain win rate.
        which: `best` or `worst`.

    Raises:
        ValueError: fewer than n answers, other prompts, or no such `which`.
    """
    if which not in ("best", "worst"):
        raise ValueError(f"which={which!r}: allowed: best, worst")
    if len(own) != len(other) or any(len(rewards) < n for rewards in (*own, *other)):
        raise ValueError(f"expected the same prompts on both sides, each with at least {n} rewards")
    sign = 1.0 if which == "best" else -1.0
    found = []
    for a, b in zip(own, other, strict=True):
        one, two = (np.sort(sign * np.asarray(rewards, float)) for rewards in (a, b))
        better = (one[:, None] > two[None, :]) + 0.5 * (one[:, None] == two[None, :])
        rate = float(_chosen(len(one), n) @ better @ _chosen(len(two), n))
        found.append(rate if which == "best" else 1 - rate)
    return np.array(found)


def _chosen(count: int, n: int) -> Array:
    """Probability [count] that each of `count` sorted values is the largest of n drawn without replacement."""
    return np.array([math.comb(i, n - 1) / math.comb(count, n) for i in range(count)])
