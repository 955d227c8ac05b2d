"""Settings of a new memory where its configuration leaves them open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.core import presets
from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.core.presets import PRESETS, with_preset
from lifealign.memory.api import Memory
from lifealign.memory.settings import settled, with_settings
from lifealign.store.reader import MemoryReader
from lifealign.strategies.configure import read_config
from support.adapters import save_adapter

LIFELONG = PRESETS["lifelong"]


def test_a_new_configuration_is_filled_and_what_it_gives_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "DEFAULT", "lifelong")
    config = read_config(None, ["train.epochs=1", "strategy.route=false", "strategy.sleep_epochs=0"])
    assert config.preset == "lifelong"
    assert config.lora.target_modules == ("all-linear",)
    assert config.train.epochs == 1 and config.train.pairs_per_step == LIFELONG.sections["train"]["pairs_per_step"]
    assert config.strategy.model_extra is not None
    own = {key: config.strategy.model_extra[key] for key in ("begin", "reference", "rpo_alpha")}
    assert own == {key: LIFELONG.options["lifealign"][key] for key in own}
    assert not config.strategy.model_extra.get("route") and not config.strategy.model_extra.get("sleep_epochs")
    assert config.strategy.model_extra["replay_share"] == 0  # the rows would be kept for a sleep


def test_the_bare_defaults_are_those_of_the_paper() -> None:
    assert read_config(None, ["preset=paper"]) == read_config(None, whole=True, base={})
    assert "preset" not in RunConfig().model_dump(mode="json")


@pytest.mark.parametrize(
    ("tree", "options"),
    [
        ({"strategy": {"name": "replay"}}, {}),
        ({"strategy": {"loss": "simpo"}}, {"route", "begin", "rehearse", "sleep_epochs"}),
        ({"sft": {"epochs": 0}}, {"route", "begin", "rehearse", "sleep_epochs", "rpo_alpha"}),
        ({"strategy": {"replay_share": 0}}, {"route", "begin", "rehearse", "reference", "rpo_alpha"}),
    ],
)
def test_what_does_not_go_with_a_setting_is_not_filled(tree: dict[str, Any], options: set[str]) -> None:
    filled = with_preset({"preset": "lifelong", **tree})
    assert set(filled["strategy"]) - {"name", "loss", "replay_share"} == set(options)
    assert filled["lora"] == LIFELONG.sections["lora"]
    read_config(None, base=filled, whole=True)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match=r"settings: preset: .*'lifelong' or 'paper', got 'old'"):
        read_config(None, ["preset=old"])


def test_a_contradiction_names_the_preset() -> None:
    with pytest.raises(ConfigError, match=r"preset lifelong sets strategy\.\w+; preset=paper does not"):
        read_config(None, ["preset=lifelong", "strategy.space=delta_w"])


def test_a_memory_keeps_its_preset_and_what_was_set_against_it(config: Callable[..., RunConfig]) -> None:
    own = config("preset=lifelong", "strategy.route=false", "train.epochs=1")
    memory = Memory.create(own.memory, own)
    again = Memory.open(own.memory).config
    assert (again.preset, again.strategy, again.train) == ("lifelong", own.strategy, own.train)
    assert with_settings(memory.config, ["train.epochs=2"], Path(own.memory)).strategy == own.strategy
    with pytest.raises(ConfigError, match=r"preset is fixed for a memory's life: it is lifelong, this call sets paper"):
        with_settings(memory.config, ["preset=paper"], Path(own.memory))
    with pytest.raises(ConfigError, match=r"preset: 'lifelong' in the memory, 'paper' here"):
        settled(MemoryReader.open(Path(own.memory)), own.model_copy(update={"preset": "paper"}))


def test_an_adapter_that_a_memory_begins_with_decides_its_modules(
    tiny_dir: Path, tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    adapter = save_adapter(tiny_dir, tmp_path / "adapter")
    base = {"preset": "lifelong", "model": {"name": str(tiny_dir), "adapter": str(adapter), "dtype": "float32"}}
    made = Memory.create(tmp_path / "begun", read_config(None, base=base)).config
    assert "all-linear" not in made.lora.target_modules
    assert made.strategy.model_extra is not None and made.strategy.model_extra["begin"] == "initial"
