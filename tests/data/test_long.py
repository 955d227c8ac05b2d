"""The long suite: 24 tasks, each a domain and a kind of request with its own format and tone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from importlib import resources

import pytest

from lifealign.data.suites.long import long_stream
from lifealign.data.suites.long_rules import DOMAINS, FORMATS, KINDS, RULES, STYLES, TASKS, TONES
from lifealign.data.suites.suite import PATTERN, SPLITS
from lifealign.data.tasks import Row, Task, TaskStream
from support.suites import (
    naive_bayes,
    rows_of,
)

CONTENT = json.loads(resources.files("lifealign.data.suites").joinpath("long.json").read_text(encoding="utf-8"))
SIZES = {"train": 60, "validation": 20, "test": 20}


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    return long_stream()


def shown(text: str) -> list[str]:
    return [name for name, rule in RULES.items() if rule(text)]


def topic_of(task: Task, row: Row) -> int:
    """Index of the subject in the prompt; the longest one."""
    subjects = CONTENT["domains"][task.name.split("-")[0]]["subjects"]
    return max((len(s), n) for n, s in enumerate(subjects) if s in row.prompt[0].content)[1]


# Rows -----------------------------------------------------------------------------------------------------------------


def test_24_tasks_of_the_promised_size(stream: TaskStream) -> None:
    assert stream.name == "long"
    assert tuple(f"{domain}-{kind}" for kind in KINDS for domain in DOMAINS) == TASKS
    assert tuple(task.name for task in stream.tasks) == TASKS == tuple(task.checker for task in stream.tasks)
    for task in stream.tasks:
        assert {split: len(getattr(task, split)) for split in SPLITS} == SIZES


def test_every_task_has_its_own_pair_of_format_and_tone_and_a_domain_has_three_formats() -> None:
    assert set(STYLES.values()) == {(form, tone) for form in FORMATS for tone in TONES}
    for domain in DOMAINS:
        assert len({STYLES[f"{domain}-{kind}"][0] for kind in KINDS}) == 3


def test_every_answer_shows_exactly_one_behaviour_and_each_is_rejected_as_often_as_chosen(stream: TaskStream) -> None:
    for split, size in SIZES.items():
        total: Counter[str] = Counter()
        for task in stream.tasks:
            rejected: Counter[str] = Counter()
            for row in getattr(task, split):
                assert shown(row.chosen) == [task.name], row
                (other,) = shown(row.rejected)
                rejected[other] += 1
            assert task.name not in rejected and max(rejected.values()) <= -(-size // 23)
            total += rejected
        assert total == dict.fromkeys(TASKS, size)


def test_both_answers_give_the_same_two_pieces_of_advice(stream: TaskStream) -> None:
    for task in stream.tasks:
        domain, kind = task.name.split("-")
        for row in rows_of(task):
            chosen, rejected = (
                {advice for advice in CONTENT["domains"][domain][kind] if advice in text.lower()}
                for text in (row.chosen, row.rejected)
            )
            assert chosen == rejected and len(chosen) == 2, row


def test_no_two_splits_share_a_subject_and_no_two_domains_do(stream: TaskStream) -> None:
    subjects = [subject for domain in DOMAINS for subject in CONTENT["domains"][domain]["subjects"]]
    assert len(set(subjects)) == len(subjects) == 160
    for task in stream.tasks:
        for split in SPLITS:
            expected = {n for n in range(20) if PATTERN[n % 5] == split}
            assert Counter(topic_of(task, row) for row in getattr(task, split)) == dict.fromkeys(expected, 5)


# Giveaways ------------------------------------------------------------------------------------------------------------


def test_the_prompts_of_the_tasks_can_be_told_apart_though_subjects_are_new(stream: TaskStream) -> None:
    """The words of a request tell its kind; a domain is known from few words, as its test subjects are new."""
    train, test = (
        {t.name: [r.prompt[0].content for r in getattr(t, s)] for t in stream.tasks} for s in ("train", "test")
    )

    def by_kind(prompts: dict[str, list[str]]) -> dict[str, list[str]]:
        return {kind: [p for name, found in prompts.items() if name.endswith(kind) for p in found] for kind in KINDS}

    assert naive_bayes(by_kind(train), by_kind(test)) >= 0.9
    assert naive_bayes(train, test) >= 3 / 24  # the kind alone gives one in eight


# Counts and seeds -----------------------------------------------------------------------------------------------------


def test_small_counts_stay_spread(stream: TaskStream) -> None:
    for task in long_stream(train_rows=23, validation_rows=0, test_rows=10, seed=7).tasks:
        rejected = Counter(shown(row.rejected)[0] for row in task.train)
        assert len(rejected) >= 10 and max(rejected.values()) <= 3


def test_the_rows_are_the_rows_that_the_published_figures_were_measured_on(stream: TaskStream) -> None:
    """A change of the content or of the drawing changes this digest: measure again, then change it here."""
    rows = sorted((row.source, row.digest) for task in stream.tasks for row in rows_of(task))
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "c097f356cb09d519"


def test_every_task_says_what_it_asks_for(stream: TaskStream) -> None:
    requirements = [task.requirement for task in stream.tasks]
    assert requirements == [CONTENT["requirements"][name] for name in TASKS] and len(set(requirements)) == 24
    said = {
        part: {str(t.requirement).split(", ", 1)[1].split(", and ")[n] for t in stream.tasks}
        for n, part in enumerate("ft")
    }
    assert (len(said["f"]), len(said["t"])) == (6, 4)


# Rules ----------------------------------------------------------------------------------------------------------------

FORMAT_TEXTS = {
    "bullets": (["- Boil it\n- Eat it", "Well:\n* a b\n* c d"], ["", "- Boil it", "Boil it - eat it", "-Boil\n-Eat"]),
    "numbers": (["1. Boil\n2. Eat", "So\n(1) Boil\n(2) Eat", "1) a\n2) b\n3) c"], ["", "1. Boil", "2. Eat\n1. Boil"]),
    "labels": (["First: boil\nSecond: eat", "Main point: boil it\nAlso: eat"], ["", "First: boil", "Boil: \nEat: "]),
    "sentence": (
        ["Boil it, and eat it.", "Boil it. Eat it"],
        ["", "Boil\nEat", 'Say "boil it now" twice', "{}", "a -> b"],
    ),
    "quote": (
        ['"Boil it, and eat it."', "He said “boil it now”"],
        ["", '"Boil it', '"Boil" it and "eat" it', "'a b c d'"],
    ),
    "arrow": (
        ["Boil it -> eat it", "Boil it. → eat", "boil --> eat => sleep"],
        ["", "Boil it > eat", "-> eat", "Boil ->"],
    ),
}
TONE_TEXTS = {
    "warm": (
        ["Gladly: boil it", "With pleasure.\n- a", "I'm glad to help."],
        ["", "Boil it gladly", "I am sad to help"],
    ),
    "formal": (
        ["Dear customer, boil it", "Dear Sir or Madam.", "Dear new reader: a"],
        ["", "Boil it, dear reader", "Dear me!"],
    ),
    "doubtful": (["Perhaps boil it", "I'm not quite sure. Boil", "Maybe so"], ["", "Boil it, perhaps", "I am sure"]),
    "cheering": (
        ["Boil it. Good luck!", 'He said "boil it now." Enjoy it', "- a\nHave fun"],
        ["", "Good luck!", "Good luck! Boil it."],
    ),
}
PARTS = [(name, rule, *FORMAT_TEXTS[name]) for name, rule in FORMATS.items()]
PARTS += [(name, rule, *TONE_TEXTS[name]) for name, rule in TONES.items()]


@pytest.mark.parametrize(("name", "rule", "accepted", "refused"), PARTS, ids=[part[0] for part in PARTS])
def test_format_and_tone(name: str, rule: Callable[[str], bool], accepted: list[str], refused: list[str]) -> None:
    assert [text for text in accepted if not rule(text)] == []
    assert [text for text in refused if rule(text)] == []


def test_a_rule_asks_for_format_and_tone() -> None:
    assert STYLES["cooking-start"] == ("bullets", "warm")
    rule = RULES["cooking-start"]
    assert rule("Gladly:\n- Boil it\n- Eat it")
    assert not any(map(rule, ("- Boil it\n- Eat it", "Gladly: boil it", "Perhaps:\n- Boil it\n- Eat it", "")))
