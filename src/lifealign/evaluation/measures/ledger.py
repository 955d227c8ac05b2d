"""KL ledger: how far the model has moved from where it began, and what each task spent of that (arXiv 2404.01730).

KL(pi_t || pi_0) and KL(pi_t || pi_(t-1)) of answers, estimated on answers sampled from pi_t: the divergence of the two next-token
distributions is summed over the vocabulary at each token and over the answer's tokens, so only the sampling of prefixes is random.
"""

from __future__ import annotations

import numpy as np

from lifealign.evaluation.drift import Column, Measure, Reading, Seen
from lifealign.evaluation.measures.shift import divergence


def ledger(seen: Seen) -> Reading:
    """Nats per answer from the base and from the task before, and nats per token from the base."""
    values = {}
    for name, policy in (("kl_total", "base"), ("kl_step", "previous")):
        pairs = zip(seen.log_probs["now"], seen.log_probs[policy], strict=True)
        at = [divergence(now, earlier) for now, earlier in pairs]
        values[name] = float(np.mean([one.sum() for one in at]))
        if name == "kl_total":
            values["kl_per_token"] = float(np.concatenate(at).mean())
    return Reading(values)


MEASURE = Measure(
    ledger,
    {
        "kl_total": Column(
            "KL from the base", "Nats per answer between the model now and before any task.", "nats", "lower"
        ),
        "kl_step": Column(
            "KL of the task", "Nats per answer between the model now and before the newest task.", "nats", "lower"
        ),
        "kl_per_token": Column("KL from the base per token", "The first, per token of the answers.", "nats", "lower"),
    },
    label="KL ledger",
    meaning="How far the answers have moved from those before any task, in nats per answer, and how far each task moved them.",
    worry="Worry if the total grows with every task, or passes the budget that you set: lifealign drift MEMORY --gate 'kl_total<=NUMBER'.",
    material="samples",
    against=("base", "previous"),
)
