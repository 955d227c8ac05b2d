"""Formulas of the text metrics: PURE functions (answer, reference answer) -> value of one row; `catalog` lists them.

Each scores a single row, so that a mean has a bootstrap interval over rows and two models can be compared row by row.
The mean of sentence scores is not the corpus score of the same name: corpus BLEU first pools the counts of all rows.
The libraries are an extra (``pip install "lifealign[text]"``) and imported on first use; no torch.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.suites.planted_rules import refuses


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
    """Words between white space, >= 0; no measure of quality, but it helps to read the other scores."""
    return float(len(prediction.split()))


def distinct_1(prediction: str, reference: str = "") -> float:
    """`distinct` of single words."""
    return distinct(prediction, 1)


def distinct_2(prediction: str, reference: str = "") -> float:
    """`distinct` of pairs of neighbouring words."""
    return distinct(prediction, 2)


def distinct(text: str, n: int) -> float:
    """Share of ONE answer's n-grams that do not repeat an earlier one, [0, 1]; 1 if there is no n-gram.

    Distinct-n (Li et al. 2016, arXiv 1510.03055) is a property of a set of answers: unique n-grams over all n-grams.
    That ratio depends on the number of answers and has no rows to resample. Within one answer it gives a value per row,
    whose mean shows how much answers repeat themselves, but not whether they differ from each other.
    """
    words = text.lower().split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def refusal_rate(prediction: str, reference: str = "") -> float:
    """1 if the answer refuses within its first words (`planted_rules.refuses`, English), else 0."""
    return float(refuses(prediction))


# --- libraries, each loaded once ----------------------------------------------------------------------------------------


def need(packages: Sequence[str], who: str) -> None:
    """Check that packages are installed.

    Args:
        packages: import names.
        who: what needs them; the message begins with it.

    Raises:
        ConfigError: names the missing packages and the command that installs them.
    """
    missing = sorted({p.replace("_", "-") for p in packages if importlib.util.find_spec(p) is None})
    if missing:
        raise ConfigError(f"{who}: {', '.join(missing)} not installed; pip install {' '.join(missing)}")


@functools.cache
def _nltk_bleu() -> tuple[Callable[..., float], Any]:
    need(["nltk"], "paper_bleu4")
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return sentence_bleu, SmoothingFunction().method3


@functools.cache
def _sacrebleu(name: str, **options: Any) -> Any:
    need(["sacrebleu"], name.lower())
    import sacrebleu.metrics

    return getattr(sacrebleu.metrics, name)(**options)


@functools.cache
def _rouge() -> Any:
    need(["rouge_score"], "rouge_l")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


@functools.cache
def _jieba_rouge() -> Any:
    need(["jieba", "rouge_score"], "paper_rouge_l")
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
