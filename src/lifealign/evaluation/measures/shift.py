"""Token shift: which of the model's own tokens an earlier model would not have written (URIAL, arXiv 2312.01552).

The model answers greedily. At each position the rank eta_t of its token in the distribution of an earlier model, given the same
text before it: unshifted eta = 1, marginal 1 < eta <= 3, shifted eta > 3.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from lifealign.evaluation.drift import Column, Measure, Reading, Seen
from lifealign.evaluation.metrics import Array

MARGINAL = 3
"""Worst rank that is not shifted yet."""


def ranks(now: Array, earlier: Array) -> Array:
    """Rank, from 1, of the most likely token of each position of `now` [T, V] in the distribution `earlier` [T, V]: [T]."""
    places = np.arange(len(now))
    own = earlier[places, now.argmax(1)]
    return np.asarray((earlier > own[:, None]).sum(1) + 1)


def divergence(now: Array, earlier: Array) -> Array:
    """KL(now || earlier) at each position, nats, [T]; 0 where a token has no probability under `now`."""
    p = now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - earlier))
    return np.asarray(np.maximum(terms.sum(1), 0.0))  # rounding alone makes it negative


def shift(seen: Seen) -> Reading:
    """Shares of tokens by their rank, KL at each token, and the tokens that are shifted."""
    now, base, previous = (np.concatenate(seen.log_probs[p]) for p in ("now", "base", "previous"))
    found, since, kl = ranks(now, base), ranks(now, previous), divergence(now, base)
    shifted = found > MARGINAL
    values = {
        "shifted_share": shifted.mean(),
        "marginal_share": ((found > 1) & ~shifted).mean(),
        "unshifted_share": (found == 1).mean(),
        "shifted_since_previous": (since > MARGINAL).mean(),
        "shift_kl": kl.mean(),
    }
    texts = Counter(seen.token_text(int(token)) for token in now.argmax(1)[shifted])
    curves: dict[str, list[tuple[float, int]]] = {"shifted_share": [], "shift_kl": []}
    for own in np.split(np.arange(len(now)), np.cumsum([len(a) for a in seen.answers])[:-1]):
        for name, at in (("shifted_share", shifted), ("shift_kl", kl)):
            for t, i in enumerate(own):
                total, count = curves[name][t] if t < len(curves[name]) else (0.0, 0)
                curves[name][t : t + 1] = [(total + float(at[i]), count + 1)]
    return Reading({name: float(value) for name, value in values.items()}, curves, {"shifted tokens": texts})


MEASURE = Measure(
    shift,
    {
        "shifted_share": Column(
            "Shifted tokens", "Tokens that the model before any task ranked below its first three.", "%"
        ),
        "marginal_share": Column("Marginal tokens", "Tokens that it ranked second or third.", "%"),
        "unshifted_share": Column("Unshifted tokens", "Tokens that it would have written too.", "%"),
        "shifted_since_previous": Column(
            "Shifted by the newest task",
            "Tokens that the model before the newest task ranked below its first three.",
            "%",
        ),
        "shift_kl": Column("KL per token", "Divergence from the model before any task at a greedy token.", "nats"),
    },
    label="Token shift",
    meaning="How many of the tokens that the model writes now it would not have written before any task.",
    worry="Worry if a task shifts tokens on the prompts of other tasks, not only on its own: those tasks are being overwritten.",
    material="greedy",
    against=("base", "previous"),
)
