"""Exports are loaded again: what was learnt must be in them, and change the target's logits."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.memory.api import Memory
from lifealign.model.reloading import check_modules
from support.rows import make_task

Build = Callable[..., RunConfig]
BREAD, STARS = make_task("bread", train=8, test=4), make_task("stars", train=8, test=4)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def memory(config: Build, tmp_path: Path) -> Memory:
    made = Memory.create(tmp_path / "memory", config("train.learning_rate=0.05", "train.epochs=1"))
    made.learn(BREAD)
    return made


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_whom_the_umask_allows_can_read_every_file(memory: Memory, tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        for form in ("peft", "merged"):
            out = memory.export(tmp_path / form, format=form)
            found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*") if p.is_file()}
            assert set(found.values()) == {mode}, found
            assert any(name.endswith(".safetensors") for name in found)


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_the_difference_from_the_memory_is_stated_and_kept(memory: Memory, tmp_path: Path, form: str) -> None:
    report = json.loads((memory.export(tmp_path / "out", format=form) / "export.json").read_text())
    assert (report["format"], report["task"], report["trained_parts"]) == (
        form,
        "0001-bread",
        8 if form == "peft" else 4,
    )
    difference = report["difference"]
    assert difference["learnt_largest"] > 0.1 and difference["learnt_mean"] > 0.01
    assert difference["largest"] < 1e-4 and difference["same_first"] == 1
    assert difference["texts"] == 1 and difference["tokens"] > 5
    assert "logits differ from the memory's by" in report["notes"][0]


def test_a_memory_that_has_learnt_nothing_is_exported_as_that(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config())
    report = json.loads((memory.export(tmp_path / "out") / "export.json").read_text())
    assert report["difference"]["learnt_largest"] == 0 and "nothing was learnt" in report["notes"][0]


def damaged(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Let PEFT write other tensors than it has."""
    real = peft.PeftModel.save_pretrained

    def save(self: Any, directory: str, **options: Any) -> None:
        real(self, directory, **options)
        path = Path(directory) / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)

    monkeypatch.setattr(peft.PeftModel, "save_pretrained", save)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: dict(list(t.items())[:-1]), r"1 of 8 trained parts have other values, e\.g\. base_model\.model"),
        (lambda t: {k.replace("model.layers", "layers"): v for k, v in t.items()}, "8 of 8 trained parts have other"),
        (lambda t: {k: v * 0.5 for k, v in t.items()}, "8 of 8 trained parts have other values"),
    ],
    ids=["a part is missing", "names of another loader", "other values"],
)
def test_an_adapter_that_does_not_arrive_is_refused(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    damaged(monkeypatch, change)
    with pytest.raises(ModelError, match=message):
        memory.export(tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())
    monkeypatch.undo()
    assert memory.generate(["bread question 1?"], max_new_tokens=2)  # with a model loaded anew
    assert memory.export(tmp_path / "new" / "out")


def test_a_trained_part_that_the_export_has_no_place_for_is_refused(tmp_path: Path) -> None:
    """Stock PEFT draws a tensor that it misses, so only a part of a name of its own is missing."""
    with pytest.raises(ModelError, match=r"1 of 2 trained parts are missing, e\.g\. q_proj\.magnitudes"):
        check_modules(tmp_path, {"q_proj.lora_A": "a", "q_proj.magnitudes": "b"}, {"q_proj.lora_A": "a"})


def test_a_merged_model_without_the_adapter_is_refused(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silent no-op: PEFT leaves the base model's weights as they are."""
    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    with pytest.raises(ModelError, match=r"learning changed them by .*: the learnt change is lost"):
        memory.export(tmp_path / "out", format="merged")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_the_model_has_no_place_for_is_refused(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    real = transformers.PreTrainedModel.save_pretrained

    def save(self: Any, directory: str, **options: Any) -> None:
        real(self, directory, **options)
        path = Path(directory) / "model.safetensors"
        tensors = load_file(path)
        tensors["model.layers.1.mlp.gate.weight"] = tensors.pop("model.layers.1.mlp.gate_proj.weight")
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", save)
    with pytest.raises(ModelError, match=r"loaded again, 2 weights do not fit the model"):
        memory.export(tmp_path / "out", format="merged")


def test_the_format_is_named_or_refused(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format 'ggml': allowed: peft, merged"):
        memory.export(tmp_path / "out", format="ggml")
    with pytest.raises(ConfigError, match=r"--merged and --format peft exclude each other; leave out --merged"):
        memory.export(tmp_path / "out", format="peft", merged=True)
    assert not (tmp_path / "out").exists()
