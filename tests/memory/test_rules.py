"""A rule from outside in a memory: named in a configuration, kept, found again, changed, and missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign import register_checker
from lifealign.core import origin, registry
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.core.progress import LineProgress
from lifealign.data.suites.rules import CHECKERS
from lifealign.data.tasks import Task
from lifealign.memory.answering import Asked
from lifealign.memory.api import Memory, run_stream
from lifealign.store.layout import DATA
from support.records import numbered, write_jsonl
from support.rows import make_task

Build = Callable[..., RunConfig]
SETTINGS = ("strategy.name=sequential", "evaluate.before=false", "evaluate.max_new_tokens=3")
ANY = "def any_answer(answer):\n    return True\n"
NONE = "def any_answer(answer):\n    return False\n"


@pytest.fixture(autouse=True)
def new_process() -> Iterator[Callable[[], None]]:
    """Forget what this process registered, loaded and found: what is called, and what follows the test, is a new one."""
    entries = dict(CHECKERS._entries)

    def start_again() -> None:
        CHECKERS._entries = dict(entries)
        for table in (origin._placed, origin._loaded, registry._handed):
            table.clear()

    yield start_again
    start_again()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "my_rules.py"
    path.parent.mkdir()
    path.write_text(ANY)
    return path


def ruled(name: str, rule: str) -> Task:
    task = make_task(name, train=4, test=3)
    return Task(task.name, task.train, task.validation, task.test, checker=rule)


@pytest.fixture
def memory(config: Build, tmp_path: Path, rules: Path, one_thread: None) -> Memory:
    """A task with a rule of a file, one with a built-in rule, and one without; no answers yet."""
    memory = Memory.create(tmp_path / "memory", config(*SETTINGS))
    for task in (ruled("bread", f"{rules}:any_answer"), ruled("stars", "short-facts"), make_task("trees", 4, 3)):
        memory.learn(task)
    return memory


def pass_rates(memory: Memory, **options: Any) -> dict[str, float | None]:
    found = memory.evaluate(generations=2, **options).tasks
    return {name: cells["pass_rate"]["value"] if "pass_rate" in cells else None for name, cells in found.items()}


def test_a_stream_names_the_rules_of_its_tasks(config: Build, tmp_path: Path, rules: Path, one_thread: None) -> None:
    tasks = [
        {"name": name, "train": {"path": str(write_jsonl(tmp_path / f"{name}.jsonl", numbered(9, 20 * i)))}}
        | {"validation_rows": 0, "test_rows": 3, **({} if rule is None else {"checker": rule})}
        for i, (name, rule) in enumerate([("a", f"{rules}:any_answer"), ("b", "data-json"), ("c", None)])
    ]
    stream = f"stream={json.dumps({'tasks': tasks})}"
    found = run_stream(config(*SETTINGS, stream, "evaluate.generations=1"))
    assert pass_rates(found) == {"a": 100, "b": 0, "c": None}
    kept = found._store.load_document(found._store.find("a"), DATA)["checkers"]
    assert kept[f"{rules}:any_answer"]["path"] == str(rules)
    assert all("checkers" not in found._store.load_document(found._store.find(n), DATA) for n in "bc")
    tasks[1]["checker"] = "myths"
    with pytest.raises(
        StoreError, match="the checker of task 'b' is 'data-json' in the memory, 'myths' here; set it back"
    ):
        run_stream(config(*SETTINGS, f"stream={json.dumps({'tasks': tasks})}", "evaluate.generations=1"))


def test_a_rule_is_kept_and_its_change_measured_anew(
    memory: Memory, rules: Path, new_process: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert pass_rates(memory)["bread"] == 100
    record = memory._store.evaluations()[-1]
    assert list(record["checkers"]) == [f"{rules}:any_answer"] and "outside" not in record
    count = len(memory._store.evaluations())
    assert pass_rates(memory)["bread"] == 100 and len(memory._store.evaluations()) == count, "not measured twice"
    rules.write_text(NONE)
    new_process()
    again = Memory.open(memory.path)
    assert "warnings" not in again.results()
    assert pass_rates(again)["bread"] == 0
    assert [score["task"] for score in again._store.evaluations()[-1]["scores"]] == ["bread"], (
        "the others are unchanged"
    )
    told = f"warning: checker '{rules}:any_answer' has changed since this memory was made (my_rules.py)"
    assert capfd.readouterr().err.count(told) == 1
    kept = [told.removeprefix("warning: ")]
    assert again._store.evaluations()[-1]["warnings"] == again.results()["warnings"] == kept


def test_a_memory_opens_where_its_rule_is_missing_and_tells_of_it(
    memory: Memory,
    rules: Path,
    new_process: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    moved = tmp_path / "moved"
    rules.parent.rename(moved)
    new_process()
    capfd.readouterr()
    gone = Memory.open(memory.path)
    rates = pass_rates(gone)
    (kept,) = gone.results()["warnings"]
    assert rates["bread"] is None and rates["stars"] is not None and rates["trees"] is None
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "any_answer" in text]
    assert line.startswith(
        f"warning: checker '{rules}:any_answer' cannot be found here, so pass rates are not measured"
    )
    assert line == f"warning: {kept}"
    assert f"with it; the memory was made with {rules} (sha256 " in line
    assert line.endswith("put the file back, or set LIFEALIGN_CODE_PATH to the folder that it is in now")
    (answer,) = Memory.open(memory.path).answers(Asked(["bread"], count=1, max_new_tokens=2), progress=LineProgress())
    assert "pass_rate" not in answer.scores
    assert "any_answer" in capfd.readouterr().err
    rules.parent.mkdir()
    rules.write_text("def any_answer(answer:\n")
    new_process()
    assert pass_rates(Memory.open(memory.path), as_of="bread") == {"bread": None}
    assert f"any_answer' cannot be used here ({rules}:1: cannot be loaded: SyntaxError: " in capfd.readouterr().err
    rules.unlink()
    # Back again, it is measured, and nothing is left to tell.
    monkeypatch.setenv("LIFEALIGN_CODE_PATH", str(moved))
    new_process()
    back = Memory.open(memory.path)
    assert [pass_rates(back, as_of=point)["bread"] for point in ("bread", "trees")] == [100, 100]
    assert "warnings" not in back.results()
    # Without it, other tasks are learnt, but none with it.
    monkeypatch.delenv("LIFEALIGN_CODE_PATH")
    new_process()
    gone = Memory.open(memory.path)
    assert "moons.accuracy" in gone.learn(make_task("moons", 4, 3), settings=["evaluate.generations=1"]).scores
    with pytest.raises(ConfigError, match=r"task suns: checker: .*no such file"):
        gone.learn(ruled("suns", f"{rules}:any_answer"))


def test_a_registered_rule_that_is_missing_is_named(
    config: Build, tmp_path: Path, new_process: Callable[[], None], capfd: pytest.CaptureFixture[str], one_thread: None
) -> None:
    register_checker("quiet", lambda answer: "!" not in answer)
    memory = Memory.create(tmp_path / "memory", config(*SETTINGS))
    memory.learn(ruled("bread", "quiet"))
    assert pass_rates(memory)["bread"] is not None
    with pytest.raises(ConfigError, match=r"task suns: checker: unknown checker 'quite' \(did you mean 'quiet'\?\)"):
        memory.learn(ruled("suns", "quite"))
    new_process()
    gone = Memory.open(memory.path)
    assert gone.evaluate(generations=3).tasks["bread"]["pass_rate"]["rows"] == 2, "as it was stored"
    assert "checker 'quiet' cannot be found here, so pass rates are not measured with it; the memory was made with" in (
        capfd.readouterr().err
    )
    with pytest.raises(DataError, match="unknown checker 'quiet'"):
        CHECKERS.find("quiet")
