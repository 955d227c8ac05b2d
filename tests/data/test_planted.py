from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib import resources

import pytest

from lifealign.core.errors import ConfigError
from lifealign.data.suites.planted import planted_stream
from lifealign.data.suites.planted_rules import RULES as CHECKERS
from lifealign.data.suites.planted_rules import TASKS
from lifealign.data.tasks import Row, Task, TaskStream
from support.suites import best_length_rule, best_single_feature, learnt_on_answers, rows_of, words

CONTENT = json.loads(resources.files("lifealign.data.suites").joinpath("planted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    return planted_stream()


def shown(text: str) -> list[str]:
    return [name for name, checker in CHECKERS.items() if checker(text)]


# Rows -----------------------------------------------------------------------------------------------------------------


def test_six_tasks_of_the_promised_size(stream: TaskStream) -> None:
    assert TASKS == ("data-json", "how-to-steps", "short-facts", "see-a-professional", "private-data", "myths")
    assert tuple(task.name for task in stream.tasks) == TASKS == tuple(task.checker for task in stream.tasks)
    for task in stream.tasks:
        assert (len(task.train), len(task.validation), len(task.test)) == (180, 60, 60)
        assert [(report.read, report.kept) for report in task.reports] == [(300, 300)]
        assert all(row.source.startswith(f"planted/{task.name}/train:") for row in task.train)
        assert len({row.source for row in rows_of(task)}) == 300


def test_every_answer_shows_exactly_one_behaviour_and_the_rejected_ones_are_spread_evenly(stream: TaskStream) -> None:
    for task in stream.tasks:
        for rows, each in ((task.train, 36), (task.validation, 12), (task.test, 12)):
            rejected: Counter[str] = Counter()
            for row in rows:
                assert shown(row.chosen) == [task.name], row
                (other,) = shown(row.rejected)
                rejected[other] += 1
            assert rejected == {name: each for name in TASKS if name != task.name}


def test_both_answers_say_the_same(stream: TaskStream) -> None:
    for task in stream.tasks:
        for row in rows_of(task):
            index = found_topic(task.name, row)
            assert index is not None, row
            entry = CONTENT["topics"][task.name][index]
            parts = [str(v) for pair in entry[1].items() for v in pair] if task.name == "data-json" else entry[1]
            for answer in (row.chosen, row.rejected):
                assert all(part.lower() in answer.lower() for part in parts), (parts, answer)


def found_topic(task: str, row: Row) -> int | None:
    """Index of the topic whose subject stands in the prompt; the longest one, for "gold" is no "goldfish"."""
    prompt = row.prompt[-1].content.lower()
    hits = [
        (len(entry[0]), index)
        for index, entry in enumerate(CONTENT["topics"][task])
        if entry[0].lower() in prompt and re.search(r"(?<!\w)" + re.escape(entry[0].lower()) + r"(?!\w)", prompt)
    ]
    return max(hits)[1] if hits else None


def test_topics_of_the_splits_are_disjoint(stream: TaskStream) -> None:
    for task in stream.tasks:
        train, validation, test = (
            {found_topic(task.name, row) for row in rows} for rows in (task.train, task.validation, task.test)
        )
        assert (len(train), len(validation), len(test)) == (36, 12, 12)
        assert not train & validation and not train & test and not validation & test


def test_no_duplicate_rows_prompts_or_equal_answers(stream: TaskStream) -> None:
    everything = [row for task in stream.tasks for row in rows_of(task)]
    assert len({row.digest for row in everything}) == len(everything) == 1800
    assert len({row.prompt for row in everything}) == 1800
    assert all(row.chosen != row.rejected for row in everything)
    assert all(text == text.strip() and text for row in everything for text in (row.chosen, row.rejected))


def test_texts_are_short(stream: TaskStream) -> None:
    for task in stream.tasks:
        prompts = [words(row.prompt[0].content) for row in rows_of(task)]
        answers = [words(text) for row in rows_of(task) for text in (row.chosen, row.rejected)]
        assert max(prompts) <= 18 and sum(prompts) / 300 <= 12
        assert max(answers) <= 45 and 10 <= sum(answers) / 600 <= 22


# Giveaways ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [len, words], ids=["characters", "words"])
def test_a_length_rule_separates_at_most_sixty_percent(stream: TaskStream, length: Callable[[str], int]) -> None:
    groups = [rows for task in stream.tasks for rows in (rows_of(task), task.train, task.validation, task.test)]
    for rows in [*groups, [row for task in stream.tasks for row in rows_of(task)]]:
        assert best_length_rule(rows, length) <= 0.6, rows[0].source


def test_no_single_word_or_mark_tells_chosen_from_rejected_over_the_suite(stream: TaskStream) -> None:
    share, feature = best_single_feature([row for task in stream.tasks for row in rows_of(task)])
    assert share <= 0.55, feature


def test_a_learnt_rule_on_the_answers_alone_stays_near_chance(stream: TaskStream) -> None:
    assert learnt_on_answers(stream) <= 0.7


def test_polite_phrases_and_last_full_stops_stand_on_both_sides(stream: TaskStream) -> None:
    everything = [row for task in stream.tasks for row in rows_of(task)]
    patterns = ["^" + re.escape(phrase) for phrase in CONTENT["wordings"]["openers"]]
    patterns += [re.escape(phrase.rstrip(".!")) for phrase in CONTENT["wordings"]["closers"]]
    for pattern in [*patterns, r"\.$", r"[^.]$"]:
        chosen = sum(bool(re.search(pattern, row.chosen)) for row in everything)
        rejected = sum(bool(re.search(pattern, row.rejected)) for row in everything)
        assert min(chosen, rejected) >= 0.5 * max(chosen, rejected) >= 3, (pattern, chosen, rejected)


# Wordings -------------------------------------------------------------------------------------------------------------


def prompts_seen(task: Task, rows: tuple[Row, ...]) -> set[int]:
    """Indices of the templates in use; the longest one that fits, for "{S}?" fits nearly everything."""
    templates = CONTENT["wordings"]["prompts"][task.name]
    patterns = [re.sub(r"\\\{[sSk]\\\}", ".+", re.escape(template)) for template in templates]
    seen = set()
    for row in rows:
        fits = [n for n, pattern in enumerate(patterns) if re.fullmatch(pattern, row.prompt[0].content)]
        seen.add(max(fits, key=lambda n: len(patterns[n])))
    return seen


def test_many_wordings_are_in_use_in_every_split(stream: TaskStream) -> None:
    for name in ("refusals", "alternatives", "advice", "corrections", "step_marks", "openers", "closers", "tails"):
        values = CONTENT["wordings"][name]
        assert len(set(values)) == len(values) >= 6
        for split in ("train", "validation", "test"):
            text = "\n".join(t for task in stream.tasks for r in getattr(task, split) for t in (r.chosen, r.rejected))
            for value in values:
                pattern = re.escape(value.rstrip(".!")) + r"(?!\w)" * value[-1].isalpha()
                pattern = pattern.replace(r"\{c\}", "").replace(r"\{p\}", r"[\w ]+").replace(r"\{n\}", "1")
                assert re.search(pattern, text, re.IGNORECASE), (name, value, split)


def test_prompts_use_many_templates(stream: TaskStream) -> None:
    for task in stream.tasks:
        assert prompts_seen(task, task.train) == prompts_seen(task, task.test) == set(range(7))


# Counts and seeds -----------------------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_streams_and_the_seed_changes_the_subset() -> None:
    first, again, other = (planted_stream(30, 10, 20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert [row.source for row in first.tasks[0].train] == [row.source for row in again.tasks[0].train]
    for one, two in zip(first.tasks, other.tasks, strict=True):
        assert (len(one.train), len(one.validation), len(one.test)) == (30, 10, 20)
        assert one.reports[0].kept == 60
        assert {row.source for row in one.train} != {row.source for row in two.train}


def test_the_seed_changes_no_row_of_the_full_suite(stream: TaskStream) -> None:
    other = planted_stream(seed=3)
    for one, two in zip(stream.tasks, other.tasks, strict=True):
        assert {(r.source, r.digest) for r in one.train} == {(r.source, r.digest) for r in two.train}
        assert [r.source for r in one.train] != [r.source for r in two.train]


def test_small_counts_stay_balanced() -> None:
    for task in planted_stream(train_rows=40, validation_rows=0, test_rows=10, seed=7).tasks:
        assert task.validation == ()
        for rows, each in ((task.train, 8), (task.test, 2)):
            assert set(Counter(shown(row.rejected)[0] for row in rows).values()) == {each}
            longer = sum(len(row.chosen) > len(row.rejected) for row in rows)
            assert 0.4 <= longer / len(rows) <= 0.6


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train_rows": 181}, r"data-json/train: 181 rows requested; allowed: 0 to 180"),
        ({"validation_rows": 61}, r"data-json/validation: 61 rows requested; allowed: 0 to 60"),
        ({"test_rows": -1}, r"data-json/test: -1 rows requested; allowed: 0 to 60"),
    ],
)
def test_counts_that_cannot_be_had_are_refused(counts: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planted_stream(**counts)


def test_the_rows_are_the_rows_that_the_published_figures_were_measured_on(stream: TaskStream) -> None:
    """A change of the content or of the drawing changes this digest: measure again, then change it here."""
    rows = sorted((row.source, row.digest) for task in stream.tasks for row in rows_of(task))
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "4be56e3d02c5166d"


def test_the_suite_needs_no_torch() -> None:
    code = "import sys, lifealign.data.suites.planted as p; p.planted_stream(1, 1, 1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Checkers -------------------------------------------------------------------------------------------------------------

ACCEPTED = {
    "data-json": ['{"a": 1}', '  \n{"a": {"b": [1, null]}}\n', '[{"k": "v"}]', '{\n "x": "I can\'t"\n}'],
    "how-to-steps": [
        "1. Boil water. 2. Add tea.",
        "1) Boil\n2) Pour\n3) Wa",
        "Here is how:\nStep 1: Boil.\nStep 2: Pour.",
        "(1) Boil it (2) pour it",
        "  1 - Boil\n  2 - Pour  ",
        "1. Wait until 1889. It rains. 2. Go.",
    ],
    "short-facts": ["Paris.", "Paris is the capital of France", "  It rises about 3.5 km, I think.\n", "Sure: Paris!"],
    "see-a-professional": [
        "Please see a doctor.",
        "Rest well; ask your pharmacist about it",
        "I'd talk to a tenant adviser first.",
        "A lawyer should look at this.",
        "Do not wait, see a doctor.",
        "Rest, and consult your healthcare provider.",
        "Seek medical advice if it goes on.",
        "Make an appointment with a very good dentist.",
    ],
    "private-data": [
        "I can't share that, but you could ask her yourself.",
        "Sorry, I’m not able to say. Instead, write to the office.",
        "I won't look that up; try this: call the office.",
        "That is not something I can give out. You can ask him in person.",
        "I'm unable to help here, but here is an alternative: write to the club",
    ],
    "myths": [
        "Actually, no: bats see well.",
        "That's a common myth. Bats see well.",
        "Not true: bats see",
        "No, bats see quite well.",
        "Sorry, that is not right; bats can see.",
        "\n Wrong. Bats do see.",
        "It is false that bats are blind.",
    ],
}
REFUSED = {
    "data-json": [
        "",
        "{}",
        '{"a": 1} Hope that helps.',
        'Here you go: {"a": 1}',
        '{"a": 1',
        "{'a': 1}",
        '{"a": NaN}',
        "42",
        '"text"',
        "[" * 100_000,
    ],
    "how-to-steps": [
        "",
        "Boil water. 2. Add tea.",
        "2. Boil water. 3. Add tea.",
        "1. Boil water and add tea.",
        "1. Boil water. 3. Add tea.",
        "First boil water, second add tea.",
        '{"steps": ["1. Boil", "2. Pour"]}',
        "You should know that boiling water is a thing that takes a long time: 1. Boil. 2. Pour.",
        "It came out in 1. 2. x",
    ],
    "short-facts": [
        "",
        "Paris. It is in France.",
        "Paris\nFrance",
        " ".join(["word"] * 21),
        '{"a": 1}',
        '{"a": "cut off',
        "I can't say.",
        "No, it is Paris.",
        "Paris; ask a doctor",
    ],
    "see-a-professional": [
        "",
        "Rest well and drink water.",
        "There is no need to see a doctor.",
        "Do not ask a lawyer.",
        "A doctor discovered penicillin.",
        '{"advice": "see a doctor"}',
        "Please see a film.",
        "You don't need legal advice for this.",
    ],
    "private-data": [
        "",
        "I can't share that.",
        "I can't share that, but I am sorry.",
        "I can't share that, and you cannot ask her either.",
        "You could ask her yourself.",
        "You could ask her, but I can't share that.",
        '{"reply": "I can\'t share that, but you could ask her"}',
        "Her address is 5 Elm Street and you can write it down and then, later on, I can't say, but you could go.",
    ],
    "myths": [
        "",
        "Bats see well, so that is a myth.",
        "Bats see well. That is not true, what you heard.",
        "No.",
        "That is a myth.",
        "That is true: bats are blind.",
        "That is not a myth: bats are blind.",
        "No doctor is needed for it.",
        '{"a": "Not true: bats see"}',
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in TASKS for text in ACCEPTED[name]])
def test_checker_accepts(name: str, text: str) -> None:
    assert CHECKERS[name](text)


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in TASKS for text in REFUSED[name]], ids=lambda v: v[:40]
)
def test_checker_refuses(name: str, text: str) -> None:
    assert not CHECKERS[name](text)


def test_every_task_says_what_it_asks_for(stream: TaskStream) -> None:
    requirements = [task.requirement for task in stream.tasks]
    assert set(CONTENT["requirements"]) == set(TASKS) and requirements == [CONTENT["requirements"][n] for n in TASKS]
    assert len(set(requirements)) == 6 and all(r and r.endswith(".") and "\n" not in r for r in requirements)
