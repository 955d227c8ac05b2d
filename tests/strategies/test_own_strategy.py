"""A strategy from a file: learnt, reopened from elsewhere, missing, changed, and in a study's processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.memory.api import Memory
from lifealign.memory.code import outside_code
from lifealign.report.memories import build_results, render_html
from lifealign.strategies import STRATEGIES, register_strategy
from lifealign.training.losses import LOSSES
from support.paths import ROOT
from support.rows import make_task

SOURCE = ROOT / "examples" / "own_strategy" / "my_strategy.py"
Build = Callable[..., RunConfig]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "my_strategy.py"
    path.parent.mkdir()
    # Without the registered name: each test has a file, and a process has one class of a name.
    path.write_text(SOURCE.read_text().replace('@register_strategy("near_start")\n', ""))
    return path


def test_learnt_reopened_exported_and_refused_when_missing(
    config: Build, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mine.parent)
    memory = Memory.create(tmp_path / "m", config("strategy.name=my_strategy.py:NearStart"))
    assert capfd.readouterr().err.count(f"running the code of {mine}") == 1
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=6, test=2, validation=2))
    record = memory._store.identity["code"]["strategy"]
    assert record["path"] == str(mine) and len(record["sha256"]) == 64
    assert memory._store.head.meta["code"]["strategy"]["sha256"] == record["sha256"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Memory.open(tmp_path / "m")
    assert len(again.generate(["bread question 1?"], max_new_tokens=2)) == 1
    assert again.evaluate().to_json()
    again.export(tmp_path / "adapter")
    mine.write_text(mine.read_text() + "\n# another version\n")
    Memory.open(tmp_path / "m").generate(["hi"], max_new_tokens=1)
    assert "has changed since this memory was made (my_strategy.py)" in capfd.readouterr().err
    assert_the_change_is_kept_with_what_is_measured(tmp_path / "m", tmp_path, capfd)
    moved = tmp_path / "elsewhere" / "moved"
    mine.parent.rename(moved)
    from lifealign.core import origin

    origin._placed.clear()
    with pytest.raises(StoreError, match=r"my_strategy.py.* put the file back, or set LIFEALIGN_CODE_PATH"):
        Memory.open(tmp_path / "m").generate(["hi"])
    monkeypatch.setenv("LIFEALIGN_CODE_PATH", str(moved))
    assert Memory.open(tmp_path / "m").generate(["hi"], max_new_tokens=1)


def assert_the_change_is_kept_with_what_is_measured(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change = "strategy 'my_strategy.py:NearStart' has changed since this memory was made (my_strategy.py)"
    again = Memory.open(path)
    assert "warnings" not in again.results(), "what is stored was measured with the first version"
    text = tmp_path / "guard.txt"
    text.write_text("One sentence of a text that no task trains on.")
    found = again.evaluate(["bread"], split="validation", guard_text=text)
    assert found.warnings == [change] and found.to_json()["warnings"] == [change]
    assert [record["warnings"] for record in again._store.evaluations()[-3:]] == [[change]] * 3
    assert capfd.readouterr().err.count(change) == 1
    results = Memory.open(path).results("validation")
    assert results["warnings"] == [change] and change in capfd.readouterr().err
    assert f"{change}</li>" in render_html(build_results([results])).replace("&#39;", "'")


def test_a_built_in_method_leaves_no_record(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "m", config("strategy.name=sequential"))
    assert "code" not in memory._store.identity


def test_mistakes_end_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"strategy 'replay' cannot be registered: the name is taken \(built-in\)"):
        register_strategy("replay", STRATEGIES["sequential"])
    with pytest.raises(ConfigError, match="lower-case letters"):
        register_strategy("Mine", STRATEGIES["sequential"])
    with pytest.raises(ConfigError, match=r"expected a subclass of lifealign\.Strategy, got 3"):
        register_strategy("three", 3)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"unknown strategy 'singel' \(did you mean 'single'\?\)"):
        STRATEGIES.find("singel")


def test_a_loss_from_a_file_is_recorded_and_built_in_ones_are_not(config: Build, tmp_path: Path) -> None:
    path = tmp_path / "my_losses.py"
    path.write_text("def hinge(pairs, options):\n    return (1 - pairs.margin).clamp(min=0)\n")

    def recorded(*settings: str) -> dict[str, Any]:
        return outside_code(config("strategy.name=replay", *settings).model_dump(mode="json"))

    built_in = [name for name in LOSSES if not LOSSES.is_outside(name)]
    assert "fpo" in built_in and not any(recorded(f"strategy.loss={name}") for name in built_in)
    record = recorded(f"strategy.loss='{path}:hinge'")["loss"]
    assert record["name"] == f"{path}:hinge" and record["path"] == str(path) and len(record["sha256"]) == 64
