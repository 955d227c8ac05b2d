"""The contested suite: one desk, eight policies, each for one detail of the request."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from importlib import resources

import pytest

from lifealign.data.suites.contested import DETAILS, contested_stream, prompt_of
from lifealign.data.suites.contested_rules import RULES, TASKS
from lifealign.data.suites.suite import PATTERN, SPLITS, Split
from lifealign.data.tasks import Row, Task, TaskStream
from support.suites import (
    naive_bayes,
    rows_of,
)

CONTENT = json.loads(resources.files("lifealign.data.suites").joinpath("contested.json").read_text(encoding="utf-8"))
SIZES = {"train": 180, "validation": 60, "test": 60}


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    return contested_stream()


def shown(text: str) -> list[str]:
    return [name for name, rule in RULES.items() if rule(text)]


def topic_of(row: Row) -> int:
    """Index of the topic whose product and fault are in the prompt."""
    prompt = row.prompt[0].content
    (index,) = [n for n, (product, fault, _) in enumerate(CONTENT["topics"]) if f"My {product} {fault}." in prompt]
    return index


def parts_in_detail(task: Task, row: Row) -> set[str]:
    """The parts of a prompt that have their detail."""
    prompt, wordings = row.prompt[0].content, CONTENT["wordings"]
    found = {part for part, values in wordings["detail"].items() if any(value in prompt for value in values)}
    found |= {"place"} if any(f"sent to {p}." in prompt for v in wordings["abroad"].values() for p in v) else set()
    (price,) = re.findall(r"(\d+) pounds", prompt)
    return found | ({"price"} if int(price) > 200 else set())


# Rows -----------------------------------------------------------------------------------------------------------------


def test_eight_tasks_of_the_promised_size(stream: TaskStream) -> None:
    assert stream.name == "contested" and len(TASKS) == 8
    assert tuple(task.name for task in stream.tasks) == TASKS == tuple(task.checker for task in stream.tasks)
    for task in stream.tasks:
        assert {split: len(getattr(task, split)) for split in SPLITS} == SIZES
        assert len({row.source for row in rows_of(task)}) == 300


def test_every_answer_shows_exactly_one_behaviour_and_each_is_rejected_as_often_as_chosen(stream: TaskStream) -> None:
    for split, size in SIZES.items():
        rejected: Counter[str] = Counter()
        for task in stream.tasks:
            own: Counter[str] = Counter()
            for row in getattr(task, split):
                assert shown(row.chosen) == [task.name], row
                (other,) = shown(row.rejected)
                own[other] += 1
            assert set(own) == set(TASKS) - {task.name} and max(own.values()) - min(own.values()) <= 1
            rejected += own
        assert rejected == dict.fromkeys(TASKS, size)


def test_a_prompt_has_the_detail_of_its_task_and_no_other(stream: TaskStream) -> None:
    for task in stream.tasks:
        assert all(parts_in_detail(task, row) == {DETAILS[task.name]} for row in rows_of(task))


def test_every_prompt_says_something_of_every_part(stream: TaskStream) -> None:
    wordings = CONTENT["wordings"]
    for task in stream.tasks:
        for row in rows_of(task):
            prompt = row.prompt[0].content
            for part in wordings["neutral"]:
                values = wordings["neutral"][part] + wordings["detail"][part]
                assert sum(value in prompt for value in values) == 1, (part, prompt)


def test_both_answers_state_the_cause(stream: TaskStream) -> None:
    for task in stream.tasks:
        for row in rows_of(task):
            cause = CONTENT["topics"][topic_of(row)][2]
            assert cause in row.chosen.lower() and cause in row.rejected.lower()


def test_all_tasks_share_the_topics_and_no_two_splits_do(stream: TaskStream) -> None:
    products = [product for product, _, _ in CONTENT["topics"]]
    assert len(set(products)) == len(products) == 60
    for split in SPLITS:
        expected = {n for n in range(60) if PATTERN[n % 5] == split}
        for task in stream.tasks:
            assert Counter(map(topic_of, getattr(task, split))) == dict.fromkeys(expected, 5)


def test_no_place_is_named_in_two_splits() -> None:
    for places in (CONTENT["wordings"]["home"], CONTENT["wordings"]["abroad"]):
        names = [name for split in SPLITS for name in places[split]]
        assert len(set(names)) == len(names)


# Giveaways ------------------------------------------------------------------------------------------------------------


def test_topics_do_not_tell_the_task_but_the_detail_does(stream: TaskStream) -> None:
    def prompts(split: Split, detail: bool) -> dict[str, list[str]]:
        found = {}
        for task in TASKS:
            rng = random.Random(f"{task}/{split}")
            topics = [t for n, t in enumerate(CONTENT["topics"]) if PATTERN[n % 5] == split for _ in range(5)]
            found[task] = [prompt_of(topic, DETAILS[task] if detail else None, split, rng) for topic in topics]
        return found

    without = naive_bayes(prompts("train", False), prompts("test", False))
    assert abs(without - 1 / 8) <= 0.04  # 480 prompts: a standard error of 1.5 points
    full = {split: {t.name: [r.prompt[0].content for r in getattr(t, split)] for t in stream.tasks} for split in SPLITS}
    assert naive_bayes(full["train"], full["test"]) >= 0.6


# Counts and seeds -----------------------------------------------------------------------------------------------------


def test_small_counts_stay_balanced() -> None:
    for task in contested_stream(train_rows=28, validation_rows=0, test_rows=14, seed=7).tasks:
        assert task.validation == ()
        for rows, each in ((task.train, 4), (task.test, 2)):
            assert set(Counter(shown(row.rejected)[0] for row in rows).values()) == {each}
            assert 0.4 <= sum(len(row.chosen) > len(row.rejected) for row in rows) / len(rows) <= 0.6


def test_the_rows_are_the_rows_that_the_published_figures_were_measured_on(stream: TaskStream) -> None:
    """A change of the content or of the drawing changes this digest: measure again, then change it here."""
    rows = sorted((row.source, row.digest) for task in stream.tasks for row in rows_of(task))
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "4fd9a71ee6fb899e"


def test_every_task_says_what_it_asks_for(stream: TaskStream) -> None:
    requirements = [task.requirement for task in stream.tasks]
    assert requirements == [CONTENT["requirements"][name] for name in TASKS] and len(set(requirements)) == 8
    assert all(r and r.startswith("When ") and r.endswith(".") for r in requirements)


# Rules ----------------------------------------------------------------------------------------------------------------

ACCEPTED = {
    "large-orders": [
        "I am handing this over to my manager.",
        "The seal is worn; our supervisor will take over from here",
        "This was passed to the manager. She writes to you soon.",
        "I escalate this to my team leader!",
        "Your case is now with our manager.",
    ],
    "shipped-abroad": [
        "Here is the customs form.",
        "Please print the customs declaration below",
        "You will find a form for customs in the parcel.",
        "  The seal is worn. The Customs Form is attached.\n",
    ],
    "angry-tone": [
        "We are very sorry. The seal is worn.",
        "sorry, the seal is worn",
        "Hello, I apologise for this.",
        "Please accept our sincere apologies: it is late.",
        "My apologies. We look into it.",
        "I'm so sorry!",
    ],
    "photo-attached": [
        "We refund you today.",
        "Your money back is on its way right now",
        "The seal is worn. You get a full refund at once, and can keep it.",
        "We have refunded the price immediately.",
    ],
    "gift-orders": [
        "We offer you store credit.",
        "You can have shop credit for it",
        "Take a credit in our shop, if you like.",
        "I can send a voucher. The seal is worn.",
    ],
    "business-customers": [
        "The seal is worn. The invoice is sent by email.",
        "The seal is worn\nInvoice: to your office",
        "Hello! A new invoice follows",
    ],
    "second-complaints": [
        "We will call you back.",
        "The seal is worn; somebody from our team will call you",
        "I'll ring you this afternoon.",
        "You will get a call from us today.",
    ],
    "subscriptions": [
        "You can skip a month.",
        "If you like, pause the next delivery",
        "The seal is worn: skip the coming box free of charge.",
    ],
}
REFUSED = {
    "large-orders": [
        "",
        "Our manager is ill.",
        "Our manager will not take over.",
        "I do not need to pass this to my manager.",
        "The seal is worn.",
        "You can give this to a friend.",
    ],
    "shipped-abroad": ["", "Customs took long.", "No customs form is needed.", "Please fill in the form.", "It left."],
    "angry-tone": [
        "",
        "The seal is worn. We are sorry.",
        "We are not sorry.",
        "Thank you for writing. Sorry about this.",
        "That is a sorry tale.",
    ],
    "photo-attached": [
        "",
        "We refund you next month.",
        "We cannot refund it today.",
        "We refund you today. Could you send a photo?",
        "Please send the receipt, and we refund you at once.",
        "It leaves today. A refund takes a month.",
    ],
    "gift-orders": ["", "We cannot offer store credit.", "Credit where it is due.", "You can pay by credit card."],
    "business-customers": [
        "",
        "The invoice is sent by email. The seal is worn.",
        "The seal is worn. There is no invoice.",
        "Invoice: by post.\nKind regards.",
        "The seal is worn.",
    ],
    "second-complaints": [
        "",
        "Please call us back.",
        "We will not call you.",
        "They call it a seal.",
        "You can ring us.",
    ],
    "subscriptions": ["", "You cannot skip a month.", "Skip this question.", "The month is over.", "Wait a month."],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in TASKS for text in ACCEPTED[name]])
def test_rule_accepts(name: str, text: str) -> None:
    assert RULES[name](text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in TASKS for text in REFUSED[name]])
def test_rule_refuses(name: str, text: str) -> None:
    assert not RULES[name](text)
