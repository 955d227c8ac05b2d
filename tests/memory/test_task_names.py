"""Names of tasks in any language, with spaces: everywhere that a task is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import UserError
from lifealign.data.load import task_from_rows
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory
from lifealign.report.memories import build_results, write_report
from support.rows import make_task

NAMES = ("Kündigungen & Verträge", "退款 客户's")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tasks_have_names_in_any_language(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = Memory.create(
        path, config("train.epochs=1", "evaluate.before=false", "strategy.route=true", "evaluate.generations=1")
    )
    for name in NAMES:
        memory.learn(make_task(name, train=8, test=4, validation=2))
    assert memory.tasks() == list(NAMES) and memory.verify(deep=True) == []
    assert [entry["directory"] for entry in memory.log()] == ["0000-initial", "0001-k-ndigungen-vertr-ge", "0002-s"]
    one, two = (memory.scores()[-1][i] for i in (0, 1))
    for text, value in ((f"{NAMES[0]}>=0", one), (f"low({NAMES[1]}.accuracy)>=-1", None), (f"task:{NAMES[1]}>=0", two)):
        (result,) = memory.check([Gate.parse(text, memory.tasks())])
        assert result.held and (value is None or result.value == pytest.approx(value))
    write_report(build_results([memory.results()]), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Kündigungen &amp; Verträge" in page and "退款 客户&#39;s" in page
    assert memory.diff(NAMES[0], "now").lines()
    assert memory.generate(["a question?"], weights={NAMES[0]: 1.0}, max_new_tokens=2)
    assert memory.rollback(NAMES[0]) == "0001-k-ndigungen-vertr-ge" and memory.tasks() == [NAMES[0]]


def test_a_task_that_is_named_like_a_step_of_the_drifting_suite_is_none(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Rows that differ in politeness alone would be probes of the suite."""
    task = make_task("linear-1", train=8, test=4)
    polite = tuple(replace(row, chosen="Thanks.", rejected="Fine.") for row in task.test)
    memory = Memory.create(tmp_path / "memory", config("train.epochs=1", "evaluate.before=false"))
    memory.learn(replace(task, test=polite))
    assert "margin" in memory.summary() and "follow" not in memory.summary()


@pytest.mark.parametrize("name", ["a.b", " a", "a ", "a=b", "a(b)", "a/b", "-a", "now", "a\nb", "x" * 65])
def test_names_that_would_be_ambiguous_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"letters and digits of any language|names a point"):
        task_from_rows(name, [])
