"""An earlier task of a memory recovered from its prompts: the commit, what undoes it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lifealign.cli.screen import task_screen
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError, UserError
from lifealign.memory.api import Memory
from lifealign.memory.composer import Composer
from lifealign.memory.recovery.points import find_points
from lifealign.memory.updates import steps_of
from lifealign.store.layout import ADAPTER, START
from lifealign.testing import tiny_config
from support.rows import make_task

BREAD, STARS, MUSIC = (make_task(name, train=8, test=4, validation=4) for name in ("bread", "stars", "music"))
LOOSE = {"rate": 0.05, "steps": 5, "allowed_drop": 1.0}
"""Options with which a tiny memory always has a state within the allowed drop."""
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learnt(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of three tasks that were learnt one after another."""
    path = tmp_path_factory.mktemp("learnt") / "memory"
    settings = ("train.learning_rate=0.03", "evaluate.before=false", "strategy.name=sequential")
    memory = Memory.create(path, tiny_config(tiny_dir, path, *settings))
    for task in (BREAD, STARS, MUSIC):
        memory.learn(task)
    return path


@pytest.fixture
def path(learnt: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learnt, tmp_path / "memory"))


def bytes_of(path: Path) -> dict[str, bytes]:
    """Every file of a memory but its lock."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def adapter(memory: Memory, point: str, stem: str = ADAPTER) -> dict[str, torch.Tensor]:
    return memory._store.load_tensors(memory._store.find(point), stem)


def test_a_task_is_recovered_by_a_commit_that_a_rollback_undoes(path: Path) -> None:
    memory, before = Memory.open(path), bytes_of(path)
    done = memory.recover("bread", note="it was wanted", **LOOSE)
    assert done.directory == "0004-recover-bread" and done.document["from"] == "0001-bread"
    bread, music, now = (adapter(memory, p) for p in ("bread", "music", "now"))
    changed = {n: now[n] != music[n] for n in now}
    assert all(bool(((now[n] == bread[n]) | (now[n] == music[n])).all()) for n in now)
    layer_0 = [n for n in now if ".layers.0." in n]
    assert done.document["elements"] == sum(now[n].numel() for n in layer_0), "4/6 of two layers is one"
    assert done.document["restored"] == sum(int(m.sum()) for m in changed.values()) / done.document["elements"] > 0
    assert done.document["loss"]["after"] < done.document["loss"]["before"]
    assert done.document["prompts"] == {"used": 4, "source": "4 validation rows"}
    entry = memory.log()[-1]
    assert (entry["recovers"], entry["note"], entry["retires"]) == ("bread", "it was wanted", [])
    assert memory.verify(deep=True) == [] and memory.tasks() == ["bread", "stars", "music"]
    shown = memory.show("recover:bread")
    assert shown["recovered"]["task"] == "bread"
    assert any("bread as it was at 0001-bread" in line for line in task_screen(shown, ""))
    assert any("recovered bread from 0001-bread" in line for line in done.lines())
    # Scores after it are a stage of R without a column, and a later task goes on from it.
    assert set(memory.evaluate().tasks) == {"bread", "stars", "music"}
    assert len(memory.scores()) == 4 and memory.results()["ends"] == {"recover:bread": 0}
    assert memory.rollback("music") == "0003-music"
    after = bytes_of(path)
    assert all(after[name] == data for name, data in before.items()), "the same bytes, HEAD among them"
    assert all(torch.equal(value, music[name]) for name, value in adapter(memory, "now").items())


def test_what_brought_a_task_back_is_withdrawn_with_it(path: Path) -> None:
    memory = Memory.open(path)
    memory.recover("bread", **LOOSE)
    store = memory._store
    assert steps_of(store, store.head)[1] == ["bread", "stars", "music", "bread"]
    assert memory.recover("bread", rate=0.2, steps=1, allowed_drop=1.0).directory == "0005-recover-bread-2"
    assert steps_of(store, store.head)[1] == ["bread", "stars", "music", "bread", "bread"]
    assert list(memory.results()["ends"]) == ["recover:bread", "recover:bread:2"]
    root, stars, music, bread = (adapter(memory, p) for p in ("base", "stars", "music", "bread"))
    memory.withdraw("bread")
    for name, value in adapter(memory, "now").items():
        wanted = root[name].double() + (music[name].double() - bread[name].double())
        torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=0)
    assert stars and Composer(memory._store, memory._store.head).names == ["stars", "music"]
    assert START not in memory._store.head.files


def test_prompts_of_a_file_and_a_later_point_are_used_if_given(path: Path, tmp_path: Path) -> None:
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"bread question {i % 3}?"}) + "\n" for i in range(6)))
    done = Memory.open(path).recover("bread", as_of="stars", prompts=rows, **LOOSE)
    assert done.document["from"] == "0002-stars" and done.document["prompts"] == {"used": 3, "source": str(rows)}


def test_a_memory_without_validation_rows_is_checked_by_its_representation(
    config: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory.create(tmp_path / "memory", config("strategy.name=replay", "strategy.replay_share=0.5"))
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=8, test=2, validation=0))
    done = memory.recover("bread", **LOOSE)
    newest = done.document["newest"]
    assert newest["checked_by"] == "representation" and newest["before"] == pytest.approx(1.0, abs=1e-6)
    assert done.document["accuracy"] is None and done.document["prompts"]["source"] == "4 replay rows"
    assert any("of its representation (cosine)" in line for line in done.lines())


def test_merged_weights_are_written_as_a_model_and_leave_the_memory_alone(path: Path, tmp_path: Path) -> None:
    memory, before = Memory.open(path), bytes_of(path)
    out = tmp_path / "merged"
    done = memory.recover("bread", space="merged", out=out, **LOOSE)
    assert done.directory is None and done.out == str(out) and (out / "export.json").exists()
    assert "bread was recovered from its prompts" in (out / "export.json").read_text()
    assert done.document["elements"] > 1000 and done.document["loss"]["after"] < done.document["loss"]["before"]
    import transformers

    written = transformers.AutoModelForCausalLM.from_pretrained(out).state_dict()
    values = {}
    for point in ("bread", "music"):
        tensors = adapter(memory, point)
        values[point] = {
            name.removesuffix(".lora_A"): 2.0 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
            for name in tensors
            if name.endswith("lora_A")
        }
    base = transformers.AutoModelForCausalLM.from_pretrained(memory.config.model.name).state_dict()
    for module in values["bread"]:
        weight = written[f"{module}.weight"] - base[f"{module}.weight"]
        near = [torch.isclose(weight, values[p][module], atol=1e-6) for p in ("bread", "music")]
        assert bool((near[0] | near[1]).all()), module
    assert bytes_of(path) == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"task": "tea"}, DataError, "no task 'tea' to recover; tasks: bread, stars, music"),
        ({"task": "music"}, DataError, "nothing was learnt after 0003-music"),
        ({"task": "stars", "as_of": "bread"}, DataError, "0001-bread is before 0002-stars"),
        ({"task": "bread", "space": "dense"}, ConfigError, "space 'dense': allowed: adapter, merged"),
        ({"task": "bread", "space": "merged"}, ConfigError, "space merged writes a model"),
        ({"task": "bread", "out": "x"}, ConfigError, "--out x is for --space merged"),
        ({"task": "bread", "layer": 3}, ConfigError, "layer=3: the model has 2 layers; allowed: 1 <= layer <= 2"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    call: dict[str, Any], error: type[UserError], message: str, path: Path
) -> None:
    before = bytes_of(path)
    with pytest.raises(error, match=message):
        Memory.open(path).recover(**call)
    assert bytes_of(path) == before


def test_a_recovery_without_a_state_within_the_drop_leaves_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifealign.memory.recovery import run as recovering

    falling = iter([1.0] * 3 + [0.5] * 99)
    monkeypatch.setattr(recovering, "accuracy", lambda *a: lambda: next(falling))
    before = bytes_of(path)
    with pytest.raises(DataError, match="'bread' cannot be recovered: no state of 2 both came nearer"):
        Memory.open(path).recover("bread", steps=5)
    assert bytes_of(path) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("strategy.name=lifealign", "strategy.route=true"), "this memory routes its prompts"),
        (("strategy.name=lifealign", "strategy.space=delta_w"), "splits its factors anew after each task"),
        (("strategy.name=olora",), "answers by more than one plain LoRA adapter"),
    ],
)
def test_a_memory_of_another_kind_is_refused(
    settings: tuple[str, ...], message: str, config: Build, tmp_path: Path
) -> None:
    memory = Memory.create(tmp_path / "memory", config(*settings))
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=4, test=2, validation=2))
    before = bytes_of(memory.path)
    with pytest.raises(ConfigError, match=message):
        memory.recover("bread")
    assert bytes_of(memory.path) == before


def test_a_routed_memory_is_recovered_in_its_merged_model_from_the_update_of_the_task(
    config: Build, tmp_path: Path
) -> None:
    memory = Memory.create(tmp_path / "memory", config("strategy.name=lifealign", "strategy.route=true"))
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=4, test=2, validation=2))
    before = bytes_of(memory.path)
    done = memory.recover("bread", space="merged", out=tmp_path / "out", **LOOSE)
    assert done.document["restored"] > 0 and done.document["loss"]["after"] < done.document["loss"]["before"]
    assert (tmp_path / "out" / "model.safetensors").exists() and bytes_of(memory.path) == before


def test_a_retired_task_cannot_be_recovered(path: Path) -> None:
    memory = Memory.open(path)
    memory.withdraw("bread")
    with pytest.raises(DataError, match="task 'bread' is withdrawn by 0004-withdraw-bread, so it cannot be recovered"):
        find_points(memory._store, "bread", None, None)
