"""Floors of the three harder suites: rows that differ, short texts, and rules that do not understand a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from lifealign.data.suites.catalog import SUITES
from lifealign.data.tasks import TaskStream
from support.suites import best_length_rule, best_single_feature, learnt_on_answers, overlap_rule, rows_of, words


class Limits(NamedTuple):
    """Words of a suite's texts, and the share of pairs that the overlap of prompt and answer may get right."""

    longest_prompt: int
    mean_prompt: int
    longest_answer: int
    mean_answer: int
    overlap: float


LIMITS = {
    "contested": Limits(42, 34, 36, 20, 0.55),
    "revised": Limits(22, 14, 40, 22, 0.6),
    "long": Limits(14, 10, 30, 22, 0.55),
}


@pytest.fixture(scope="module", params=sorted(LIMITS))
def suite(request: pytest.FixtureRequest) -> tuple[TaskStream, Limits]:
    return SUITES[request.param].stream(), LIMITS[request.param]


Suite = tuple[TaskStream, Limits]


def test_no_duplicate_rows_prompts_or_equal_answers(suite: Suite) -> None:
    everything = [row for task in suite[0].tasks for row in rows_of(task)]
    assert len({row.digest for row in everything}) == len({row.prompt for row in everything}) == len(everything) == 2400
    assert all(row.chosen != row.rejected for row in everything)
    assert all(text == text.strip() and text for row in everything for text in (row.chosen, row.rejected))


def test_texts_are_short(suite: Suite) -> None:
    stream, limits = suite
    everything = [row for task in stream.tasks for row in rows_of(task)]
    prompts = [words(row.prompt[0].content) for row in everything]
    answers = [words(text) for row in everything for text in (row.chosen, row.rejected)]
    assert max(prompts) <= limits.longest_prompt and sum(prompts) / len(prompts) <= limits.mean_prompt
    assert max(answers) <= limits.longest_answer and 12 <= sum(answers) / len(answers) <= limits.mean_answer


@pytest.mark.parametrize("length", [len, words], ids=["characters", "words"])
def test_a_length_rule_separates_at_most_sixty_percent(suite: Suite, length: Callable[[str], int]) -> None:
    for task in suite[0].tasks:
        for rows in (rows_of(task), task.train, task.validation, task.test):
            assert best_length_rule(rows, length) <= 0.6, rows[0].source


def test_no_rule_on_words_without_the_task_tells_chosen_from_rejected(suite: Suite) -> None:
    stream, limits = suite
    share, feature = best_single_feature([row for task in stream.tasks for row in rows_of(task)])
    assert share <= 0.55, feature
    assert overlap_rule([row for task in stream.tasks for row in rows_of(task)]) <= limits.overlap
    assert learnt_on_answers(stream) <= 0.6
