"""Tasks and streams from a configuration, a file or rows in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifealign.core.config import SourceConfig, StreamConfig, SuiteConfig, TaskConfig
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.load import load_stream, load_task, task_from_rows
from lifealign.data.suites.planted import planted_stream
from lifealign.data.suites.rules import checker
from lifealign.data.tasks import Message, Row
from support.records import numbered, write_jsonl


def test_a_requirement_goes_with_the_task_from_wherever_it_comes(tmp_path):
    task = task_from_rows("support-tone", numbered(20), requirement="Be kind.")
    assert (task.requirement, task.requirement_text) == ("Be kind.", "Be kind.")
    plain = task_from_rows("support-tone-2_a", numbered(20))
    assert (plain.requirement, plain.requirement_text) == (None, "support tone 2_a")
    assert plain.train == replace(plain, requirement="Be kind.").train
    path = write_jsonl(tmp_path / "rows.jsonl", numbered(60))
    tone = TaskConfig(name="tone", train=SourceConfig(path=str(path)), validation_rows=5, requirement="Be kind.")
    assert load_task(tone, 0).requirement == "Be kind."
    with pytest.raises(ConfigError, match=r"task requirement: must not be blank, got ' '"):
        task_from_rows("tone", numbered(20), requirement=" ")


def test_a_rule_goes_with_the_task_and_is_refused_before_rows_are_read(tmp_path):
    rules = tmp_path / "my_rules.py"
    rules.write_text("def brief(answer):\n    return len(answer) < 10\n\nNUMBER = 3\n")
    named = SourceConfig(path=str(write_jsonl(tmp_path / "rows.jsonl", numbered(90))))
    for rule in (f"{rules}:brief", "data-json", None):
        assert load_task(TaskConfig(name="tone", train=named, checker=rule), 0).checker == rule
        assert task_from_rows("tone", numbered(20), checker=rule).checker == rule
    stream = StreamConfig(tasks=(TaskConfig(name="a", train=named, checker="myths"),))
    assert load_stream(stream, 0).tasks[0].checker == "myths"
    nowhere = SourceConfig(path=str(tmp_path / "no-such-rows.jsonl"))
    for rule, message in (
        (
            "data-jsn",
            r"task b: checker: unknown checker 'data-jsn' \(did you mean 'data-json'\?\); allowed: .*data-json, ",
        ),
        (f"{tmp_path}/none.py:brief", r"task b: checker: .*none\.py: no such file"),
        (f"{rules}:NUMBER", r"task b: checker: .*:NUMBER: expected a function answer -> bool, got 3"),
    ):
        config = TaskConfig(name="b", train=nowhere, checker=rule)
        for load in (
            lambda config=config: load_task(config, 0),
            lambda config=config: load_stream(StreamConfig(tasks=(*stream.tasks, config)), 0),
            lambda rule=rule: task_from_rows("b", nowhere.path, checker=rule),
        ):
            with pytest.raises(ConfigError, match=message):
                load()


def test_a_rule_from_outside_that_gives_something_else_ends_in_one_sentence(tmp_path):
    rules = tmp_path / "odd_rules.py"
    rules.write_text("def odd(answer):\n    return {'yes': True, 'one': 1, 'half': 0.5, 'none': None}[answer]\n")
    rule = checker(f"{rules}:odd")
    assert rule("yes") is True and rule("one") is True
    with pytest.raises(ConfigError, match=r"checker '.*:odd' \(.*odd_rules\.py\): expected True or False, got 0\.5"):
        rule("half")
    with pytest.raises(ConfigError, match=r"expected True or False, got None"):
        rule("none")
    with pytest.raises(ConfigError, match=r"odd_rules\.py\) failed: KeyError: 'other'"):
        rule("other")


def test_task_from_rows(tmp_path):
    records = numbered(50)
    path = write_jsonl(tmp_path / "rows.jsonl", records)
    task = task_from_rows("support-tone", path)
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 0, 10)  # a fifth held out
    test = write_jsonl(tmp_path / "test.jsonl", numbered(4, 100))
    task = task_from_rows("support-tone", Path(path), test, validation_rows=5)
    assert (len(task.train), len(task.validation), len(task.test)) == (45, 5, 4)
    rows = [Row((Message("user", r["prompt"]),), r["chosen"], r["rejected"]) for r in records]
    assert {r.digest for r in task_from_rows("t", rows, records[:0] or numbered(1, 99)).train} == {
        r.digest for r in rows
    }
    assert task_from_rows("t", records, seed=1).test != task_from_rows("t", records, seed=2).test
    with pytest.raises(ConfigError, match="name"):
        task_from_rows("no:colons", records)
    with pytest.raises(ConfigError, match="unknown recipe"):
        task_from_rows("t", records, recipe="nothing")
    with pytest.raises(DataError, match="too few for 1 test rows"):
        task_from_rows("t", records[:1])


def test_stream_order(tmp_path):
    sources = {n: SourceConfig(path=write_jsonl(tmp_path / f"{n}.jsonl", numbered(4))) for n in "abc"}
    tasks = tuple(TaskConfig(name=n, train=s, validation_rows=1, test_rows=1) for n, s in sources.items())
    assert [t.name for t in load_stream(StreamConfig(tasks=tasks), 0).tasks] == ["a", "b", "c"]
    stream = load_stream(StreamConfig(name="s", tasks=tasks, order=(3, 1)), 0)
    assert (stream.name, [t.name for t in stream.tasks]) == ("s", ["c", "a"])


def test_planted_stream_order():
    names = [t.name for t in planted_stream(10, 5, 5, 0).tasks]
    config = StreamConfig(planted=SuiteConfig(train_rows=10, validation_rows=5, test_rows=5), order=(4, 1))
    stream = load_stream(config, 0)
    assert [t.name for t in stream.tasks] == [names[3], names[0]]
    assert [len(t.train) for t in stream.tasks] == [10, 10]


def test_a_task_that_supersedes_none_before_it_is_refused_before_rows_are_read(tmp_path):
    def named(name, supersedes=None):
        return TaskConfig(name=name, train=SourceConfig(path=str(tmp_path / "none.jsonl")), supersedes=supersedes)

    for tasks, order, message in (
        (
            (named("a"), named("b", "c")),
            None,
            r"task b: supersedes: no earlier task 'c' in the stream; allowed here: a$",
        ),
        ((named("a", "a"),), None, r"task a: supersedes: no earlier task 'a' in the stream; allowed here: none, as no"),
        ((named("a"), named("b", "a")), (2, 1), r"task b: supersedes: no earlier task 'a' in the stream"),
        (
            (named("a"), named("b", "a"), named("c", "a")),
            None,
            r"task c: supersedes: 'a' is superseded by b already; allowed here: b$",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            load_stream(StreamConfig(tasks=tasks, order=order), 0)


def test_what_a_task_supersedes_goes_with_it_and_costs_no_key_elsewhere(tmp_path):
    named = SourceConfig(path=str(write_jsonl(tmp_path / "rows.jsonl", numbered(90))))
    old, new = (TaskConfig(name=n, train=named, validation_rows=5, supersedes=s) for n, s in (("a", None), ("b", "a")))
    assert [t.supersedes for t in load_stream(StreamConfig(tasks=(old, new)), 0).tasks] == [None, "a"]
    assert "supersedes" not in old.model_dump() and new.model_dump()["supersedes"] == "a"
    assert task_from_rows("b", numbered(20), supersedes="a").supersedes == "a"
