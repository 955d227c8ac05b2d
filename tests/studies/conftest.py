from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.rows import write_two_files
from support.study_runs import Write


@pytest.fixture(scope="module")
def rows_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of fewer rows, one.jsonl and two.jsonl."""
    return write_two_files(tmp_path_factory.mktemp("rows"), 14)


@pytest.fixture
def write(tiny_dir: Path, rows_dir: Path, tmp_path: Path) -> Write:
    """A study file: two methods on two tasks; keys of the call replace those of the file."""

    def build(name: str = "small", **keys: Any) -> Path:
        tasks = [
            {"name": n, "train": {"path": f"{rows_dir}/{n}.jsonl"}, "validation_rows": 2, "test_rows": 4}
            for n in ("one", "two")
        ]
        base = {
            "model": {"name": str(tiny_dir), "dtype": "float32"},
            "lora": {"r": 2, "alpha": 4},
            "data": {"max_length": 256},
            "train": {"epochs": 1, "pairs_per_step": 4, "learning_rate": 5e-3, "checkpoint_every": 1},
            "stream": {"tasks": tasks},
        }
        study = {
            "name": name,
            "directory": str(tmp_path / "runs"),
            "base": base,
            "methods": ["sequential", "replay"],
            "seeds": [0],
            **keys,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return build
