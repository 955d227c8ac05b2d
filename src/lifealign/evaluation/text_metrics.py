"""Text metrics of one generated answer, PURE functions (answer, reference) -> number, and floors to read them against.

All are values of one row, so that a mean has a bootstrap interval over rows and two models can be compared row by row.
The mean of sentence scores is not the corpus score of the same name (corpus BLEU pools the counts of all rows first).
The libraries are an extra (``pip install "lifealign[text]"``), imported when they are first used; no torch.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.planted.rules import refuses
from lifealign.data.tasks import Row


def paper_bleu4(prediction: str, reference: str) -> float:
    """Character BLEU-4 as the LifeAlign paper reports it (arXiv 2509.17183, table 1), in percent, [0, 100].

    nltk's `sentence_bleu` on lists of characters with smoothing method 3 (Chen & Cherry 2014). For comparison with the
    paper only: texts of one language share their letters, and a copy of the question scores 50.3 on TruthfulQA's test
    rows.
    """
    scorer, smoothing = _nltk_bleu()
    return 100.0 * float(scorer([list(reference)], list(prediction), smoothing_function=smoothing))


def paper_rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 over jieba's words as the LifeAlign paper reports it, in percent, [0, 100].

    `jieba.cut` in its default mode, white space left out; case and punctuation count. F1 (beta 1) of the longest common
    subsequence over the whole text, which is what rouge-chinese computes as its ``rouge-l``.
    """
    return 100.0 * float(_jieba_rouge().score(reference, prediction)["rougeL"].fmeasure)


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU-4 of sacrebleu, [0, 100]: 13a tokens, exponential smoothing, effective order (Post 2018)."""
    return float(_sacrebleu("BLEU", effective_order=True).sentence_score(prediction, [reference]).score)


def chrf(prediction: str, reference: str) -> float:
    """Sentence chrF2 of sacrebleu, [0, 100]: characters up to 6-grams, no words, beta 2 (Popovic 2015)."""
    return float(_sacrebleu("CHRF").sentence_score(prediction, [reference]).score)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 of rouge-score without stemming, in percent, [0, 100] (Lin 2004).

    Its tokenizer lowers case and keeps a-z and 0-9 only: for text in a Latin alphabet.
    """
    return 100.0 * float(_rouge().score(reference, prediction)["rougeL"].fmeasure)


def length_words(prediction: str, reference: str = "") -> float:
    """Words between white space, >= 0; says nothing of quality, and much about the metrics beside it."""
    return float(len(prediction.split()))


def distinct_1(prediction: str, reference: str = "") -> float:
    """`distinct` of single words."""
    return distinct(prediction, 1)


def distinct_2(prediction: str, reference: str = "") -> float:
    """`distinct` of pairs of neighbouring words."""
    return distinct(prediction, 2)


def distinct(text: str, n: int) -> float:
    """Share of ONE answer's n-grams that do not repeat an earlier one, [0, 1]; 1 where there is no n-gram to repeat.

    Distinct-n (Li et al. 2016, arXiv 1510.03055) is a property of a set of answers: unique n-grams over all n-grams.
    Such a ratio depends on how many answers there are and has no rows to resample. Within one answer it has both, and
    its mean over rows says how far answers go round in circles; it does not say that answers differ from each other.
    """
    words = text.lower().split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def refusal_rate(prediction: str, reference: str = "") -> float:
    """1 where the answer refuses within its first words (`suites.rules.refuses`, English), else 0."""
    return float(refuses(prediction))


@dataclass(frozen=True)
class TextMetric:
    """One text metric.

    Attributes:
        score: (answer, reference answer) -> value of one row.
        label: for people, with the unit.
        note: one sentence for people.
        low: smallest value of a row.
        high: greatest value of a row; None: no bound.
        higher_is_better: None where neither is.
        is_rate: rows are in [0, 1], shown in percent.
        packages: what it needs beyond this package; import names that are also pip's names with - for _.
    """

    score: Callable[[str, str], float]
    label: str
    note: str
    low: float = 0.0
    high: float | None = 100.0
    higher_is_better: bool | None = True
    is_rate: bool = False
    packages: tuple[str, ...] = ()


