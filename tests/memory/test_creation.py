"""A creation that fails leaves nothing behind; limits on lengths belong to a task and may change from one to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from lifealign.cli.app import app
from lifealign.core.config import RunConfig
from lifealign.core.errors import DataError, TrainingError
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.api import Memory
from lifealign.store.heldout import heldout
from lifealign.strategies.lifealign import LifeAlign
from support.progress import Said
from support.rows import make_task, rows

pytestmark = pytest.mark.usefixtures("one_thread")
Build = Callable[..., RunConfig]
BASE = ("lora.r=2", "train.epochs=1", "data.max_length=200", "evaluate.bootstrap=5", "model.dtype=float32")
LONG = Row((Message("user", "long " * 300),), "a", "b", "long:1")


def lifealign(*arguments: str | Path, settings: Sequence[str] = BASE) -> Result:
    given = [part for setting in settings for part in ("--set", setting)]
    return CliRunner().invoke(app, [*map(str, arguments), *given])


def write(path: Path, found: Sequence[Row]) -> Path:
    path.write_text("\n".join(json.dumps(r.to_json()) for r in found))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", rows("tone", 8))


FAILURES = {
    "a long prompt": ((), "leaves no room for an answer", True),
    "a guard that is missing": (("guard.text=gone.txt",), "gone.txt: missing", False),
    "a target that is not there": (("lora.target_modules=[nothing]",), "nothing", False),
    "a wrong setting": (("train.epohcs=2",), "unknown key", False),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_first_task_that_fails_leaves_nothing(case: str, tiny_dir: Path, tmp_path: Path, data: Path) -> None:
    settings, message, long = FAILURES[case]
    if long:
        write(data, [*rows("tone", 8), LONG])
    held = write(tmp_path / "held.jsonl", rows("other", 3))
    before = sorted(tmp_path.rglob("*"))
    memory = tmp_path / "new" / "folder" / "memory"
    call = ("learn", memory, data, "--test", held, "--name", "tone", "--base-model", tiny_dir)
    result = lifealign(*call, settings=(*BASE, *settings))
    assert result.exit_code == 2 and message in result.stderr, (result.output, result.exception)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_advice_of_the_message_works(tiny_dir: Path, tmp_path: Path, data: Path) -> None:
    write(data, [*rows("tone", 8), LONG])
    held = write(tmp_path / "held.jsonl", [*rows("other", 3), LONG])
    call = ("learn", tmp_path / "memory", data, "--test", held, "--name", "tone", "--base-model", tiny_dir)
    result = lifealign(*call)
    assert result.exit_code == 2 and "data.long_prompts=drop" in result.stderr
    result = lifealign(*call, settings=(*BASE, "data.long_prompts=drop"))
    assert result.exit_code == 0, result.output
    assert "left out because the prompt leaves no room" in result.stderr


def test_a_folder_that_was_there_stays(tiny_dir: Path, tmp_path: Path, data: Path) -> None:
    write(data, [*rows("tone", 8), LONG])
    (tmp_path / "memory").mkdir()
    call = ("learn", tmp_path / "memory", data, "--name", "tone", "--base-model", tiny_dir)
    assert lifealign(*call).exit_code == 2
    assert list((tmp_path / "memory").iterdir()) == []


def test_a_stream_whose_first_task_fails_leaves_nothing(tiny_dir: Path, tmp_path: Path, data: Path) -> None:
    write(data, [*rows("tone", 8), LONG])
    tree = {
        "memory": str(tmp_path / "deep" / "memory"),
        "model": {"name": str(tiny_dir)},
        "stream": {"tasks": [{"name": "tone", "train": {"path": str(data)}, "validation_rows": 0, "test_rows": 2}]},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    result = lifealign("run", tmp_path / "run.yaml")
    assert result.exit_code == 2 and "leaves no room" in result.stderr, result.output
    assert not (tmp_path / "deep").exists()
    result = lifealign("run", tmp_path / "run.yaml", settings=(*BASE, "data.long_prompts=drop"))
    assert result.exit_code == 0, result.output


def test_work_that_can_be_resumed_is_kept(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise TrainingError("stopped by the test")

    task = make_task("bread", train=8, test=2)
    memory = Memory.create(tmp_path / "memory", config("train.checkpoint_every=1"), first=task)
    with monkeypatch.context() as patch:
        patch.setattr(LifeAlign, "end_task", stop)
        with pytest.raises(TrainingError):
            memory.learn(task)
    assert list((tmp_path / "memory" / "work").rglob("*.safetensors"))
    assert Memory.open(tmp_path / "memory").learn(task).directory == "0001-bread"


def test_a_memory_that_was_made_by_itself_stays(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config("data.max_length=200"))
    with pytest.raises(DataError, match="leaves no room"):
        memory.learn(Task("bread", (LONG,), (), tuple(rows("bread", 2))))
    assert Memory.open(tmp_path / "memory").verify() == []


def long_task(name: str) -> Task:
    """A task with a prompt of some 300 tokens among its training and held-out rows."""
    task = make_task(name, train=6, test=3)
    turns = Row((Message("user", f"{name} " + "more " * 45),), "a good answer", "a bad answer", f"{name}:long")
    held = Row((Message("user", f"{name} " + "else " * 45),), "a good answer", "a bad answer", f"{name}:held")
    return Task(name, (*task.train, turns), task.validation, (*task.test, held), task.checker)


def test_limits_belong_to_a_task(config: Build, tmp_path: Path) -> None:
    """The second task leaves its long rows out, the third takes them; scores of each stay as they were."""
    tight = ("data.max_length=160", "strategy.replay_share=1.0", "train.learning_rate=1e-9")
    memory = Memory.create(tmp_path / "memory", config(*tight))
    memory.learn(make_task("bread", train=6, test=3))
    second, third = long_task("stars"), long_task("music")
    with pytest.raises(DataError, match=r"stars:\w+: the prompt has \d+ tokens.*data.long_prompts=drop"):
        memory.learn(second)
    memory.learn(second, settings=["data.long_prompts=drop"])
    memory.learn(third, settings=["data.max_length=500"])
    memory.learn(make_task("oven", train=6, test=3))  # replays long rows of the third task
    store = memory._store
    shown = {m.name: m.config["data"] for m in store.lineage()[1:]}
    assert [d["max_length"] for d in shown.values()] == [160, 160, 500, 160]
    assert [d["long_prompts"] for d in shown.values()] == ["error", "drop", "error", "error"]
    counts = {
        (r["after"], s["task"]): len(s["rows"]["nll"])
        for r in store.evaluations()
        if r["kind"] == "row"
        for s in r["scores"]
    }
    assert {n for (_, task), n in counts.items() if task == "stars"} == {3}
    after = {after: n for (after, task), n in counts.items() if task == "music"}
    assert set(after.values()) == {4} and "0004-oven" in after
    assert len(heldout(store)) == 4
    records = len(list(store.evaluations()))
    Memory.open(memory.path).evaluate(["music", "stars"])
    assert len(list(Memory.open(memory.path)._store.evaluations())) == records  # all of it was measured already


@pytest.mark.parametrize("setting", ["data.max_length=100", "data.long_prompts=drop"])
def test_a_resumed_stream_takes_other_limits_for_what_is_left(
    setting: str, tiny_dir: Path, tmp_path: Path, data: Path
) -> None:
    other = write(tmp_path / "other.jsonl", [*rows("other", 8), LONG])
    task = {"validation_rows": 0, "test_rows": 2}
    tree = {
        "memory": str(tmp_path / "memory"),
        "model": {"name": str(tiny_dir)},
        "stream": {
            "tasks": [
                {"name": "tone", "train": {"path": str(data)}, **task},
                {"name": "other", "train": {"path": str(other)}, **task},
            ]
        },
        "evaluate": {"before": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert lifealign("run", tmp_path / "run.yaml", settings=(*BASE, "stream.order=[1]")).exit_code == 0
    result = lifealign("run", tmp_path / "run.yaml")
    assert result.exit_code == 2 and "leaves no room" in result.stderr, result.output
    assert [m["name"] for m in Memory.open(tmp_path / "memory").log()] == ["initial", "tone"]
    result = lifealign("run", tmp_path / "run.yaml", settings=(*BASE, "data.long_prompts=drop", setting))
    assert result.exit_code == 0, result.output
    learnt = Memory.open(tmp_path / "memory")
    assert [m["name"] for m in learnt.log()] == ["initial", "tone", "other"] and learnt.verify() == []


def test_what_gets_no_adapter_is_said_when_the_memory_is_made_and_not_again(config: Build, tmp_path: Path) -> None:
    made, opened = Said(), Said()
    memory = Memory.create(tmp_path / "m", config("lora.target_modules=all-linear", "train.epochs=1"), progress=made)
    memory.learn(make_task("bread", train=4, test=2))
    Memory.open(memory.path).evaluate(progress=opened)
    assert [line for line in made.lines if "no adapter on the vocabulary projection" in line]
    assert not [line for line in opened.lines if "no adapter on" in line]
