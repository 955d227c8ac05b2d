"""Recipes for the paper's six public sets: turn upstream columns, or the paper's resplit, into preference triples.

Each recipe reads two forms. Upstream: the columns of the set on the hub, listed in the function that maps them (from
the data cards; if a set changes its columns, `cleaning.clean` raises an error that lists those found). Resplit: the
columns query, chosen, rejected of the paper's code, whose faults `repair` fixes. `cleaning.clean` handles the faults
that any set may have: empty or equal answers, "Assistant: " prefixes, dialogues in strings, duplicates.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.formats import Triple
from lifealign.data.sources import Record
from lifealign.data.turns import UnusableRowError

DETOKENISED = "tokenised text joined"
ONE_WRONG_ANSWER = "one of several wrong answers chosen"
JOINER = "; "


@dataclass(frozen=True)
class Hub:
    """The location of a set on the hub.

    Attributes:
        id: ``owner/name``.
        config: configuration to load.
        revision: branch to load.
        data_dir: sub-folder to load.
    """

    id: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None


def _as_found(record: Record, rng: random.Random) -> Triple:
    return Triple(record.get("prompt"), record.get("chosen"), record.get("rejected"))


def _unchanged(triple: Triple, rng: random.Random) -> Triple:
    return triple


@dataclass(frozen=True)
class Recipe:
    """Rules that turn one public set into triples.

    Attributes:
        name: value of `SourceConfig.recipe`.
        hub: used if `SourceConfig.path` is `hub.id`.
        columns: upstream column sets, any of which `from_upstream` reads; empty if upstream already has one of the
            `formats`.
        from_upstream: maps one upstream record; the generator is seeded by seed and content.
        repair: fixes one record of the resplit.
    """

    name: str
    hub: Hub
    columns: tuple[tuple[str, ...], ...] = ()
    from_upstream: Callable[[Record, random.Random], Triple] = _as_found
    repair: Callable[[Triple, random.Random], Triple] = _unchanged

    def reads(self, found: Sequence[str]) -> bool:
        """Whether `found` holds one of the upstream column sets."""
        return any(set(columns) <= set(found) for columns in self.columns)

    @property
    def upstream(self) -> str:
        """The upstream column sets in words."""
        return " or ".join(", ".join(columns) for columns in self.columns) or "the same columns"


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ConfigError: unknown name; suggests the nearest one.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, list(RECIPES), n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"unknown recipe {name!r}{hint}; allowed: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


# HC3 ----------------------------------------------------------------------------------------------------------------

# Marks of a Penn-Treebank tokenizer: a space before punctuation that ends a word, or "do n't".
TOKENISED = re.compile(r" [?.,!](?: |$)|\w n't\b", re.MULTILINE)


def hc3(record: Record, rng: random.Random) -> Triple:
    """Hello-SimpleAI/HC3, configuration `all`: question, human_answers, chatgpt_answers (both lists of strings).

    The human answer is preferred, as in the paper. The first non-empty answer of each list is taken.
    """
    triple = Triple(
        record["question"],
        _first(record["human_answers"], "no human answer"),
        _first(record["chatgpt_answers"], "no machine answer"),
    )
    return repair_hc3(triple, rng)


def repair_hc3(triple: Triple, rng: random.Random) -> Triple:
    """Join tokenised text, by the same rule on both sides, so that the rule does not reveal the preferred one."""
    chosen, rejected = _detokenise_if_needed(triple.chosen), _detokenise_if_needed(triple.rejected)
    changed = (chosen, rejected) != (triple.chosen, triple.rejected)
    repairs = (*triple.repairs, DETOKENISED) if changed else triple.repairs
    return replace(triple, chosen=chosen, rejected=rejected, repairs=repairs)


def _detokenise_if_needed(text: Any) -> Any:
    return detokenise(text) if isinstance(text, str) and TOKENISED.search(text) else text


def detokenise(text: str) -> str:
    """Undo word tokenization: "do n't stop , ( really ) !" becomes "don't stop, (really)!"."""
    text = re.sub(r"(?<=\w) n't\b", "n't", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\w) (['’](?:s|re|m|ve|ll|d)\b)", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(gon|wan) na\b", r"\1na", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\S) +([.,!?;:%)\]])(?!\w)", r"\1", text)
    text = re.sub(r"([(\[$]) +(?=\S)", r"\1", text)
    return "\n".join(_close_quotes(line) for line in text.split("\n"))


def _close_quotes(line: str) -> str:
    """Remove spaces just inside double quotes; a line with an odd number of quotes is left unchanged."""
    parts = line.split('"')
    if len(parts) % 2 == 0:
        return line
    return '"'.join(part.strip(" ") if i % 2 else part for i, part in enumerate(parts))


def _first(answers: Any, reason: str) -> str:
    for answer in answers if isinstance(answers, list) else ():
        if isinstance(answer, str) and answer.strip():
            return answer
    raise UnusableRowError(reason)


# PKU-SafeRLHF -------------------------------------------------------------------------------------------------------


def safe_rlhf(record: Record, rng: random.Random) -> Triple:
    """PKU-Alignment/PKU-SafeRLHF: prompt, response_0/1, is_response_0/1_safe, better_response_id, safer_response_id.

    "Helpful under a safety constraint": if one answer is safe, it is preferred; if both are, the more helpful one is
    (`better_response_id`). If neither is, the row is left out, as the constraint allows no preference. The paper does
    not state how it chose its rows.
    """
    answers = (record["response_0"], record["response_1"])
    safe = (record["is_response_0_safe"], record["is_response_1_safe"])
    if None in safe:
        raise UnusableRowError("safety label is missing")
    if not any(safe):
        raise UnusableRowError("neither answer is safe")
    better = record["better_response_id"] if all(safe) else (0 if safe[0] else 1)
    if better not in (0, 1):
        raise UnusableRowError("better_response_id is neither 0 nor 1")
    return Triple(record["prompt"], answers[better], answers[1 - better])


SAFE_COLUMNS = (
    "prompt",
    "response_0",
    "response_1",
    "is_response_0_safe",
    "is_response_1_safe",
    "better_response_id",
)

# TruthfulQA ---------------------------------------------------------------------------------------------------------


def truthfulqa(record: Record, rng: random.Random) -> Triple:
    """truthfulqa/truthful_qa, `generation` (split `validation`): question, best_answer, incorrect_answers (a list).

    Also the columns of the original TruthfulQA.csv: Question, Best Answer, Incorrect Answers (joined by "; ").
    """
    if "question" in record:
        wrong = record["incorrect_answers"]
        if not isinstance(wrong, list):
            raise UnusableRowError("incorrect_answers is not a list")
        return _with_one_wrong(Triple(record["question"], record["best_answer"], None), wrong, rng)
    return repair_truthfulqa(Triple(record["Question"], record["Best Answer"], record["Incorrect Answers"]), rng)


def repair_truthfulqa(triple: Triple, rng: random.Random) -> Triple:
    """Take one of the wrong answers joined by "; " in `rejected`: the joined text is nearly always the longer one."""
    if not isinstance(triple.rejected, str):
        return triple
    return _with_one_wrong(triple, triple.rejected.split(JOINER), rng)


def _with_one_wrong(triple: Triple, wrong: Sequence[Any], rng: random.Random) -> Triple:
    right = triple.chosen.strip() if isinstance(triple.chosen, str) else triple.chosen
    answers = [a.strip() for a in wrong if isinstance(a, str) and a.strip() and a.strip() != right]
    if not answers:
        raise UnusableRowError("no wrong answer")
    repairs = (*triple.repairs, ONE_WRONG_ANSWER) if len(wrong) > 1 else triple.repairs
    return replace(triple, rejected=rng.choice(answers), repairs=repairs)


# The sets -----------------------------------------------------------------------------------------------------------

RECIPES: Mapping[str, Recipe] = {
    # Upstream columns: chosen and rejected, whole conversations as lists of {content, role}; the ratings are not used.
    "capybara": Recipe("capybara", Hub("argilla/Capybara-Preferences")),
    # The main branch has a loading script, which `datasets` 4 and later refuse; the hub's parquet conversion has none.
    "hc3": Recipe(
        "hc3",
        Hub("Hello-SimpleAI/HC3", revision="refs/convert/parquet", data_dir="all"),
        (("question", "human_answers", "chatgpt_answers"),),
        hc3,
        repair_hc3,
    ),
    # Upstream columns: chosen and rejected, whole "\n\nHuman: ... \n\nAssistant: ..." dialogues as strings.
    "hh-harmless": Recipe("hh-harmless", Hub("Anthropic/hh-rlhf", data_dir="harmless-base")),
    "hh-helpful": Recipe("hh-helpful", Hub("Anthropic/hh-rlhf", data_dir="helpful-base")),
    "safe-rlhf": Recipe("safe-rlhf", Hub("PKU-Alignment/PKU-SafeRLHF"), (SAFE_COLUMNS,), safe_rlhf),
    "truthfulqa": Recipe(
        "truthfulqa",
        Hub("truthfulqa/truthful_qa", config="generation"),
        (("question", "best_answer", "incorrect_answers"), ("Question", "Best Answer", "Incorrect Answers")),
        truthfulqa,
        repair_truthfulqa,
    ),
}