TEXT_METRICS: Mapping[str, TextMetric] = {
    "paper_bleu4": TextMetric(
        paper_bleu4,
        "Paper's character BLEU-4, %",
        "Character BLEU-4 against the chosen answer, for comparison with the paper only; see the floors.",
        packages=("nltk",),
    ),
    "paper_rouge_l": TextMetric(
        paper_rouge_l,
        "Paper's ROUGE-L (jieba), %",
        "ROUGE-L F1 over jieba's words against the chosen answer, for comparison with the paper.",
        packages=("jieba", "rouge_score"),
    ),
    "bleu": TextMetric(
        bleu,
        "BLEU (sentence mean), %",
        "Mean sentence BLEU-4 of sacrebleu against the chosen answer; not corpus BLEU.",
        packages=("sacrebleu",),
    ),
    "chrf": TextMetric(
        chrf,
        "chrF (sentence mean), %",
        "Mean sentence chrF2 of sacrebleu against the chosen answer.",
        packages=("sacrebleu",),
    ),
    "rouge_l": TextMetric(
        rouge_l,
        "ROUGE-L F1, %",
        "Mean ROUGE-L F1 of rouge-score against the chosen answer, no stemming.",
        packages=("rouge_score",),
    ),
    "length_words": TextMetric(
        length_words, "Length, words", "Words of the greedy answers, cut off at evaluate.max_new_tokens.", 0, None, None
    ),
    "distinct_1": TextMetric(
        distinct_1,
        "Distinct-1 within an answer, %",
        "Share of an answer's words that do not repeat an earlier one; short answers repeat little.",
        high=1,
        is_rate=True,
    ),
    "distinct_2": TextMetric(
        distinct_2,
        "Distinct-2 within an answer, %",
        "Share of an answer's word pairs that do not repeat an earlier one; short answers repeat little.",
        high=1,
        is_rate=True,
    ),
    "refusal_rate": TextMetric(
        refusal_rate,
        "Refusal rate, %",
        "Share of greedy answers that refuse within their first words; whether they should depends on the task.",
        high=1,
        higher_is_better=None,
        is_rate=True,
    ),
}
"""All of them, by the names that `evaluate.text_metrics` takes."""


def require(names: Sequence[str]) -> None:
    """Check that the libraries of these metrics are there, before anything costs time.

    Raises:
        ConfigError: names the metrics, what they lack and the command that installs it.
    """
    _need([p for name in names for p in TEXT_METRICS[name].packages], f"evaluate.text_metrics {list(names)}")


def score_answers(names: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Metric -> one value per answer, each against the reference of the same row."""
    return {name: [TEXT_METRICS[name].score(a, r) for a, r in zip(answers, references, strict=True)] for name in names}


# --- floors -----------------------------------------------------------------------------------------------------------

FLOORS: Mapping[str, str] = {
    "prompt": "copy of the prompt",
    "other": "another row's chosen answer",
    "rejected": "the rejected answer",
}
"""Trivial answers, by name: what they are, for people."""
FLOOR_SEED = 0
"""Of the draw of other rows: fixed, so that a floor belongs to the rows and is the same for every run on them."""


def floor_answers(rows: Sequence[Row], pool: Sequence[Row]) -> dict[str, list[str]]:
    """The trivial answers to rows, by the names of `FLOORS`; `other` is left out where the pool has no other row.

    Args:
        rows: the rows that are scored.
        pool: held-out rows of the same task; another row is drawn from those that are not the row itself.
    """
    answers = {
        "prompt": [row.prompt[-1].content for row in rows],
        "rejected": [row.rejected for row in rows],
    }
    if len({row.digest for row in pool}) > 1:
        answers["other"] = [_another(row, pool).chosen for row in rows]
    return {name: answers[name] for name in FLOORS if name in answers}


def _another(row: Row, pool: Sequence[Row]) -> Row:
    draw = random.Random(f"{FLOOR_SEED}/floor/{row.digest}")
    return draw.choice([other for other in pool if other.digest != row.digest])


# --- libraries, each loaded once ----------------------------------------------------------------------------------------


def _need(packages: Sequence[str], what: str) -> None:
    missing = sorted({p.replace("_", "-") for p in packages if importlib.util.find_spec(p) is None})
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} not installed; pip install {' '.join(missing)}")


@functools.cache
def _nltk_bleu() -> tuple[Callable[..., float], Any]:
    _need(["nltk"], "paper_bleu4")
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return sentence_bleu, SmoothingFunction().method3


@functools.cache
def _sacrebleu(name: str, **options: Any) -> Any:
    _need(["sacrebleu"], name.lower())
    import sacrebleu.metrics

    return getattr(sacrebleu.metrics, name)(**options)


@functools.cache
def _rouge() -> Any:
    _need(["rouge_score"], "rouge_l")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@functools.cache
def _jieba_rouge() -> Any:
    _need(["jieba", "rouge_score"], "paper_rouge_l")
    import jieba
    from rouge_score.rouge_scorer import RougeScorer

    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # Its cache would be a marshalled file in the shared temporary directory, which anyone there could have written.
    with tempfile.TemporaryDirectory() as private:
        segmenter.tmp_dir = private
        segmenter.initialize()

    class Words:
        def tokenize(self, text: str) -> list[str]:
            return [word for word in segmenter.cut(text) if word.strip()]

    return RougeScorer(["rougeL"], tokenizer=Words())
