"""The revised suite: a shop and a library, where three later tasks change the rule of an earlier one."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from importlib import resources

import pytest

from lifealign.core.config import StreamConfig
from lifealign.core.errors import ConfigError
from lifealign.data.load import load_stream
from lifealign.data.suites.revised import KINDS, REVISES, RIVALS, revised_stream
from lifealign.data.suites.revised_rules import RULES, TASKS
from lifealign.data.suites.suite import PATTERN, SPLITS
from lifealign.data.tasks import Row, Task, TaskStream
from support.suites import (
    naive_bayes,
    rows_of,
)

CONTENT = json.loads(resources.files("lifealign.data.suites").joinpath("revised.json").read_text(encoding="utf-8"))
SIZES = {"train": 180, "validation": 60, "test": 60}


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    return revised_stream()


def shown(text: str) -> list[str]:
    return [name for name, rule in RULES.items() if rule(text)]


def topic_of(task: Task, row: Row) -> int:
    """Index of the subject in the prompt; the longest one, for a "tray table" is no "tray"."""
    prompt = row.prompt[0].content
    hits = [
        (len(subject), index)
        for index, subject in enumerate(CONTENT["topics"][KINDS[task.name]]["subjects"])
        if re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    ]
    return max(hits)[1]


# Rows -----------------------------------------------------------------------------------------------------------------


def test_eight_tasks_of_the_promised_size(stream: TaskStream) -> None:
    assert stream.name == "revised" and len(TASKS) == 8
    assert tuple(task.name for task in stream.tasks) == TASKS == tuple(task.checker for task in stream.tasks)
    for task in stream.tasks:
        assert {split: len(getattr(task, split)) for split in SPLITS} == SIZES


def test_a_revising_task_comes_later_has_the_same_kind_of_prompts_and_says_so(stream: TaskStream) -> None:
    assert len(REVISES) == 3
    for new, old in REVISES.items():
        assert TASKS.index(new) > TASKS.index(old) and KINDS[new] == KINDS[old]
    assert {task.name: task.supersedes for task in stream.tasks} == {name: REVISES.get(name) for name in TASKS}
    untouched = set(TASKS) - set(REVISES) - set(REVISES.values())
    assert len({KINDS[name] for name in TASKS}) == len(REVISES) + len(untouched)


def test_an_order_that_revises_before_the_old_rule_is_learnt_is_refused() -> None:
    config = StreamConfig.model_validate({"revised": {"train_rows": 2}, "order": [5, 1]})
    with pytest.raises(ConfigError, match=r"task returns-14-days: supersedes: no earlier task 'returns-30-days'"):
        load_stream(config, 0)


def test_every_answer_shows_exactly_one_behaviour_and_half_of_the_rejected_ones_the_rival(stream: TaskStream) -> None:
    for split, size in SIZES.items():
        total: Counter[str] = Counter()
        for task in stream.tasks:
            rejected: Counter[str] = Counter()
            for row in getattr(task, split):
                assert shown(row.chosen) == [task.name], row
                (other,) = shown(row.rejected)
                rejected[other] += 1
            rival = RIVALS[task.name]
            rest = {name: size // 12 for name in TASKS if name not in (task.name, rival)}
            assert rejected == {rival: size // 2} | rest
            total += rejected
        assert total == dict.fromkeys(TASKS, size)


def test_both_answers_say_the_same(stream: TaskStream) -> None:
    for task in stream.tasks:
        for row in rows_of(task):
            names = [CONTENT["topics"][KINDS[task.name]]["subjects"][topic_of(task, row)]]
            part = "rooms" if KINDS[task.name] == "rooms" else "towns"
            if KINDS[task.name] != "replies":
                names += [name for values in CONTENT[part].values() for name in values if f" {name}" in row.chosen]
                assert len(names) >= 2, row
            assert all(name in row.chosen and name in row.rejected for name in names), (names, row)


def test_a_revising_task_has_the_topics_of_the_old_one_and_no_two_splits_share_any(stream: TaskStream) -> None:
    for kind in set(KINDS.values()):
        subjects = CONTENT["topics"][kind]["subjects"]
        assert len(set(subjects)) == len(subjects) == 60
    for task in stream.tasks:
        for split in SPLITS:
            expected = {n for n in range(60) if PATTERN[n % 5] == split}
            assert Counter(topic_of(task, row) for row in getattr(task, split)) == dict.fromkeys(expected, 5)


def test_no_town_room_or_person_is_named_in_two_splits() -> None:
    for part in ("towns", "rooms", "people"):
        names = [name for split in SPLITS for name in CONTENT[part][split]]
        assert len(set(names)) == len(names)


# Giveaways ------------------------------------------------------------------------------------------------------------


def test_prompts_tell_the_kind_but_not_whether_the_rule_is_the_old_or_the_new_one(stream: TaskStream) -> None:
    tasks = {task.name: task for task in stream.tasks}

    def prompts(names: tuple[str, ...], split: str) -> dict[str, list[str]]:
        return {name: [row.prompt[0].content for row in getattr(tasks[name], split)] for name in names}

    for pair in REVISES.items():
        assert abs(naive_bayes(prompts(pair, "train"), prompts(pair, "test")) - 0.5) <= 0.1
    current = tuple(name for name in TASKS if name not in REVISES.values())
    assert naive_bayes(prompts(current, "train"), prompts(current, "test")) >= 0.95


# Counts and seeds -----------------------------------------------------------------------------------------------------


def test_small_counts_hold_the_rival(stream: TaskStream) -> None:
    for task in revised_stream(train_rows=24, validation_rows=0, test_rows=14, seed=7).tasks:
        assert {shown(row.rejected)[0] for row in task.train} == set(TASKS) - {task.name}
        assert 0.35 <= sum(len(row.chosen) > len(row.rejected) for row in task.train) / 24 <= 0.65


def test_the_rows_are_the_rows_that_the_published_figures_were_measured_on(stream: TaskStream) -> None:
    """A change of the content or of the drawing changes this digest: measure again, then change it here."""
    rows = sorted((row.source, row.digest) for task in stream.tasks for row in rows_of(task))
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "9f4a172e94feabd5"


def test_every_task_says_what_it_asks_for(stream: TaskStream) -> None:
    requirements = [task.requirement for task in stream.tasks]
    assert requirements == [CONTENT["requirements"][name] for name in TASKS] and len(set(requirements)) == 8
    for task in stream.tasks:
        assert ("This replaces" in str(task.requirement)) == (task.name in REVISES)


# Rules ----------------------------------------------------------------------------------------------------------------

ACCEPTED = {
    "returns-30-days": ["You have 30 days.", "Within thirty days, it goes back", "A 30-day limit holds."],
    "returns-14-days": [
        "You have 14 days.",
        "fourteen days are left",
        "It is 14 days now, no longer 30 days.",
        "A 14-day limit holds.",
    ],
    "replies-by-name": [
        "It is sold out.\nAnna Reed",
        "It is sold out.\n\nKind regards, Anna Reed.",
        "It is sold out.\nYours, Anna",
        "It is sold out.\nMr. Peter Hill",
    ],
    "replies-by-team": [
        "It is sold out.\nThe service team",
        "It is sold out.\nYours, your service team.",
        "It is sold out.\nkind regards, our shop team",
        "It is sold out.\nService Team",
    ],
    "late-books-fine": ["The fine is 20 pence a day.", "It costs twenty pence", "We take 20p a day."],
    "late-books-free": [
        "There is no fine.",
        "No late fee is due",
        "We do not take a fine.",
        "There is nothing to pay. Read on!",
        "There is no fine; the 20 pence a day are history.",
    ],
    "room-bookings": [
        "Please bring your library card.",
        "show us the card",
        "The room is free; have your card with you.",
    ],
    "broken-goods": [
        "We repair it free of charge.",
        "the repair is free",
        "You get a free repair.",
        "It is repaired at no cost.",
        "Our workshop repairs it, and it costs nothing.",
    ],
}
REFUSED = {
    "returns-30-days": [
        "",
        "You have 14 days.",
        "You have 30 days, or 14 days.",
        "You do not have 30 days.",
        "30 pence.",
    ],
    "returns-14-days": ["", "You have 30 days.", "You have 14 or rather 30 days.", "There are no 14 days.", "In May."],
    "replies-by-name": [
        "",
        "Anna Reed",
        "It is sold out.",
        "It is sold out. Anna Reed",
        "It is sold out.\nThe service team",
        "It is sold out.\nService Team",
        "Anna Reed says:\nIt is sold out until May.",
    ],
    "replies-by-team": [
        "",
        "The service team",
        "It is sold out.\nAnna Reed",
        "The service team says:\nIt is sold out.",
        "It is sold out.\nThe team of ours went home on Friday",
    ],
    "late-books-fine": ["", "There is a fine.", "There is no fine of 20 pence.", "There is no fine.", "20 days."],
    "late-books-free": [
        "",
        "There is a fine.",
        "The fine is 20 pence a day.",
        "The weather is fine.",
        "No book is here.",
    ],
    "room-bookings": ["", "You need not bring your card.", "Bring your books.", "The card is green.", "Play cards."],
    "broken-goods": [
        "",
        "We repair it.",
        "We cannot repair it for free.",
        "The room is free.",
        "It is free. We repair it.",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in TASKS for text in ACCEPTED[name]])
def test_rule_accepts(name: str, text: str) -> None:
    assert RULES[name](text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in TASKS for text in REFUSED[name]])
def test_rule_refuses(name: str, text: str) -> None:
    assert not RULES[name](text)
