"""The drifting suite: pairs that stay the same, preferences that move, and what tells them apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from lifealign.core.config import StreamConfig
from lifealign.data.load import load_stream
from lifealign.data.suites.drifting import SUITE_OF_DRIFT, pairs_of
from lifealign.data.suites.drifting_rules import ATTRIBUTES, DRIFTS, RULES, STEPS, phi, preference, worth
from lifealign.data.suites.suite import SPLITS
from lifealign.data.tasks import Row
from support.suites import overlap_rule, rows_of

DIGEST = "1e7fb64ef91cf601"


def unordered(row: Row) -> tuple[str, frozenset[str]]:
    return row.prompt[0].content, frozenset((row.chosen, row.rejected))


def test_the_rows_depend_on_the_package_alone() -> None:
    rows = [row.digest for suite in SUITE_OF_DRIFT.values() for t in suite.stream().tasks for row in rows_of(t)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == DIGEST


def test_pairs_stay_the_same_and_splits_share_no_prompt() -> None:
    assert [len(pairs_of(split)) for split in SPLITS] == [180, 60, 60]
    prompts = [{pair.prompt for pair in pairs_of(split)} for split in SPLITS]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 300
    for suite in SUITE_OF_DRIFT.values():
        stream = suite.stream(20, 5, 10, seed=4)
        for split in SPLITS:
            first, *others = ([unordered(row) for row in getattr(task, split)] for task in stream.tasks)
            assert all(found == first for found in others) and len(set(first)) == len(first)


def test_every_pair_is_preferred_by_what_its_answers_are_and_no_vote_is_a_tie() -> None:
    for drift, suite in SUITE_OF_DRIFT.items():
        for task in suite.stream().tasks:
            w = preference(task.name)
            for row in rows_of(task):
                assert worth(w, phi(row.chosen)) - worth(w, phi(row.rejected)) >= 0.05
            assert drift in task.name and RULES[task.name](task.test[0].chosen) in (True, False)


def test_held_out_pairs_are_probes_of_one_attribute_in_equal_numbers() -> None:
    for count in (60, 10):
        rows = SUITE_OF_DRIFT["linear"].stream(1, 0, count).tasks[0].test
        apart = [[name for name, a, b in zip(ATTRIBUTES, phi(r.chosen), phi(r.rejected), strict=True) if a != b] for r in rows]  # fmt: skip
        assert Counter(tuple(names) for names in apart) == {(name,): count // 5 for name in ATTRIBUTES}


def test_paths_are_linear_periodic_and_changed_once() -> None:
    """The three drifts of the ProgressGym section: the second difference of the linear one is zero, also beyond the end."""
    linear, oscillating, jump = (DRIFTS[name] for name in ("linear", "oscillating", "jump"))
    for step in range(1, STEPS + 3):
        second = [a - 2 * b + c for a, b, c in zip(linear(step), linear(step + 1), linear(step + 2), strict=True)]
        assert second == pytest.approx([0] * 5, abs=1e-12)
        assert oscillating(step) == pytest.approx(oscillating(step + 5))
    assert len({jump(step) for step in range(1, 4)}) == 1 and len({jump(step) for step in range(4, 9)}) == 1
    assert jump(1) != jump(6)


def test_neither_the_prompt_nor_the_style_of_another_step_tells_what_is_preferred() -> None:
    tasks = SUITE_OF_DRIFT["linear"].stream().tasks
    for task in tasks:
        assert overlap_rule(task.train) <= 0.6
    agreement = [sum(a.chosen == b.chosen for a, b in zip(tasks[0].train, _in_order(tasks[0].train, t.train), strict=True)) for t in tasks]  # fmt: skip
    assert agreement == sorted(agreement, reverse=True) and agreement[-1] < 0.5 * len(tasks[0].train)


def _in_order(rows: tuple[Row, ...], others: tuple[Row, ...]) -> list[Row]:
    by_prompt = {row.prompt: row for row in others}
    return [by_prompt[row.prompt] for row in rows]


def test_a_stream_names_its_drift() -> None:
    config = StreamConfig.model_validate(
        {"drifting": {"drift": "jump", "train_rows": 4, "test_rows": 5}, "order": [1, 4]}
    )
    assert [task.name for task in load_stream(config, 0).tasks] == ["jump-1", "jump-4"]
    assert "drift" not in StreamConfig.model_validate({"drifting": {}}).model_dump()["drifting"]
