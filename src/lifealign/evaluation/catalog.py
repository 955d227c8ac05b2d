"""The catalog of all reported numbers: label, note, unit, direction and formula of each.

A *score* belongs to one held-out row; its mean over the rows of a task is a cell of the score matrix R. A *summary* is
one number of R, such as the backward transfer. Everything that reports numbers (terminal, pages, gates, studies) reads
them here through the functions below, so a new score or summary needs just one new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lifealign.evaluation import metrics, pair_scores
from lifealign.evaluation import text_metrics as text
from lifealign.evaluation.metrics import Array
from lifealign.evaluation.pair_scores import PairLogProbs

Better = Literal["higher", "lower", "neither"]
CellOfR = tuple[int, int]


@dataclass(frozen=True)
class Score:
    """A number for each held-out row.

    At most one of the three formulas is given; without any, the value comes from the task's own rule.

    Attributes:
        label: name for people, without the unit.
        note: one or two sentences for people.
        unit: of a mean as it is shown, e.g. "%" or "nats"; "" for a plain number.
        better: whether a higher or a lower value is better; "neither" for a score that only describes.
        rate: rows are in [0, 1] and their mean is shown in percent.
        low: smallest value of a row; None: no bound.
        high: largest value of a row; None: no bound.
        of_pairs: log-probs of N held-out pairs -> [N] values.
        of_answer: (generated answer, chosen answer) -> value of one row. A score with this formula is a text metric,
            measured if `evaluate.text_metrics` names it.
        of_probe: samples of a guard's probe, arrays [..., rows] by name -> [...] values, as shown. A score with this
            formula measures general ability: no task trains on it.
        probe: the guard's probe that `of_probe` reads, "text" or "choices".
        packages: import names of the packages that `of_answer` needs; pip's names have - for _.
    """

    label: str
    note: str
    unit: str = ""
    better: Better = "higher"
    rate: bool = False
    low: float | None = None
    high: float | None = None
    of_pairs: Callable[[PairLogProbs], Array] | None = None
    of_answer: Callable[[str, str], float] | None = None
    of_probe: Callable[[Mapping[str, Array]], Array] | None = None
    probe: str = ""
    packages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The label with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def scale(self) -> float:
        """Factor from a row's value to the value shown."""
        return 100.0 if self.rate else 1.0

    @property
    def sign(self) -> float:
        """-1 if lower is better, else 1."""
        return -1.0 if self.better == "lower" else 1.0


@dataclass(frozen=True)
class Summary:
    """One number of a score matrix.

    Attributes:
        label: name for people.
        note: definition in a few words, without a full stop.
        of: (R, scores before any task was learnt, [tasks]) -> value; missing cells are NaN, and NaN is "not measured".
        cells: number of tasks N -> the cells (stage, task) of R [N, N] that the value is a mean over.
        loss: the value is a loss: positive is worse for every score. `of` then gets scores for which higher is
            better.
    """

    label: str
    note: str
    of: Callable[[Array, Sequence[float]], float]
    cells: Callable[[int], list[CellOfR]]
    loss: bool = False

    def better(self, score: Score) -> Better:
        """Whether a higher or a lower value of this summary is better for a score."""
        return "lower" if self.loss and score.better != "neither" else score.better

    def function(self, score: Score, before: Sequence[float]) -> Callable[[Array], float]:
        """This summary of a score as a function of R.

        Args:
            score: decides which way is a loss.
            before: score of each task before any was learnt; NaN if it was not measured.
        """
        sign = score.sign if self.loss else 1.0
        return lambda R: self.of(sign * R, [sign * value for value in before])


def _perplexity(samples: Mapping[str, Array]) -> Array:
    """exp(sum of nats / sum of tokens) over the windows of a text."""
    found: Array = np.exp(samples["nll"].sum(-1) / samples["tokens"].sum(-1))
    return found


def _choice_accuracy(samples: Mapping[str, Array]) -> Array:
    return 100.0 * np.asarray(samples["correct"].mean(-1))


# --- scores -----------------------------------------------------------------------------------------------------------

