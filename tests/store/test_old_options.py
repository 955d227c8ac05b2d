"""A real memory of version 1, made with an option under its old name, is opened and learnt on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.json_codec import seal
from lifealign.memory.api import Memory
from support.rows import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def as_version_1(memory: Path) -> None:
    """Rewrite the records of a memory with one task as version 1 wrote them, the chain of checksums included."""

    def rewrite(path: Path, **changes: Any) -> str:
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["sha256"]
        text = json.dumps({**record, **changes, "format_version": 1}).replace('"penalty_weight"', '"lam"')
        path.write_bytes(seal(json.loads(text)))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    above = rewrite(memory / "store.json")
    for name in ("0000-initial", "0001-bread"):
        above = rewrite(memory / "tasks" / name / "task.json", parent_sha256=above)
    (memory / "HEAD").write_text(f"0001-bread {above}\n", encoding="utf-8")
    for path in sorted((memory / "evaluations").iterdir()):
        rewrite(path)


def test_a_memory_of_version_1_is_learnt_on_under_the_new_names(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    path = tmp_path / "memory"
    settings = ("strategy.name=ewc", "strategy.penalty_weight=3", "evaluate.before=false")
    Memory.create(path, config(*settings)).learn(make_task("bread", train=4, test=2, validation=1))
    as_version_1(path)
    assert '"lam":3.0' in (path / "store.json").read_text(encoding="utf-8")
    kept = (path / "store.json").read_bytes(), (path / "tasks" / "0001-bread" / "task.json").read_bytes()

    memory = Memory.open(path)
    assert memory.verify() == []
    assert (memory.config.strategy.model_extra or {})["penalty_weight"] == 3.0
    memory.learn(make_task("stars", train=4, test=2, validation=1))

    assert memory.verify() == []
    assert [entry["name"] for entry in memory.log()] == ["initial", "bread", "stars"]
    record = json.loads((path / "tasks" / "0002-stars" / "task.json").read_text(encoding="utf-8"))
    assert record["format_version"] == 2
    assert record["config"]["strategy"]["penalty_weight"] == 3.0 and "lam" not in record["config"]["strategy"]
    assert kept == ((path / "store.json").read_bytes(), (path / "tasks" / "0001-bread" / "task.json").read_bytes())
