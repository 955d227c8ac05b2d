"""Names of models, and what of a memory that changes is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError
from lifealign.memory.api import Memory
from lifealign.memory.serving.errors import ApiError
from lifealign.memory.serving.points import Points, Required
from lifealign.store.writer import MemoryStore
from lifealign.testing import start, tiny_config


def test_points_are_models(memory: Path) -> None:
    Memory.open(memory).tag("bread", "production")
    points = Points(memory)
    assert points.names() == ["base", "now", "routed", "as-of:bread", "as-of:stars", "as-of:production"]
    directories = {name: points.find(name).task.directory for name in points.names()}
    assert directories == {
        "base": "0000-initial",
        "now": "0002-stars",
        "routed": "0002-stars",
        "as-of:bread": "0001-bread",
        "as-of:stars": "0002-stars",
        "as-of:production": "0001-bread",
    }
    fingerprints = {points.find(name).fingerprint for name in points.names()}
    assert len(fingerprints) == 4, "base, bread, stars, and stars routed"


@pytest.mark.parametrize("name", ["gpt-4o", "bread", "as-of:", "as-of:moon", ""])
def test_an_unknown_model_lists_the_known_ones(memory: Path, name: str) -> None:
    with pytest.raises(ApiError, match="models: base, now, routed, as-of:bread, as-of:stars") as caught:
        Points(memory).find(name)
    assert (caught.value.status, caught.value.param, caught.value.code) == (404, "model", "model_not_found")


def test_only_some_points_are_served(memory: Path) -> None:
    points = Points(memory, ["now", "as-of:bread"])
    assert points.names() == ["now", "as-of:bread"]
    with pytest.raises(ApiError, match="'base' is not served; models: now, as-of:bread"):
        points.find("base")
    with pytest.raises(ConfigError, match="--points 'as-of:moon'"):
        Points(memory, ["as-of:moon"])


def test_a_strategy_without_a_sum_of_updates_is_not_routed(tiny_dir: Path, tmp_path: Path) -> None:
    start(tiny_config(tiny_dir, tmp_path / "memory", "strategy.name=single"))
    points = Points(tmp_path / "memory")
    assert points.names() == ["base", "now"]
    with pytest.raises(ApiError, match=r"'routed' is not served: .*strategy single does not keep the sum"):
        points.find("routed")


def test_a_memory_without_a_task_is_not_routed(tiny_dir: Path, tmp_path: Path) -> None:
    start(tiny_config(tiny_dir, tmp_path / "memory"))
    with pytest.raises(ConfigError, match=r"--points 'routed': .*no task learnt up to 0000-initial to route to"):
        Points(tmp_path / "memory", ["routed"])


def test_rollbacks_and_tags_are_followed_and_a_place_stays(memory: Path) -> None:
    said: list[str] = []
    points = Points(memory, say=said.append)
    before = points.find("now")
    Memory.open(memory).rollback("bread")
    assert points.find("now") == before
    points.refresh()
    assert points.find("now").task.directory == "0001-bread" and before.task.directory == "0002-stars"
    assert said == ["now serving 0001-bread, after 0002-stars"]
    Memory.open(memory).tag("bread", "production")
    points.refresh()
    points.refresh()
    assert "as-of:production" in points.names() and len(said) == 1


def test_a_gate_that_fails_keeps_what_is_served_until_it_holds(memory: Path) -> None:
    """A commit is on disk before its scores are, so a gate is looked at again with each evaluation."""
    Memory.open(memory).rollback("bread")
    Memory.open(memory).evaluate()
    said: list[str] = []
    points = Points(memory, required=Required(["low(bread)>=-1", "bread>=0"]), say=said.append)
    assert [result.held for result in points.results] == [True, True]
    Memory.open(memory).rollback("0002-stars")
    points.refresh()
    points.refresh()
    assert len(said) == 1 and said[0].startswith(
        "warning: still serving 0001-bread: 0002-stars is not taken, because gate "
    )
    assert points.find("now").task.directory == "0001-bread"
    Memory.open(memory).evaluate()
    points.refresh()
    assert said[1:] == ["now serving 0002-stars, after 0001-bread"]


def test_a_gate_is_read_like_those_of_evaluate(memory: Path) -> None:
    with pytest.raises(ConfigError, match="--require 'moon>=1': unknown summary 'moon'"):
        Points(memory, required=Required(["moon>=1"]))
    (result,) = Points(memory, required=Required(["last>=1000"])).results
    assert not result.held
    (result,) = Points(memory, required=Required(["last.pass_rate>=1"], no_value="pass")).results
    assert result.held and result.value is None


def test_a_damaged_or_other_memory_is_not_taken(memory: Path) -> None:
    said: list[str] = []
    points = Points(memory, say=said.append)
    head = (memory / "HEAD").read_bytes()
    (memory / "HEAD").write_bytes(b"0009-moon " + b"0" * 64 + b"\n")
    points.refresh()
    assert len(said) == 1 and said[0].startswith("warning: still serving 0002-stars: ")
    (memory / "HEAD").write_bytes(head)
    points.refresh()
    assert points.find("now").task == MemoryStore.open(memory).head and len(said) == 1
