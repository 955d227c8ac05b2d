"""The catalog of all reported numbers: label, note, unit, direction and formula of each.

A *score* belongs to one held-out row; its mean over the rows of a task is a cell of the score matrix R. A *summary* is
one number of R, such as the backward transfer. Everything that reports numbers (terminal, pages, gates, studies) reads
them here through the functions below, so a new score or summary needs just one new entry. Scores from outside are
registered here too, and are measured if the configuration names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lifealign.core.origin import is_reference
from lifealign.evaluation import metrics, pair_scores
from lifealign.evaluation import text_metrics as text
from lifealign.evaluation.drift_scores import DRIFT_SCORES as DRIFT_SCORES
from lifealign.evaluation.metrics import Array, Interval
from lifealign.evaluation.score import SCORES, TEXT_METRICS, Better, Score, from_record
from lifealign.evaluation.score import register_score as register_score
from lifealign.evaluation.score import register_text_metric as register_text_metric

CellOfR = tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """One number of a score matrix.

    Attributes:
        label: name for people.
        note: definition in a few words, without a full stop.
        of: (R, scores before any task was learnt, [tasks], `ends` of `metrics.holes`) -> value; missing cells are NaN, and
            NaN is "not measured".
        cells: number of tasks N -> the cells (stage, task) of R [N, N] that the value is a mean over.
        loss: the value is a loss: positive is worse for every score. `of` then gets scores for which higher is
            better.
        level: the value is a mean of scores, and no difference of some.
    """

    label: str
    note: str
    of: Callable[[Array, Sequence[float], Sequence[int]], float]
    cells: Callable[[int], list[CellOfR]]
    loss: bool = False
    level: bool = False

    def better(self, score: Score) -> Better:
        """Whether a higher or a lower value of this summary is better for a score."""
        return "lower" if self.loss and score.better != "neither" else score.better

    def function(self, score: Score, before: Sequence[float], ends: Sequence[int] = ()) -> Callable[[Array], float]:
        """This summary of a score as a function of R.

        Args:
            score: decides which way is a loss.
            before: score of each task before any was learnt; NaN if it was not measured.
            ends: for each task the first stage at which it has no cell any more; empty: no task was retired.
        """
        sign = score.sign if self.loss else 1.0
        return lambda R: self.of(sign * R, [sign * value for value in before], ends)


def _perplexity(samples: Mapping[str, Array]) -> Array:
    """exp(sum of nats / sum of tokens) over the windows of a text."""
    found: Array = np.exp(samples["nll"].sum(-1) / samples["tokens"].sum(-1))
    return found


def _choice_accuracy(samples: Mapping[str, Array]) -> Array:
    return 100.0 * np.asarray(samples["correct"].mean(-1))


# --- scores -----------------------------------------------------------------------------------------------------------

BUILT_IN: dict[str, Score] = {
    "accuracy": Score(
        "Preference accuracy",
        "Share of held-out rows whose chosen answer has the higher implicit reward, relative to the base model. An answer alone "
        "counts if its reward is on the right side of the reference point.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        chance=50,
        of_pairs=pair_scores.accuracy,
    ),
    "pass_rate": Score(
        "Pass rate", "Share of greedy answers that pass the task's own rule.", unit="%", rate=True, low=0, high=1
    ),
    "margin": Score(
        "Reward margin",
        "Mean implicit reward of the chosen minus the rejected answer, relative to the base model.",
        chance=0,
        of_pairs=pair_scores.margin,
    ),
    "follow": Score(
        "Follow",
        "Cosine of what the model prefers and what people prefer at a step of the drifting suite, from its probes. The mean when "
        "learnt is ProgressGym's Follow, the forward transfer its Predict one step ahead.",
        chance=0,
    ),
    "likelihood_accuracy": Score(
        "Likelihood accuracy",
        "Share of held-out rows whose chosen answer is more likely per token. Needs no reference model.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        chance=50,
        of_pairs=pair_scores.likelihood_accuracy,
    ),
    "nll": Score(
        "NLL per token",
        "Negative log-likelihood per token of the chosen answer. Lower is better.",
        unit="nats",
        better="lower",
        low=0,
        of_pairs=pair_scores.nll,
    ),
    "paper_bleu4": Score(
        "Paper's character BLEU-4",
        "Character BLEU-4 against the chosen answer. For comparison with the paper only; compare with the floors.",
        unit="%",
        low=0,
        high=100,
        of_answer=text.paper_bleu4,
        packages=("nltk",),
    ),
    "paper_rouge_l": Score(
        "Paper's ROUGE-L (jieba)",
        "ROUGE-L F1 against the chosen answer, over words split by jieba. For comparison with the paper.",
        unit="%",
        low=0,
        high=100,
        of_answer=text.paper_rouge_l,
        packages=("jieba", "rouge_score"),
    ),
    "bleu": Score(
        "BLEU (sentence mean)",
        "Mean sentence BLEU-4 (sacrebleu) against the chosen answer. This is not corpus BLEU.",
        unit="%",
        low=0,
        high=100,
        of_answer=text.bleu,
        packages=("sacrebleu",),
    ),
    "chrf": Score(
        "chrF (sentence mean)",
        "Mean sentence chrF2 (sacrebleu) against the chosen answer.",
        unit="%",
        low=0,
        high=100,
        of_answer=text.chrf,
        packages=("sacrebleu",),
    ),
    "rouge_l": Score(
        "ROUGE-L F1",
        "Mean ROUGE-L F1 (rouge-score) against the chosen answer, without stemming.",
        unit="%",
        low=0,
        high=100,
        of_answer=text.rouge_l,
        packages=("rouge_score",),
    ),
    "length_words": Score(
        "Length",
        "Words in the greedy answers, which end at evaluate.max_new_tokens.",
        unit="words",
        better="neither",
        low=0,
        of_answer=text.length_words,
    ),
    "distinct_1": Score(
        "Distinct-1 within an answer",
        "Share of an answer's words that do not repeat an earlier word. Short answers repeat little.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        of_answer=text.distinct_1,
    ),
    "distinct_2": Score(
        "Distinct-2 within an answer",
        "Share of an answer's word pairs that do not repeat an earlier pair. Short answers repeat little.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        of_answer=text.distinct_2,
    ),
    "refusal_rate": Score(
        "Refusal rate",
        "Share of greedy answers that refuse in their first words. Whether they should depends on the task.",
        unit="%",
        better="neither",
        rate=True,
        low=0,
        high=1,
        of_answer=text.refusal_rate,
    ),
    **DRIFT_SCORES,
    "perplexity": Score(
        "Perplexity",
        "Perplexity of a text that no task trains on. Lower is better.",
        better="lower",
        low=1,
        of_probe=_perplexity,
        probe="text",
    ),
    "choice_accuracy": Score(
        "Multiple choice",
        "Share of multiple-choice questions whose right answer has the highest log-prob per token.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        of_probe=_choice_accuracy,
        probe="choices",
    ),
}
"""Name in results.json -> built-in score, in the order of the reports: first what a model prefers and what it writes. Read it through the functions below."""


SCORES.built_in({name: found for name, found in BUILT_IN.items() if found.of_answer is None})
TEXT_METRICS.built_in({name: found for name, found in BUILT_IN.items() if found.of_answer is not None})

_met: dict[str, tuple[Score, Mapping[str, Any]]] = {}
"""Scores from outside that this process has measured or read about: name -> the score, and its description."""


def meet(name: str, record: Mapping[str, Any]) -> None:
    """Enter a score from outside by the description in a record of its values; loads nothing.

    Args:
        name: name of the score.
        record: see `outside.record_of`.
    """
    _met[name] = from_record(name, record), record


def met(name: str) -> Mapping[str, Any] | None:
    """Description of a score from outside that this process has measured or read about; None: unknown."""
    return _met[name][1] if name in _met else None


def scores() -> dict[str, Score]:
    """Scores of held-out rows: built-in ones, and those from outside that this process has measured or read about."""
    ours = {name: found for name, found in BUILT_IN.items() if found.of_probe is None}
    return ours | {name: found for name, (found, _) in _met.items() if name not in BUILT_IN}


def names() -> list[str]:
    """Names of `scores`, and of all registered scores from outside."""
    return list(dict.fromkeys([*scores(), *SCORES.outside(), *TEXT_METRICS.outside()]))


def in_order(found: Iterable[str]) -> list[str]:
    """Scores in the order of the reports, each once; those that are not built in come last."""
    known = {name: place for place, name in enumerate(BUILT_IN)}
    return sorted(dict.fromkeys(found), key=lambda name: known.get(name, len(known)))


def text_metrics() -> dict[str, Score]:
    """Built-in scores of a generated answer's text, by the names that `evaluate.text_metrics` takes."""
    return {name: found for name, found in BUILT_IN.items() if found.of_answer is not None}


