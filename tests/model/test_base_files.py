"""A folder that is no sound base model has one message, and runs nothing, before anything is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lifealign.core.config import ModelConfig
from lifealign.core.errors import ModelError
from lifealign.model.base import load_base
from support.tiny import save_tiny

Change = Callable[[Path], None]
WEIGHT = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sound"))


class Program:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def weights(**tensors: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        changed = {**load_file(path), **{WEIGHT if name == "weight" else name: t for name, t in tensors.items()}}
        save_file({name: t for name, t in changed.items() if t is not None}, path, metadata={"format": "pt"})

    return change


def content(name: str, data: bytes) -> Change:
    return lambda folder: void((folder / name).write_bytes(data))


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program()))


def template(text: str) -> Change:
    return lambda folder: void((folder / "chat_template.jinja").write_text(text))


def void(_: object) -> None:
    """Nothing."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weights(weight=torch.zeros(5, 5)), "its weights do not have the sizes that its config.json gives"),
        (weights(weight=None), f'1 of its tensors are not in its weights, e.g. "{WEIGHT}"'),
        (config(hidden_size=10**9), "parameters, but its weights are"),
        (config(num_hidden_layers=10**6), "config.json asks for 1000000 layers, but its weights are 20 tensors"),
        (config(hidden_size="a"), "expected int, got str"),
        (config(num_attention_heads=0), "cannot be loaded: ZeroDivisionError"),
        (config(text_config=5), "cannot be loaded"),
        (pickled, "its weights are pickled (pytorch_model.bin), and a pickle may run any program"),
        (pipe("model.safetensors"), "not a regular file but a pipe"),
        (pipe("tokenizer_config.json"), "not a regular file but a pipe"),
        (content("model.safetensors", b"no tensors here"), "not a safetensors file, or not whole"),
        (content("config.json", b"[" * 100_000), "not valid JSON: lists and objects are nested more than 100 deep"),
        (content("config.json", b"[]"), "expected a JSON object, got list"),
        (content("tokenizer.json", b"{}"), "cannot be loaded: KeyError"),
        (content("generation_config.json", b"[]"), "expected a JSON object, got list"),
        (content("model.safetensors.index.json", b'{"weight_map": {"a": "../a"}}'), "names '../a', which is no file"),
        (template("{{ raise_exception('not today') }}"), "its chat template renders no conversation: not today"),
        (template("{% for %}"), "its chat template renders no conversation: "),
    ],
)
def test_a_folder_that_is_no_sound_model(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(sound, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError) as error:
        load_base(ModelConfig(name=str(folder), dtype="float32"))
    assert message in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ 'a' * 4000000000 }}",
    ],
    ids=["loops", "macros", "memory"],
)
def test_a_template_that_does_not_end_is_stopped(sound: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from transformers import AutoTokenizer

    from lifealign.model import template_probe

    monkeypatch.setattr(template_probe, "SECONDS", 1)
    tokenizer = AutoTokenizer.from_pretrained(sound)
    template_probe.check_template("sound", tokenizer)
    tokenizer.chat_template = text
    with pytest.raises(ModelError, match=r"its chat template (does not end within 1 seconds|renders no conversation)"):
        template_probe.check_template("bad", tokenizer)
