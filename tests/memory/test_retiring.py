"""Tasks superseded and withdrawn: what goes, what stays, and what every reader of the memory makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.tasks import DataReport
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory
from lifealign.memory.composer import Composer
from lifealign.memory.history import StoreHistory
from lifealign.memory.routing import stored_signatures
from lifealign.report.terminal import score_matrix_lines
from lifealign.store.heldout import heldout
from lifealign.store.layout import ADAPTER, REPLAY, START, STATE, UPDATE
from support.rows import make_task

BREAD, STARS, MUSIC = (make_task(name, train=8, test=4, validation=2) for name in ("bread", "stars", "music"))
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def build(config: Build, tmp_path: Path) -> Callable[..., Memory]:
    def make(*settings: str) -> Memory:
        options = config(
            "train.learning_rate=0.03",
            "evaluate.before=false",
            "strategy.name=lifealign",
            "strategy.replay_share=0.5",
            *settings,
        )
        memory = Memory.create(tmp_path / "memory", options)
        for task in (BREAD, STARS):
            memory.learn(task)
        return memory

    return make


def adapter(memory: Memory, point: str, stem: str = ADAPTER) -> dict[str, torch.Tensor]:
    return memory._store.load_tensors(memory._store.find(point), stem)


def replayed(memory: Memory) -> list[str]:
    return [e.task for e in StoreHistory(memory._store).replay.exemplars]


def test_a_withdrawn_task_is_taken_out_of_weights_replay_and_scores(build: Any) -> None:
    memory = build()
    before = {p: p.read_bytes() for p in memory.path.rglob("*") if p.is_file() and "tasks" in p.parts}
    done = memory.withdraw("bread", note=" no longer true ")
    assert done.directory == "0003-withdraw-bread" and done.document["taken_out"] is True
    root, bread, stars, now = (adapter(memory, p) for p in ("base", "bread", "stars", "now"))
    for name in now:
        wanted = stars[name].double() - (bread[name].double() - root[name].double())
        assert torch.equal(now[name], wanted.float())
        assert torch.equal(adapter(memory, "now", UPDATE)[name], now[name] - stars[name])
    assert "its behaviour may remain in part" in done.told[-1]
    assert set(replayed(memory)) == {"stars"} and done.document["replay_rows"] == 4
    assert [t.name for t in heldout(memory._store)] == ["stars"]
    assert done.document["held_out_rows"] == {"validation": 2, "test": 4}
    assert all(p.read_bytes() == data for p, data in before.items()), "history stays as it was"
    assert memory.verify() == [] and memory.tasks() == ["stars"] and memory.retired() == {"bread": done.directory}
    assert memory.log()[-1]["note"] == "no longer true" and memory.log()[-1]["retires"] == ["bread"]
    assert memory.show("withdraw:bread")["retired"]["tasks"] == ["bread"]


def test_a_superseding_task_is_learnt_on_the_weights_without_the_old_one(build: Any) -> None:
    memory = build()
    root, bread, stars = (adapter(memory, p) for p in ("base", "bread", "stars"))
    result = memory.learn(MUSIC, supersedes="bread")
    now, start = adapter(memory, "now"), adapter(memory, "now", START)
    for name in now:
        assert torch.equal(start[name], (stars[name].double() - (bread[name].double() - root[name].double())).float())
        assert torch.equal(adapter(memory, "music", UPDATE)[name], now[name] - start[name])
    assert result.directory == "0003-music" and "bread: update taken out (space factors" in result.notes[0]
    assert set(replayed(memory)) == {"stars", "music"}
    assert memory._store.load_document(memory._store.head, "data.json")["from_replay"] == 4, "rows of stars alone"
    assert {name.partition(".")[0] for name in result.scores} == {"stars", "music"}
    assert memory.tasks() == ["stars", "music"] and memory.retired() == {"bread": "0003-music"}
    assert memory.verify() == [] and memory.log()[-1]["retires"] == ["bread"]
    # The basis is spanned by the two updates that are left.
    basis = memory._store.load_tensors(memory._store.head, STATE)
    name = next(n for n in basis if n.endswith("lora_B.rows"))
    rows, matrix = basis[name].double(), name.removesuffix(".rows")
    assert rows.shape[0] == 2
    for before, after in ((bread, stars), (start, now)):
        update = (after[matrix].double() - before[matrix].double()).flatten()
        torch.testing.assert_close(rows.T @ (rows @ update), update, atol=1e-5 * float(update.norm()), rtol=0)
    gone = (bread[matrix].double() - root[matrix].double()).flatten()
    assert float((rows @ gone).norm()) < 0.99 * float(gone.norm())


def test_weights_of_one_give_head_and_a_retired_task_has_no_weight(build: Any) -> None:
    memory = build()
    memory.learn(MUSIC, supersedes="bread")
    memory.withdraw("stars")
    store = memory._store
    composer = Composer(store, store.head)
    assert composer.names == ["music"] and list(stored_signatures(store, store.head)) == ["music"]
    head = adapter(memory, "now")
    assert all(torch.equal(v, head[k]) for k, v in composer(composer.weights({})).adapter.items())
    # What is left of the sum is the initial adapter and music's own update.
    root, start, after = adapter(memory, "base"), adapter(memory, "music", START), adapter(memory, "music")
    bare = composer(composer.weights({"music": 0.0})).adapter
    for name in head:
        torch.testing.assert_close(bare[name], root[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(head[name], root[name] + after[name] - start[name], atol=1e-6, rtol=0)
    with pytest.raises(StoreError, match=r"no task 'bread' up to 0004-withdraw-stars \(superseded by 0003-music\)"):
        composer.weights({"bread": 1.0})
    # As of an earlier point everything is as it was there.
    then = Composer(store, store.find("stars"))
    assert then.names == ["bread", "stars"] and [t.name for t in heldout(store, store.find("stars"))] == [
        "bread",
        "stars",
    ]
    assert [t.task for t in memory.related(MUSIC.test, steps=1).tasks] == ["music"]
    assert memory.rollback("stars") == "0002-stars"
    assert (
        memory.tasks() == ["bread", "stars"] and memory.retired() == {} and set(replayed(memory)) == {"bread", "stars"}
    )
    assert memory.rollback("0004-withdraw-stars") == "0004-withdraw-stars" and memory.tasks() == ["music"]


def test_r_ends_the_column_of_a_retired_task(build: Any) -> None:
    memory = build()
    memory.learn(MUSIC, supersedes="bread")
    R = memory.scores()
    assert [[value == value for value in row] for row in R] == [
        [True, False, False],
        [True, True, False],
        [False, True, True],
    ]
    found = memory.results()
    assert found["tasks"] == ["bread", "stars", "music"] and found["ends"] == {"bread": 2}
    summary = found["summary"]["accuracy"]
    assert summary["last"]["value"] == pytest.approx((R[2][1] + R[2][2]) / 2)
    assert summary["bwt"]["value"] == pytest.approx(R[2][1] - R[1][1]), "bread does not count any more"
    assert summary["ap"]["value"] == pytest.approx((R[0][0] + (R[1][0] + R[1][1]) / 2 + (R[2][1] + R[2][2]) / 2) / 3)
    memory.withdraw("stars")
    table = memory._table(None)
    assert table.tasks == ("bread", "stars", "music", "withdraw:stars") and table.ends == {
        "bread": 2,
        "stars": 3,
        "withdraw:stars": 0,
    }
    assert table.current == ["music"] and table.learnt == ["bread", "stars", "music"]
    evaluation = memory.evaluate()
    assert list(evaluation.tasks) == ["music"]
    R = memory.scores()
    assert [value == value for value in R[3]] == [False, False, True, False]
    assert memory.results()["summary"]["accuracy"]["last"]["value"] == pytest.approx(R[3][2])
    with pytest.raises(DataError, match=r"no task 'stars' up to 0004-withdraw-stars; known: music"):
        memory.evaluate(["stars"])
    differences = memory.diff("stars", "now")
    assert (
        differences.missing["bread"] == "superseded by 0003-music"
        and "withdrawn by 0004" in differences.missing["stars"]
    )
    (gate,) = memory.check([Gate.parse("stars.accuracy>=0", memory.tasks(with_retired=True))])
    assert not gate.held and gate.why == "the task is withdrawn by 0004-withdraw-stars"
    page = "\n".join(score_matrix_lines(memory.results()))
    assert "after withdraw:stars" in page and page.splitlines()[1].split() == ["bread", "stars", "music"]


def test_wrong_tasks_are_refused_with_one_message_and_nothing_changes(build: Any) -> None:
    memory = build()
    memory.withdraw("bread")
    before = {p: p.read_bytes() for p in memory.path.rglob("*") if p.is_file()}
    for name, message in (
        ("jam", r"no task 'jam' to withdraw; tasks: stars$"),
        ("bread", r"task 'bread' is withdrawn by 0003-withdraw-bread already; tasks: stars$"),
        ("0003-withdraw-bread", r"no task '0003-withdraw-bread' to withdraw"),
        ("0000-initial", r"'0000-initial' is the point before the first task, so there is nothing to withdraw"),
        ("base", r"'base' is the point before the first task"),
    ):
        with pytest.raises(DataError, match=message):
            memory.withdraw(name)
        with pytest.raises(DataError, match=message.replace("to withdraw", "to supersede")):
            memory.learn(MUSIC, supersedes=name)
    with pytest.raises(ConfigError, match="note of 0 characters"):
        memory.withdraw("stars", note=" ")
    assert before == {p: p.read_bytes() for p in memory.path.rglob("*") if p.is_file()}


def test_without_a_sum_rows_are_retired_and_weights_stay(build: Any) -> None:
    memory = build("strategy={name: merge}")
    with pytest.raises(
        ConfigError, match=r"'bread' cannot be withdrawn: strategy merge .*--supersedes bread.*roll back"
    ):
        memory.withdraw("bread")
    result = memory.learn(MUSIC, supersedes="bread")
    assert "bread: retired, but not taken out of the weights: strategy merge" in result.notes[0]
    assert f"{START}.safetensors" not in memory._store.head.files and memory.tasks() == ["stars", "music"]
    assert memory._store.load_document(memory._store.head, "retired.json")["taken_out"] is False
    assert {name.partition(".")[0] for name in result.scores} == {"stars", "music"}


def test_rows_that_another_task_holds_out_are_not_trained_on_and_counted(build: Any) -> None:
    memory = build()
    leaking = replace(
        MUSIC, train=(*MUSIC.train, BREAD.test[0], STARS.validation[0]), reports=(DataReport("m", 10, 10),)
    )
    result = memory.learn(leaking)
    assert result.notes == ["music: 2 training rows left out: prompt or conversation held out by bread (1), stars (1)"]
    data = memory.show("music")["data"]
    assert data["left_out"] == {"rows": {"bread": 1, "stars": 1}, "replayed": {}} and data["rows"] == 8 + 8
    assert data["reports"]["music"][0]["kept"] == 8
    assert memory.learn(leaking).directory == "0003-music", "the same rows again are the same task"
    # A later task that holds a replayed row out: it is not trained on again.
    kept = next(e.row for e in StoreHistory(memory._store).replay.exemplars if e.task == "bread")
    late = make_task("late", train=4, test=2)
    memory.learn(replace(late, test=(*late.test, kept)))
    assert memory.show("late")["data"]["left_out"] == {"rows": {}, "replayed": {"late": 1}}
    # What a withdrawn task held out may be learnt.
    memory.withdraw("stars")
    moon = memory.learn(replace(make_task("moon", train=4), train=STARS.test), settings=["train.epochs=1"])
    assert moon.notes == ["moon: 1 replayed row left out: prompt or conversation held out by late (1)"]
    with pytest.raises(
        DataError, match=r"task 'sun' has no training rows \(4 training rows left out: .* held out by bread"
    ):
        memory.learn(replace(make_task("sun"), train=BREAD.test))


@pytest.mark.parametrize(("name", "stays"), [("copr", ""), ("derpp", ""), ("ewc", "Fisher information stays")])
def test_a_strategy_drops_what_its_state_holds_of_the_task(name: str, stays: str, build: Any) -> None:
    memory = build(f"strategy={{name: {name}}}")
    done = memory.withdraw("bread")
    assert stays in str(done.document.get("stays", "")) and bool(stays) == ("stays" in done.document)
    state, kept = adapter(memory, "now", STATE), StoreHistory(memory._store).replay.exemplars
    then, before = adapter(memory, "stars", STATE), memory._store.load_lines(memory._store.find("stars"), REPLAY)[1:]
    stars = [i for i, line in enumerate(before) if line["task"] == "stars"]
    if name == "copr":
        assert 0 < len(stars) < len(before)
        assert all(torch.equal(state[key], then[key][stars]) for key in ("targets", "fits"))
    elif name == "derpp":
        assert state["index"].tolist() == [e.index for e in kept] and torch.equal(state["logps"], then["logps"][stars])
    else:
        assert all(torch.equal(state[k], then[k]) for k in then)
    assert memory.learn(MUSIC, settings=["train.epochs=1"]).directory == "0004-music"


def test_in_delta_w_what_is_cut_is_told_and_the_history_keeps_what_is_left(build: Any) -> None:
    memory = build("strategy.space=delta_w")
    done = memory.withdraw("bread")
    assert done.document["space"] == "delta_w" and 0 < done.document["truncation_error"] < 1
    assert "truncation error" in done.told[0]
    assert {n.rpartition("history.")[2] for n in adapter(memory, "now", STATE)} == {"00000.A", "00000.B"}
    assert memory.learn(MUSIC).directory == "0004-music" and memory.verify() == []