def guard_scores() -> dict[str, Score]:
    """Scores of general ability, which no task trains on."""
    return {name: found for name, found in BUILT_IN.items() if found.of_probe is not None}


def score(name: str) -> Score:
    """A score by its name. An unknown one, as in results that another version wrote, is labelled by its name."""
    if name in BUILT_IN or name in _met:
        return BUILT_IN[name] if name in BUILT_IN else _met[name][0]
    registries = () if is_reference(name) else (SCORES, TEXT_METRICS)  # a report runs no file
    return next((registry[name] for registry in registries if name in registry), Score(name, ""))


# --- summaries --------------------------------------------------------------------------------------------------------


def _final(count: int) -> list[CellOfR]:
    return [(count - 1, j) for j in range(count)]


def _diagonal(count: int) -> list[CellOfR]:
    return [(j, j) for j in range(count)]


def _learnt(count: int) -> list[CellOfR]:
    return [(k, j) for k in range(count) for j in range(k + 1)]


SUMMARIES: dict[str, Summary] = {
    "last": Summary(
        "Last", "mean over the tasks after the last one was learnt", lambda R, *_: metrics.last(R), _final, level=True
    ),
    "ap": Summary(
        "AP",
        "mean over all stages of the mean over the tasks learnt so far",
        lambda R, _, ends: metrics.ap(R, ends),
        _learnt,
        level=True,
    ),
    "bwt": Summary(
        "BWT",
        "backward transfer: mean change of a task since it was learnt",
        lambda R, *_: metrics.bwt(R),
        lambda count: _final(count)[:-1] + _diagonal(count)[:-1],
    ),
    "forgetting": Summary(
        "Forgetting",
        "mean drop from a task's best earlier score",
        lambda R, _, ends: metrics.forgetting(R, ends),
        _learnt,
        loss=True,
    ),
    "learning_accuracy": Summary(
        "Learnt",
        "mean score of a task right after it was learnt",
        lambda R, *_: metrics.learning_accuracy(R),
        _diagonal,
        level=True,
    ),
    "forward_transfer": Summary(
        "FWT",
        "forward transfer: score just before a task is learnt, minus the base model's",
        lambda R, before, _: metrics.forward_transfer(R, before),
        lambda count: [(j - 1, j) for j in range(1, count)],
    ),
}
"""Name in results.json -> summary, in the order in which reports show them. Read it through the functions below."""

