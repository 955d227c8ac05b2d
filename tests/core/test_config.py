"""Configuration: every mistake at once, each with its key; overrides; numbers as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from lifealign.core.config import Frozen, RunConfig, load_config
from lifealign.core.errors import ConfigError
from support.paths import ROOT


class Plain(Frozen):
    pass


class Weighted(Frozen):
    gamma: float = Field(2.0, ge=0)
    space: str = "factors"


STRATEGIES = {"sequential": Plain, "lifealign": Weighted}


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes(path: Path | None, settings: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, settings, STRATEGIES)
    return str(caught.value).splitlines()


def test_an_empty_file_gives_the_defaults(write):
    assert load_config(write("")) == RunConfig()
    assert load_config(None) == RunConfig()


def test_all_mistakes_come_at_once_each_with_file_key_value_and_nearest_name(write):
    path = write(
        """
train: {epoch: 2, learning_rate: -1}
lora: {r: 0}
modle: {name: x}
strategy: {name: lifealign, gama: 2}
stream: {planted: {}, order: [1, 1]}
"""
    )
    found = mistakes(path)
    assert len(found) == 6
    assert all(line.startswith(f"{path}: ") for line in found)

    def about(key: str) -> str:
        (line,) = [line for line in found if line.startswith(f"{path}: {key}: ")]
        return line

    assert "did you mean 'epochs'?" in about("train.epoch")
    assert "greater than 0, got -1" in about("train.learning_rate")
    assert "at least 1, got 0" in about("lora.r")
    assert "did you mean 'model'?" in about("modle")
    assert "did you mean 'gamma'?" in about("strategy.gama")
    assert "order must name tasks 1..6, each at most once, got [1, 1]" in about("stream")


def test_an_unknown_strategy_is_named_with_the_nearest_and_the_allowed(write):
    (line,) = mistakes(write("strategy: {name: lifalign}"))
    assert "strategy.name: unknown strategy 'lifalign' (did you mean 'lifealign'?)" in line
    assert line.endswith("allowed: lifealign, sequential")


def test_a_strategy_refuses_options_of_another(write):
    (line,) = mistakes(write("strategy: {name: sequential, gamma: 2}"))
    assert "strategy.gamma: unknown key" in line


def test_settings_override_the_file_and_the_last_one_wins(write):
    path = write("seed: 1\ntrain: {epochs: 5, warmup: 0.2}")
    config = load_config(
        path, ("train.epochs=3", "seed=7", "train.epochs=4", "lora.target_modules=[k_proj]"), STRATEGIES
    )
    assert (config.train.epochs, config.train.warmup, config.seed) == (4, 0.2, 7)
    assert config.lora.target_modules == ("k_proj",)


def test_the_file_overrides_the_base(write):
    config = load_config(write("seed: 3"), (), STRATEGIES, base={"seed": 1, "memory": "there"})
    assert (config.seed, config.memory) == (3, "there")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.epochs=[", "the value is not YAML"),
        ("train.epochs=many", "settings: train.epochs: "),
        ("train.epochs=1.5", "got 1.5"),
        ("train.epocs=1", "did you mean 'epochs'?"),
        ("train=3", "settings: train: "),
    ],
)
def test_a_setting_that_cannot_be_used(setting, message):
    (line,) = mistakes(None, (setting,))
    assert message in line


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("1E-3", 1e-3), ("+2e0", 2.0), ("0.25", 0.25), ("3", 3.0)])
def test_numbers_as_people_write_them(write, text, value):
    assert load_config(write(f"train: {{learning_rate: {text}}}")).train.learning_rate == value
    assert load_config(None, (f"train.learning_rate={text}",)).train.learning_rate == value


def test_a_number_is_one_before_any_field_asks_for_it(write):
    # YAML 1.1 reads 5e-4 as text. A float field would take that; a strategy's options and whole numbers would not.
    assert load_config(write("strategy: {gamma: 5e-1}"), (), STRATEGIES).strategy.model_extra["gamma"] == 0.5
    extra = load_config(None, ("strategy.gamma=5e-1",), STRATEGIES).strategy.model_extra
    assert extra["gamma"] == 0.5 and extra["space"] == "factors"  # what is stored names the defaults as well
    assert load_config(write("train: {epochs: 1e1}")).train.epochs == 10


@pytest.mark.parametrize("text", [".inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(write, text):
    (line,) = mistakes(write(f"train: {{learning_rate: {text}}}"))
    assert "train.learning_rate" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", ": not valid YAML"),
        ("- 1\n- 2", "expected keys and values at the top, got list"),
        ("stream: {}", "and `tasks`, got none"),
        ("stream: {planted: {}, contested: {}}", "and `tasks`, got planted and contested"),
        ("stream: {contested: {}, tasks: [{name: a, train: {path: x}}]}", "and `tasks`, got contested and tasks"),
        ("stream: {contested: {}, order: [9]}", "order must name tasks 1..8"),
        ("stream: {planted: {}, order: [7]}", "order must name tasks 1..6"),
        ("model: {dtype: float16}", "got 'float16'"),
        ("train: {trackers: [tensorbord]}", "train.trackers.0: "),
        (
            "stream: {tasks: [{name: a, train: {path: x}}, {name: a, train: {path: y}}]}",
            "task names must be unique, got ['a', 'a']",
        ),
        ("stream: {tasks: [{name: 'a.b', train: {path: x}}]}", "stream.tasks.0.name: "),
        (
            "stream: {tasks: [{name: a, train: {pth: x, path: y}}]}",
            "stream.tasks.0.train.pth: unknown key (did you mean 'path'?)",
        ),
    ],
)
def test_a_file_that_cannot_be_used(write, text, message):
    (line,) = mistakes(write(text))
    assert message in line


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    assert mistakes(tmp_path / "none.yaml") == [f"{tmp_path / 'none.yaml'}: no such file"]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    (line,) = mistakes(binary)
    assert "not UTF-8 text (its first bytes are those of UTF-16)" in line
    (line,) = mistakes(tmp_path)
    assert "not a regular file but a directory" in line


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["demo.yaml", "planted.yaml", "contested.yaml", "revised.yaml", "long.yaml"])
def test_the_examples_are_valid(name):
    from lifealign.strategies import STRATEGIES as REAL

    path = ROOT / "examples" / name
    config = load_config(path, (), {key: strategy.Config for key, strategy in REAL.items()})
    assert config.stream is not None and config.stream.suite is not None
    assert config.strategy.name == "lifealign"


def test_another_strategy_starts_from_its_own_defaults(write):
    path = write("strategy: {name: lifealign, gamma: 0.5}")
    same = load_config(path, ("strategy.space=delta_w",), STRATEGIES).strategy
    assert same.model_extra["gamma"] == 0.5 and same.model_extra["space"] == "delta_w"
    other = load_config(path, ("strategy.name=sequential",), STRATEGIES).strategy
    assert other.name == "sequential" and "gamma" not in other.model_extra
