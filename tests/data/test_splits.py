"""Training, validation and test rows: sizes, seeds, no prompt on both sides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifealign.core.config import SourceConfig, TaskConfig
from lifealign.core.errors import DataError
from lifealign.data.load import load_task
from lifealign.data.tasks import Message, Row, prompt_key
from support.records import RESPLIT, config_of, numbered, read, write_jsonl


def test_splits_have_the_sizes_asked_for_and_share_no_prompt(tmp_path):
    records = numbered(60) + [{"prompt": f"Question {i}", "chosen": "again", "rejected": "other"} for i in range(60)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    task = load_task(config_of(path, validation_rows=20, test_rows=30, train_rows=50), seed=1)
    assert (len(task.train), len(task.validation), len(task.test)) == (50, 20, 30)
    keys = [{prompt_key(r) for r in part} for part in (task.train, task.validation, task.test)]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert len({r.digest for r in (*task.train, *task.validation, *task.test)}) == 100


def test_splits_depend_on_the_seed_only(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", numbered(60))
    config = config_of(path, validation_rows=10, test_rows=10)
    random.seed(5)
    state = random.getstate()
    first = load_task(config, seed=3)
    assert random.getstate() == state
    random.seed(6)
    assert load_task(config, seed=3) == first
    other = load_task(config, seed=4)
    assert {r.digest for r in other.test} != {r.digest for r in first.test}
    fewer = load_task(config.model_copy(update={"train_rows": 7}), seed=3)
    assert fewer.train == first.train[:7] and fewer.test == first.test


def test_train_rows_whose_prompt_is_in_test_are_dropped_and_counted(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", numbered(10))
    test = write_jsonl(
        tmp_path / "test.jsonl", [{"prompt": "QUESTION  4", "chosen": "c", "rejected": "d"}, *numbered(3, 20)]
    )
    task = load_task(config_of(train, test=test, validation_rows=2, test_rows=2), seed=0)
    assert task.reports[0].dropped == {"prompt also in test": (5,)}
    assert task.reports[0].kept == 9
    assert (len(task.train), len(task.validation), len(task.test)) == (7, 2, 2)
    assert "question 4" not in {r.prompt[0].content for r in (*task.train, *task.validation)}
    with pytest.raises(DataError, match="no usable row among 10:\n  dropped 10 rows: prompt also in test"):
        load_task(config_of(train, test=train, validation_rows=0), seed=0)


def test_too_few_rows_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", numbered(30))
    with pytest.raises(DataError, match=r"30 usable rows .* too few for 20 test rows, 10 validation rows"):
        load_task(config_of(path, validation_rows=10, test_rows=20), seed=0)
    with pytest.raises(DataError, match="too few for 40 validation rows"):
        load_task(config_of(path, test=write_jsonl(tmp_path / "t.jsonl", numbered(3, 90))), seed=0)
    one_prompt = [{"prompt": "same", "chosen": f"good {i}", "rejected": "bad"} for i in range(30)]
    with pytest.raises(DataError, match="too few for 5 test rows"):
        load_task(config_of(write_jsonl(tmp_path / "b.jsonl", one_prompt), test_rows=5, validation_rows=0), seed=0)


@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40),
    sizes=st.tuples(st.integers(0, 10), st.integers(0, 10)),
    seed=st.integers(0, 5),
)
def test_draw_keeps_every_row_once_and_groups_whole(prompts, sizes, seed):
    from lifealign.data.splits import _draw

    rows = [Row((Message("user", p),), f"c{i}", "r") for i, p in enumerate(prompts)]
    parts, rest = _draw(rows, sizes, random.Random(seed))
    drawn = [r.chosen for part in (*parts, rest) for r in part]
    assert sorted(drawn) == sorted(r.chosen for r in rows)
    assert all(len(part) <= size for part, size in zip(parts, sizes, strict=True))
    keys = [{prompt_key(r) for r in part} for part in (*parts, rest)]
    assert sum(map(len, keys)) == len(set(prompts))


def test_resplit_rows_test_prompts_in_train():
    """One test row of each set has its prompt in two training rows; those two go."""
    for recipe in ("hh-harmless", "safe-rlhf"):
        train, test = (read(RESPLIT / recipe / name, recipe=recipe)[0] for name in ("train.json", "test.json"))
        keys = {prompt_key(r) for r in train}
        assert sum(prompt_key(r) in keys for r in test) == 1
        config = TaskConfig(
            name="t",
            train=SourceConfig(path=str(RESPLIT / recipe / "train.json"), recipe=recipe),
            test=SourceConfig(path=str(RESPLIT / recipe / "test.json"), recipe=recipe),
            validation_rows=0,
        )
        assert load_task(config, 0).reports[0].dropped["prompt also in test"] == (1, 2)