GUARD_SUMMARIES: Mapping[str, str] = {
    "guard": "the score now",
    "tax": "loss of the score since before any task; positive is worse",
}
"""Summaries of a score of general ability, which has no R: name in results.json -> definition."""
GATE_SUMMARIES: Mapping[str, str] = {
    "min": "lowest score of a task now",
    "max": "highest score of a task now",
    "drop": "largest loss of a task since right after it was learnt; with `--against`, since that point",
    "change": "mean change, since the point of `--against`, of the tasks that were learnt there",
}
"""Summaries that only gates know, because a report shows every task: name -> definition. See `gate_values`."""


def summaries() -> dict[str, Summary]:
    """All summaries of R."""
    return dict(SUMMARIES)


def summary(name: str) -> Summary:
    """A summary by its name.

    Raises:
        KeyError: unknown name.
    """
    return SUMMARIES[name]


def needed_cells(name: str, tasks: Sequence[str], ends: Mapping[str, int]) -> list[CellOfR]:
    """The cells (stage, task) of R that a summary is a mean over, without those that a retired task cannot have.

    Args:
        name: of the summary.
        tasks: of R.
        ends: task -> first stage at which it has no cell any more; see `results.ScoreTable`.
    """
    count = len(tasks)
    return [(k, j) for k, j in summary(name).cells(count) if k < ends.get(tasks[j], count)]


def best_is_lowest(score_name: str, summary_name: str) -> bool:
    """Whether the best value of a summary of a score is the lowest one."""
    return summary(summary_name).better(score(score_name)) == "lower"


def within(score_name: str, summary_name: str, interval: Interval) -> Interval:
    """An interval without the part that no value of a score can reach, such as more than 100%.

    An interval of differences is left as it is, and so are limits that are NaN.
    """
    found = score(score_name)
    if not summary(summary_name).level:
        return interval
    low = -np.inf if found.low is None else found.low * found.scale
    high = np.inf if found.high is None else found.high * found.scale
    value, *ends = interval
    return Interval(value, *(float(np.clip(end, low, high)) for end in ends))
