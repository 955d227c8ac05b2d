"""A memory whose tasks are feedback on one answer, demonstrations, or rows of all kinds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import as_feedback
from lifealign.evaluation.results import read_scores
from lifealign.memory.answering import Asked, answer_memory
from lifealign.memory.api import Memory
from lifealign.report.answers import build_threads, page_document
from lifealign.store.layout import DATA, TRAINING
from lifealign.strategies import STRATEGIES
from lifealign.testing import tiny_config
from support.kinds import demonstrations, every_kind, thumbs
from support.progress import Said
from support.rows import make_task

Build = Callable[..., RunConfig]
FAST = ("train.learning_rate=0.02", "train.epochs=4")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learnt(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Memory, list[str]]:
    """Thumbs, demonstrations and rows of all kinds, one after another, with replay and an SFT stage; only to be read."""
    said, path = Said(), tmp_path_factory.mktemp("learnt") / "memory"
    options = (*FAST, "strategy.name=lifealign", "strategy.replay_share=0.5", "sft.epochs=1", "evaluate.generations=2")
    memory = Memory.create(path, tiny_config(tiny_dir, path, *options, "evaluate.text_metrics=[chrf]"), progress=said)
    for task in (thumbs("bread"), demonstrations("stars"), every_kind("music")):
        memory.learn(task)
    return memory, said.lines


def test_each_kind_is_learnt_scored_said_and_kept(learnt: tuple[Memory, list[str]]) -> None:
    memory, said = learnt
    assert memory.verify() == []
    table = read_scores(memory._store, "test")
    last = table.stages[-1]
    assert table.measured(last, "bread") == ["accuracy", "margin", "nll", "chrf"]
    assert table.measured(last, "stars") == ["nll", "chrf"]
    assert table.measured(last, "music") == ["accuracy", "margin", "likelihood_accuracy", "nll", "chrf"]
    assert table.mean(table.stages[0], "bread", "accuracy") > 70
    assert table.mean(table.stages[0], "bread", "margin") > 0.3
    assert table.mean(table.stages[1], "stars", "nll") < table.mean(table.stages[0], "stars", "nll")
    # Four pairs as thumbs: eight rows, of which the bad answers have no likelihood.
    assert (len(table.values(last, "bread", "accuracy")), len(table.values(last, "bread", "nll"))) == (8, 4)
    assert sum(v is None for v in table.by_row(last, "bread", "nll")) == 4
    assert "bread: training: 8 desirable answers, 8 undesirable answers" in said
    assert any("feedback is learnt by kto; weights 1 (desirable), 1 (undesirable)" in line for line in said)
    assert sum("bread: training: the SFT stage trains on good answers" in line for line in said) == 1
    document = memory._store.load_document(memory._store.lineage()[1], DATA)
    assert document["kinds"] == {"desirable": 8, "undesirable": 8}
    assert document["feedback"] == {"loss": "kto", "weights": {"desirable": 1.0, "undesirable": 1.0}}
    assert document["rows"] == 16


def test_replay_keeps_rows_of_every_kind(learnt: tuple[Memory, list[str]]) -> None:
    memory, _ = learnt
    buffer = memory._store.load_lines(memory._store.head, "replay.jsonl")[1:]
    assert {row["task"] for row in buffer} == {"bread", "stars", "music"}
    assert {True, False} <= {row["label"] for row in buffer if "label" in row}
    steps = memory._store.load_lines(memory._store.lineage()[2], TRAINING)
    assert any("accuracy" in line for line in steps)  # replayed thumbs among the demonstrations


def test_answers_and_gates_of_rows_without_a_pair(learnt: tuple[Memory, list[str]]) -> None:
    memory, _ = learnt
    records = answer_memory(memory._store, lambda: pytest.fail("all answers are stored"), Asked(count=2))
    by_task: dict[str, list[Any]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    (up,) = by_task["bread"]  # its second row is the bad answer to the same prompt
    assert (up.reference is None, up.rejected) == (False, None)
    assert set(up.scores) == {"chrf", "accuracy", "margin"}
    assert set(by_task["stars"][0].scores) == {"chrf"}
    threads = page_document(build_threads(records))["threads"]
    assert [(t["task"], t["rejected"] is None) for t in threads][:2] == [("bread", True), ("stars", True)]
    json.dumps(memory.results(), allow_nan=True)
    assert math.isnan(memory.scores("accuracy")[2][1])  # demonstrations have no accuracy
    assert memory.scores("nll")[2][1] > 0


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(config: Build, tmp_path: Path) -> None:
    from lifealign.testing import assert_same

    whole = Memory.create(tmp_path / "whole", config(*FAST))
    whole.learn(thumbs("bread"))
    import lifealign.training.loop as loop

    done = 0
    checkpoint = loop._checkpoint

    def stop(*arguments: Any) -> None:
        nonlocal done
        checkpoint(*arguments)
        done += 1
        if done == 5:
            raise KeyboardInterrupt

    halted = Memory.create(tmp_path / "halted", config(*FAST))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            halted.learn(thumbs("bread"))
    Memory.open(tmp_path / "halted").learn(thumbs("bread"))
    one, two = (Memory.open(tmp_path / name)._store for name in ("whole", "halted"))
    assert_same(one.load_tensors(one.head, "adapter"), two.load_tensors(two.head, "adapter"))


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_bad_answers_alone_are_learnt(config: Build, tmp_path: Path, loss: str) -> None:
    task = thumbs("bread")
    down = replace(
        task,
        train=tuple(r for r in task.train if r.kind == "undesirable"),
        test=tuple(r for r in task.test if r.kind == "undesirable"),
        validation=(),
    )
    memory = Memory.create(tmp_path / "memory", config(*FAST, f"strategy.unpaired_loss={loss}", "sft.epochs=1"))
    scores = memory.learn(down).scores
    assert scores["bread.accuracy"] > 50
    assert "bread.nll" not in scores


def test_margins_are_used_or_said_not_to_be(config: Build, tmp_path: Path) -> None:
    task = make_task("bread")
    task = replace(task, train=tuple(replace(row, margin=float(i)) for i, row in enumerate(task.train)))
    adapters = {}
    for scale, expected in ((0.0, "8 rows have a margin, which is not used; set strategy.margin_scale (loss dpo or hinge)"),
                            (0.3, "8 rows have a margin, of which strategy.margin_scale=0.3 asks for that part")):  # fmt: skip
        said = Said()
        memory = Memory.create(
            tmp_path / f"m{scale}", config("strategy.name=replay", f"strategy.margin_scale={scale}"), progress=said
        )
        memory.learn(task)
        assert any(expected in line for line in said.lines)
        document = memory._store.load_document(memory._store.head, DATA)
        assert document["margins"] == {"rows": 8, "scale": scale}
        adapters[scale] = memory._store.load_tensors(memory._store.head, "adapter")
    assert any(not t.equal(adapters[0.3][n]) for n, t in adapters[0.0].items())


def test_plain_pairs_leave_no_trace_of_kinds(config: Build, tmp_path: Path) -> None:
    said = Said()
    memory = Memory.create(tmp_path / "memory", config(), progress=said)
    memory.learn(make_task("bread"))
    assert not {"kinds", "feedback", "margins"} & set(memory._store.load_document(memory._store.head, DATA))
    assert not any("training:" in line for line in said.lines)


# --- strategies -------------------------------------------------------------------------------------------------------

ANY_KIND = sorted(name for name in STRATEGIES if STRATEGIES[name].learns == ("pair", "desirable", "undesirable", "demonstration"))  # fmt: skip


def test_strategies_that_need_two_answers() -> None:
    assert set(STRATEGIES) - set(ANY_KIND) == {"copr", "cppo", "derpp", "lwf"}


@pytest.mark.parametrize("name", ANY_KIND)
def test_a_strategy_that_takes_every_kind_learns_every_kind(config: Build, tmp_path: Path, name: str) -> None:
    memory = Memory.create(tmp_path / "memory", config(f"strategy.name={name}", "sft.epochs=1"))
    for task in (every_kind("music"), thumbs("bread")):
        scores = memory.learn(task).scores
    assert all(math.isfinite(value) for value in scores.values())
    assert memory.verify() == []


@pytest.mark.parametrize(
    ("name", "task", "kind"),
    [
        ("copr", thumbs("bread"), "desirable"),
        ("cppo", demonstrations("bread"), "demonstration"),
        ("derpp", every_kind("bread"), "desirable"),
        ("lwf", thumbs("bread"), "desirable"),
    ],
)
def test_a_strategy_refuses_a_kind_before_it_trains(
    config: Build, tmp_path: Path, name: str, task: Any, kind: str
) -> None:
    memory = Memory.create(tmp_path / "memory", config(f"strategy.name={name}"))
    with pytest.raises(
        ConfigError, match=rf"task 'bread': strategy '{name}' learns from pairs.* alone, but \d+ of its"
    ):
        memory.learn(task)
    with pytest.raises(ConfigError, match=rf"of kind {kind} \(first: bread\.jsonl:\d+\); choose another strategy"):
        memory.learn(task)
    assert [m.name for m in memory._store.lineage()] == ["initial"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(("strategy.loss=simpo",), "loss simpo"), (("strategy.length_normalised=true",), "length_normalised")],
)
def test_feedback_needs_a_beta_per_answer(
    config: Build, tmp_path: Path, settings: tuple[str, ...], reason: str
) -> None:
    memory = Memory.create(tmp_path / "memory", config(*settings))
    with pytest.raises(
        ConfigError, match=f"kto takes beta per nat of an answer, and {reason} takes it per nat of a token"
    ):
        memory.learn(replace(make_task("bread"), train=as_feedback(make_task("bread").train)))
