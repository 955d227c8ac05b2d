"""`evaluate.cells`: which cells of R a stream scores, what its summaries are then, and how missing cells are filled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.progress import LineProgress
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory, run_stream
from lifealign.store.layout import ROW_RECORD
from support.rows import make_task

Build = Callable[..., RunConfig]
ROWS = 2
SIX = (
    "strategy.name=sequential",
    "stream.planted.train_rows=2",
    "stream.planted.validation_rows=0",
    f"stream.planted.test_rows={ROWS}",
    "evaluate.before=false",
    "evaluate.bootstrap=10",
    "train.epochs=1",
)


def scored(memory: Memory) -> dict[str, int]:
    """Metric -> number of rows whose value is in the memory's records, each as often as it was measured."""
    found: dict[str, int] = {}
    for record in memory._store.evaluations():
        for score in record["scores"] if record["kind"] == ROW_RECORD else ():
            for name, values in score["rows"].items():
                found[name] = found.get(name, 0) + len(values)
    return found


def there(memory: Memory, score: str = "margin") -> list[str]:
    """R as text: a row for each stage, x where a cell was measured."""
    return ["".join("." if math.isnan(v) else "x" for v in row) for row in memory.scores(score)]


ENDS = ["x.....", ".x....", "..x...", "...x..", "....x.", "xxxxxx"]
ALL = ["x.....", "xx....", "xxx...", "xxxx..", "xxxxx.", "xxxxxx"]


def test_the_ends_of_six_tasks_are_half_of_the_rows_and_the_rest_is_filled_later(
    config: Build, one_thread: None
) -> None:
    ends = config(*SIX, "evaluate.cells=ends", "evaluate.generations=1", "evaluate.max_new_tokens=2")
    memory = run_stream(ends)
    assert there(memory) == there(memory, "pass_rate") == ENDS
    # 11 cells in place of 21, and as many answers less.
    assert (scored(memory)["margin"], scored(memory)["pass_rate"]) == (11 * ROWS, 11)
    summary = memory.summary()["margin"]
    assert all(math.isfinite(summary[key]["value"]) for key in ("last", "bwt", "learning_accuracy"))
    assert all(math.isnan(summary[key]["value"]) for key in ("ap", "forgetting"))
    (gate,) = memory.check([Gate.parse("ap.margin>=-1000")])
    assert not gate.held and "some cells of R were not scored: lifealign evaluate MEMORY --as-of TASK" in gate.line()
    # Run again: nothing is measured twice.
    assert scored(run_stream(ends)) == scored(memory)
    # One row by hand, then all of them by the stream.
    memory = Memory.open(memory.path)
    third = memory.tasks()[2]
    memory.evaluate(as_of=third)
    assert there(memory) == [*ENDS[:2], "xxx...", *ENDS[3:]] and scored(memory)["margin"] == 13 * ROWS
    whole = run_stream(ends.model_copy(update={"evaluate": ends.evaluate.model_copy(update={"cells": "all"})}))
    assert there(whole) == there(whole, "pass_rate") == ALL
    assert (scored(whole)["margin"], scored(whole)["pass_rate"]) == (21 * ROWS, 21)
    filled = whole.summary()["margin"]
    assert math.isfinite(filled["ap"]["value"]) and math.isfinite(filled["forgetting"]["value"])
    assert {k: filled[k] for k in ("last", "bwt")} == {k: summary[k] for k in ("last", "bwt")}


def test_a_stream_of_one_stage_is_scored_whole(config: Build, one_thread: None) -> None:
    memory = run_stream(config(*SIX, "strategy.name=joint", "stream.order=[1, 2]", "evaluate.cells=ends"))
    assert there(memory) == ["..", "xx"]


def test_a_retired_task_is_no_end_and_leaves_no_hole(config: Build, one_thread: None) -> None:
    """The third task supersedes the first one, so its column ends before that stage."""
    settings = [s.replace("stream.planted.", "stream.revised.") for s in SIX]
    revised = ("stream.planted=null", *settings, "stream.order=[1, 2, 5, 3]", "evaluate.generations=0")
    ends = config(*revised, "evaluate.cells=ends")
    memory = run_stream(ends)
    assert there(memory) == ["x...", ".x..", "..x.", ".xxx"]
    assert math.isnan(memory.summary()["margin"]["ap"]["value"])
    whole = run_stream(ends.model_copy(update={"evaluate": ends.evaluate.model_copy(update={"cells": "all"})}))
    assert there(whole) == ["x...", "xx..", ".xx.", ".xxx"]
    summary, R = whole.summary()["margin"], whole.scores("margin")
    stages = [R[0][0], sum(R[1][:2]) / 2, sum(R[2][1:3]) / 2, sum(R[3][1:]) / 3]
    assert summary["ap"]["value"] == pytest.approx(sum(stages) / 4)
    drops = [max(R[1][1], R[2][1]) - R[3][1], R[2][2] - R[3][2]]
    assert summary["forgetting"]["value"] == pytest.approx(sum(drops) / 2)


def test_learn_knows_no_last_task_and_scores_whole_rows(
    config: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    memory = Memory.create(tmp_path / "m", config("evaluate.cells=ends", "evaluate.before=false"))
    for name in ("bread", "stars", "music"):
        memory.learn(make_task(name, train=4, test=2), progress=LineProgress())
    assert there(memory) == ["x..", "xx.", "xxx"]
    said = "evaluate.cells=ends: any task may be the last one here, so its whole row of R is scored"
    assert capsys.readouterr().err.count(said) == 1


def test_the_ends_and_the_upper_triangle_exclude_each_other(config: Build) -> None:
    with pytest.raises(ConfigError, match="cells=ends leaves out cells that unseen=true asks for; drop one of them"):
        config("evaluate.cells=ends", "evaluate.unseen=true")


def test_the_default_is_no_part_of_a_stored_configuration(config: Build) -> None:
    assert "cells" not in config().evaluate.model_dump() and config().evaluate.cells == "all"
    assert config("evaluate.cells=ends").evaluate.model_dump()["cells"] == "ends"
