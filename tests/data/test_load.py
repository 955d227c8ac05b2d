"""Tasks and streams from a configuration, a file or rows in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifealign.core.config import SourceConfig, StreamConfig, TaskConfig
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.load import load_stream, load_task, task_from_rows
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
    with pytest.raises(ConfigError, match=r"task requirement: String should match pattern .*, got ' '"):
        task_from_rows("tone", numbered(20), requirement=" ")


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
        task_from_rows("no spaces", records)
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
    planted = pytest.importorskip("lifealign.data.planted.suite")
    from lifealign.core.config import PlantedConfig

    names = [t.name for t in planted.planted_stream(10, 5, 5, 0).tasks]
    config = StreamConfig(planted=PlantedConfig(train_rows=10, validation_rows=5, test_rows=5), order=(4, 1))
    stream = load_stream(config, 0)
    assert [t.name for t in stream.tasks] == [names[3], names[0]]
    assert [len(t.train) for t in stream.tasks] == [10, 10]
