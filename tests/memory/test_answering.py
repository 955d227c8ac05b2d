"""Answers at points of a memory's life, against what the stored evaluations and plain generation give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifealign import Asked, Memory, read_answers
from lifealign.cli.app import app
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.memory.session import Session
from support.rows import make_task


@pytest.fixture
def memory(config: Any) -> Memory:
    memory = Memory.create(config().memory, config("evaluate.max_new_tokens=5"))
    for name in ("one", "two"):
        memory.learn(make_task(name))
    return memory


def test_points_tasks_and_stages(memory: Memory) -> None:
    found = memory.answers(Asked(every_point=True, count=3, source="ours"))
    cells = list(dict.fromkeys((r.point, r.stage, r.task) for r in found))
    assert cells == [
        ("base", 0, "one"),
        ("base", 0, "two"),
        ("one", 1, "one"),  # not two: it was not learnt yet
        ("two", 2, "one"),
        ("two", 2, "two"),
    ]
    assert len(found) == 3 * len(cells) and len({r.item for r in found}) == 6
    assert {r.source for r in found} == {"ours"}
    first = make_task("one").test[0]
    assert (found[0].prompt, found[0].reference, found[0].rejected) == (first.prompt, first.chosen, first.rejected)


def test_answers_are_those_of_the_model_at_that_point(memory: Memory) -> None:
    for at, as_of in (("base", "initial"), ("one", "one"), ("now", None)):
        found = memory.answers(Asked(tasks=["two"], at=[at], count=2))
        plain = memory.generate([r.prompt for r in found], as_of=as_of, max_new_tokens=5)
        assert [r.answer for r in found] == plain and len(found) == 2


def test_scores_of_the_rows_pair_are_those_of_the_evaluation(memory: Memory) -> None:
    (score,) = [s for s in memory._store.evaluations()[-1]["scores"] if s["task"] == "one"]
    found = memory.answers(Asked(tasks=["one"]))
    assert len(found) == 4  # 20 are asked for where nothing says how many; the task keeps 4
    assert [r.scores["accuracy"] for r in found] == score["rows"]["accuracy"]
    assert [r.scores["margin"] for r in found] == pytest.approx(score["rows"]["margin"], abs=1e-5)
    assert "pass_rate" not in found[0].scores  # the task has no rule


def test_stored_answers_are_not_generated_again(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.evaluate(["one"], generations=3, text_metrics=["length_words"])
    stored = memory._store.evaluations()[-1]["scores"][0]

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(Session, "score", refuse)
    found = Memory.open(memory.path).answers(Asked(tasks=["one"], count=2))
    assert [(r.answer, r.scores["length_words"]) for r in found] == [
        (a["answer"], a["scores"]["length_words"]) for a in stored["answers"][:2]
    ]
    for other in (Asked(tasks=["one"], count=4), Asked(tasks=["one"], count=2, max_new_tokens=4)):
        with pytest.raises(AssertionError, match="generated"):
            memory.answers(other)


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        (Asked(tasks=["thre"]), DataError, "no task 'thre'; known: one, two"),
        (Asked(at=["thre"]), StoreError, "no task 'thre'; known: "),
        (Asked(split="train"), ConfigError, "split 'train': allowed: test, validation"),
        (Asked(count=0), ConfigError, "count=0: allowed: 1 <= count"),
    ],
)
def test_mistakes(memory: Memory, asked: Asked, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        memory.answers(asked)


def test_nothing_learnt(config: Any) -> None:
    with pytest.raises(DataError, match="no task learnt yet"):
        Memory.create(config().memory, config()).answers(Asked())


def test_command(memory: Memory, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    call = [
        "answers",
        str(memory.path),
        "--out",
        str(out),
        "--task",
        "two",
        "--at",
        "base",
        "--at",
        "now",
        "--count",
        "2",
    ]
    result = CliRunner().invoke(app, [*call, "--json"])
    assert json.loads(result.stdout) == {"answers": 4, "points": ["base", "two"], "out": str(out)}
    assert [r.point for r in read_answers(out)] == ["base", "base", "two", "two"]
    refused = CliRunner().invoke(app, [*call, "--every-point"])
    assert refused.exit_code == 2 and "--at and --every-point" in refused.stderr
    refused = CliRunner().invoke(app, ["answers", str(memory.path), "--out", "a.txt"])
    assert refused.exit_code == 2
    assert "unknown extension '.txt'; answers are written as .jsonl or .parquet" in refused.stderr


def test_a_prompt_baseline_answers_as_another_source(memory: Memory, tmp_path: Path) -> None:
    """The base model answers after a prompt of a stranger's own; urial is refused where it does not fit into the context."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from lifealign.data.prompt_baselines import PromptBaseline\n"
        "ask = PromptBaseline(lambda conversation: 'Q: ' + conversation[-1].content, ('e',))\n"
    )
    found = memory.answers(Asked(["one"], count=2, max_new_tokens=4, prompt_baseline=f"{file}:ask"))
    assert {(r.source, r.point, r.stage, r.task) for r in found} == {(f"{file}:ask", "base", 0, "one")} and len(
        found
    ) == 2
    assert all("e" not in r.answer and r.scores == {} for r in found)
    assert (
        memory.answers(Asked(["one"], count=2, max_new_tokens=4, prompt_baseline=f"{file}:ask", source="own"))[0].source
        == "own"
    )
    with pytest.raises(DataError, match="context is 512: no room for 4 more; use a base model with a longer context"):
        memory.answers(Asked(["one"], max_new_tokens=4, prompt_baseline="urial"))
    with pytest.raises(ConfigError, match="prompt baseline urial: the base model answers, at no other point"):
        memory.answers(Asked(every_point=True, prompt_baseline="urial"))