SCORES: dict[str, Score] = {
    "accuracy": Score(
        "Preference accuracy",
        "Share of held-out rows whose chosen answer has the higher implicit reward, relative to the base model.",
        unit="%",
        rate=True,
        low=0,
        high=1,
        of_pairs=pair_scores.accuracy,
    ),
    "margin": Score(
        "Reward margin",
        "Mean implicit reward of the chosen minus the rejected answer, relative to the base model.",
        of_pairs=pair_scores.margin,
    ),
    "likelihood_accuracy": Score(
        "Likelihood accuracy",
        "Share of held-out rows whose chosen answer is more likely per token. Needs no reference model.",
        unit="%",
        rate=True,
        low=0,
        high=1,
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
    "pass_rate": Score(
        "Pass rate", "Share of greedy answers that pass the task's own rule.", unit="%", rate=True, low=0, high=1
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
"""Name in results.json -> score, in the order in which reports show them. Read it through the functions below."""


def scores() -> dict[str, Score]:
    """Scores of the tasks' held-out rows: all but those of general ability."""
    return {name: found for name, found in SCORES.items() if found.of_probe is None}


def text_metrics() -> dict[str, Score]:
    """Scores of a generated answer's text, by the names that `evaluate.text_metrics` takes."""
    return {name: found for name, found in SCORES.items() if found.of_answer is not None}


def guard_scores() -> dict[str, Score]:
    """Scores of general ability, which no task trains on."""
    return {name: found for name, found in SCORES.items() if found.of_probe is not None}


def score(name: str) -> Score:
    """A score by its name. A name unknown here, as in results of another version, serves as its own label."""
    return SCORES.get(name) or Score(name, "")


# --- summaries --------------------------------------------------------------------------------------------------------


def _final(count: int) -> list[CellOfR]:
    return [(count - 1, j) for j in range(count)]


def _diagonal(count: int) -> list[CellOfR]:
    return [(j, j) for j in range(count)]


def _learnt(count: int) -> list[CellOfR]:
    return [(k, j) for k in range(count) for j in range(k + 1)]


SUMMARIES: dict[str, Summary] = {
    "last": Summary("Last", "mean over the tasks after the last one was learnt", lambda R, _: metrics.last(R), _final),
    "ap": Summary(
        "AP", "mean over all stages of the mean over the tasks learnt so far", lambda R, _: metrics.ap(R), _learnt
    ),
    "bwt": Summary(
        "BWT",
        "backward transfer: mean change of a task since it was learnt",
        lambda R, _: metrics.bwt(R),
        lambda count: _final(count)[:-1] + _diagonal(count)[:-1],
    ),
    "forgetting": Summary(
        "Forgetting",
        "mean drop from a task's best earlier score",
        lambda R, _: metrics.forgetting(R),
        _learnt,
        loss=True,
    ),
    "learning_accuracy": Summary(
        "Learnt", "mean score of a task right after it was learnt", lambda R, _: metrics.learning_accuracy(R), _diagonal
    ),
    "forward_transfer": Summary(
        "FWT",
        "forward transfer: score just before a task is learnt, minus the base model's",
        metrics.forward_transfer,
        lambda count: [(j - 1, j) for j in range(1, count)],
    ),
}
"""Name in results.json -> summary, in the order in which reports show them. Read it through the functions below."""

GUARD_SUMMARIES: Mapping[str, str] = {
    "guard": "the score now",
    "tax": "loss of the score since before any task; positive is worse",
}
"""Summaries of a score of general ability, which has no R: name in results.json -> definition."""


def summaries() -> dict[str, Summary]:
    """All summaries of R."""
    return dict(SUMMARIES)


def summary(name: str) -> Summary:
    """A summary by its name.

    Raises:
        KeyError: unknown name.
    """
    return SUMMARIES[name]


def best_is_lowest(score_name: str, summary_name: str) -> bool:
    """Whether the best value of a summary of a score is the lowest one."""
    return summary(summary_name).better(score(score_name)) == "lower"
