"""Branching factor: among how many next tokens the model really chooses (arXiv 2506.17871).

With the nucleus p~ of the next-token distribution (its most likely tokens up to a probability of 0.9, made to sum to 1) and
H~_t its entropy, BF(x) = exp((1/T) sum_t E[H~_t]), the expectation over answers sampled from p~. Of long answers the entropy is
taken as -(1/T) log p~(y|x) instead, which has the same mean (asymptotic equipartition) and a low variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lifealign.evaluation.drift import TOP_P, Column, Measure, Reading, Seen
from lifealign.evaluation.metrics import Array

LONG = 50
"""Tokens from which the likelihood form is used [the paper's recipe]."""
FEWEST = 4
"""Samples that a position needs; the paper drops positions with 3 or fewer."""
LENGTHS = 0.95
"""Quantile of the lengths at which positions end."""
_FIRST = 512  # tokens that are looked at first: nearly every nucleus lies within them


class Nucleus(NamedTuple):
    """The nucleus at each of T positions.

    Attributes:
        entropy: of its distribution, nats, [T].
        kept: number of its tokens, [T].
        mass: log of their probability before they are made to sum to 1, [T].
        floor: log-prob of its least likely token, [T]; less likely ones are outside.
    """

    entropy: Array
    kept: Array
    mass: Array
    floor: Array


def nucleus(log_probs: Array, top_p: float = TOP_P) -> Nucleus:
    """The most likely tokens at each position, up to the one with which their probability reaches `top_p`.

    Args:
        log_probs: [T, V], nats; -inf is allowed.
        top_p: 0 < top_p <= 1.
    """
    some = min(_FIRST, log_probs.shape[1])
    first = -np.sort(np.partition(-log_probs, some - 1, axis=1)[:, :some], axis=1).astype(np.float64)
    short = np.exp(first).sum(1) < top_p
    if some < log_probs.shape[1] and short.any():
        parts = [nucleus_of(first, top_p), nucleus_of(-np.sort(-log_probs[short].astype(np.float64), axis=1), top_p)]
        whole = [part.copy() for part in parts[0]]
        for own, found in zip(whole, parts[1], strict=True):
            own[short] = found
        return Nucleus(*whole)
    return nucleus_of(first, top_p)


def nucleus_of(ordered: Array, top_p: float) -> Nucleus:
    """`nucleus` of log-probs [T, K] in falling order."""
    probs = np.exp(ordered)
    # The token that crosses the bound is inside. Rounding must not let one more in.
    inside = (probs.cumsum(1) - probs < top_p - 1e-9) & (probs > 0)
    inside[:, 0] = True
    total = np.where(inside, probs, 0.0).sum(1)
    share = np.where(inside, probs, 0.0) / total[:, None]
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    kept = inside.sum(1)
    return Nucleus(entropy, kept, np.log(total), ordered[np.arange(len(ordered)), kept - 1])


def factor(entropies: Sequence[Array], nlls: Sequence[float] = ()) -> tuple[float, float]:
    """Branching factor of one prompt, and its standard error.

    Args:
        entropies: of each sample, [T] nats.
        nlls: -(1/T) log p~ of each sample, nats; used if the samples are long.
    """
    samples = len(entropies)
    means = np.asarray([float(one.mean()) for one in entropies])
    if nlls and np.mean([len(one) for one in entropies]) > LONG:
        means = np.asarray(nlls)
        middle = float(means.mean())
    else:
        lengths = np.asarray([len(one) for one in entropies])
        longest = max(1, int(np.quantile(lengths, LENGTHS)))
        there = [[one[t] for one in entropies if len(one) > t] for t in range(longest)]
        middle = float(np.mean([np.mean(at) for at in there if len(at) >= min(FEWEST, samples)]))
    found = float(np.exp(middle))
    error = float(means.std(ddof=1) / np.sqrt(samples)) if samples > 1 else float("nan")
    return found, found * error


def branching(seen: Seen) -> Reading:
    """The branching factor of a prompt from samples of its nucleus."""
    entropies, nlls = [], []
    curve: list[tuple[float, int]] = []
    for answer, log_probs in zip(seen.answers, seen.log_probs["now"], strict=True):
        found = nucleus(log_probs)
        taken = log_probs[np.arange(len(answer)), list(answer)].astype(np.float64)
        # A token outside of the nucleus by rounding alone counts as its least likely one.
        nlls.append(float((found.mass - np.maximum(taken, found.floor)).mean()))
        entropies.append(found.entropy)
        for t, value in enumerate(found.entropy):
            total, count = curve[t] if t < len(curve) else (0.0, 0)
            curve[t : t + 1] = [(total + float(value), count + 1)]
    value, error = factor(entropies, nlls)
    values = {"branching_factor": value} | ({} if np.isnan(error) else {"branching_error": error / value})
    return Reading(values, {"entropy": curve})


MEASURE = Measure(
    branching,
    {
        "branching_factor": Column(
            "Branching factor",
            "How many next tokens the model chooses among, on average; 1: it always writes the same.",
            "",
            "higher",
        ),
        "branching_error": Column(
            "Standard error", "Of a prompt's branching factor, relative to it, over its samples.", "%", "lower"
        ),
    },
    label="Branching factor",
    meaning="How many next tokens the model chooses among while it answers: 1 is always the same answer, 10 a wide choice.",
    worry="Worry if it keeps falling from task to task, or comes near 1 on prompts that should have many good answers.",
    material="nucleus",
    against=(),
)
