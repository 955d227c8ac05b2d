"""Every number that is reported: its label, note, unit, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lifealign.evaluation.text_metrics import TEXT_METRICS

PERCENT = frozenset(
    {"accuracy", "likelihood_accuracy", "pass_rate"} | {n for n, m in TEXT_METRICS.items() if m.is_rate}
)
"""Metrics whose rows are in [0, 1] and whose means are shown in percent."""


METRICS = ("accuracy", "margin", "likelihood_accuracy", "nll", "pass_rate", *TEXT_METRICS)


LOWER_IS_BETTER = frozenset({"nll"} | {n for n, m in TEXT_METRICS.items() if m.higher_is_better is False})


NEITHER_IS_BETTER = frozenset(n for n, m in TEXT_METRICS.items() if m.higher_is_better is None)
"""Metrics that describe: no value is the better one."""


_LABELS = {
    "accuracy": "Preference accuracy, %",
    "margin": "Reward margin",
    "likelihood_accuracy": "Likelihood accuracy, %",
    "nll": "NLL per token, nats",
    "pass_rate": "Pass rate, %",
    "perplexity": "Perplexity",
    "choice_accuracy": "Multiple choice, %",
    **{name: metric.label for name, metric in TEXT_METRICS.items()},
}


_NOTES = {
    "accuracy": "Share of held-out rows whose chosen answer has the higher implicit reward against the base model.",
    "margin": "Mean implicit reward of the chosen minus the rejected answer, against the base model.",
    "likelihood_accuracy": "Share of held-out rows whose chosen answer is the more likely one per token; no reference.",
    "nll": "Negative log-likelihood per token of the chosen answer. Lower is better.",
    "pass_rate": "Share of greedy answers that pass the task's own rule.",
    **{name: metric.note for name, metric in TEXT_METRICS.items()},
}


class Summary(NamedTuple):
    """A summary of a score matrix: its name, what it says, and whether more is better where a higher score is."""

    label: str
    text: str
    higher: bool


SUMMARIES = {
    "last": Summary("Last", "mean over tasks after the last one", True),
    "ap": Summary("AP", "mean over stages of the mean over the tasks learnt so far", True),
    "bwt": Summary("BWT", "backward transfer: change since each task was learnt", True),
    "forgetting": Summary("Forgetting", "what was lost of the best earlier score", False),
    "learning_accuracy": Summary("Learnt", "mean score of each task right after it was learnt", True),
    "forward_transfer": Summary("FWT", "forward transfer: score before learning a task minus that of the base", True),
}


def metric_label(metric: str) -> str:
    """For people, with the unit."""
    return _LABELS.get(metric, metric)


def higher_is_better(metric: str, key: str) -> bool:
    """Whether more of this summary of this metric is better. Forgetting is a loss whatever the metric."""
    return key != "forgetting" and SUMMARIES[key].higher != (metric in LOWER_IS_BETTER)


GUARDS: Mapping[str, str] = {"text": "perplexity", "choices": "choice_accuracy"}
"""Probe -> name of its score, a column that no task trains on."""
