"""Every embedded suite: what configurations, studies and rules know of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from lifealign.core.config import SUITE_SIZES, StreamConfig, SuiteConfig
from lifealign.core.errors import ConfigError
from lifealign.core.stream_config import DriftingConfig
from lifealign.data.load import load_stream
from lifealign.data.suites.catalog import SUITES
from lifealign.data.suites.rules import CHECKERS
from support.paths import ROOT


def config_of(name: str, **sizes: int | bool) -> StreamConfig:
    return StreamConfig.model_validate({"name": "s", name: sizes, "order": [2, 1]})


def test_a_configuration_names_every_suite_and_knows_its_number_of_tasks() -> None:
    assert {name: len(suite.tasks) for name, suite in SUITES.items()} == SUITE_SIZES
    named = [
        name
        for name, field in StreamConfig.model_fields.items()
        if field.annotation in (SuiteConfig | None, DriftingConfig | None)
    ]
    assert named == list(SUITES)


def test_no_two_suites_share_a_task_and_every_task_has_a_rule_of_its_name() -> None:
    names = [task for suite in SUITES.values() for task in suite.tasks]
    assert len(set(names)) == len(names) and set(names) <= set(CHECKERS)


@pytest.mark.parametrize("name", SUITES)
def test_a_stream_is_loaded_in_its_order_with_its_sizes(name: str) -> None:
    stream = load_stream(config_of(name, train_rows=6, validation_rows=2, test_rows=4), 0)
    assert [task.name for task in stream.tasks] == [SUITES[name].tasks[1], SUITES[name].tasks[0]]
    for task in stream.tasks:
        assert (len(task.train), len(task.validation), len(task.test)) == (6, 2, 4)
        assert task.reports[0].source == f"{name}/{task.name}" and task.checker == task.name and task.requirement
        assert all(row.source.startswith(f"{name}/{task.name}/train:") for row in task.train)
    thumbs = load_stream(config_of(name, train_rows=6, unpaired=True), 0).tasks[0]
    assert len(thumbs.train) == 12 and {row.kind for row in thumbs.train} == {"desirable", "undesirable"}


@pytest.mark.parametrize("name", SUITES)
def test_the_seed_decides_only_which_rows_are_taken_and_their_order(name: str) -> None:
    suite = SUITES[name]
    first, again, other = (suite.stream(10, 3, 5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert all(a.train != b.train for a, b in zip(first.tasks, other.tasks, strict=True))
    for one, two in zip(suite.stream().tasks, suite.stream(seed=3).tasks, strict=True):
        assert {(r.source, r.digest) for r in one.train} == {(r.source, r.digest) for r in two.train}
        assert [r.source for r in one.train] != [r.source for r in two.train]


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("key", ["train_rows", "validation_rows", "test_rows"])
def test_counts_that_cannot_be_had_are_refused(name: str, key: str) -> None:
    suite, split = SUITES[name], key.removesuffix("_rows")
    full = len(suite.rows(suite.tasks[0], split))  # type: ignore[arg-type]
    for count in (full + 1, -1):
        expected = f"{name} suite, {suite.tasks[0]}/{split}: {count} rows requested; allowed: 0 to {full}"
        with pytest.raises(ConfigError, match=expected):
            suite.stream(**{key: count})


@pytest.mark.parametrize("name", SUITES)
def test_the_digest_of_a_suite_is_that_of_its_content_file(name: str) -> None:
    content = (ROOT / "src" / "lifealign" / "data" / "suites" / SUITES[name].content).read_bytes()
    assert SUITES[name].sha256 == hashlib.sha256(content).hexdigest()


def test_the_suites_need_no_torch() -> None:
    code = (
        "import sys; from lifealign.data.suites.catalog import SUITES; "
        "[s.stream(1, 1, 1) for s in SUITES.values()]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
