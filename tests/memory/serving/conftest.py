"""A tiny memory of two tasks, made once; tests that change it take a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifealign.testing import learn, start, tiny_config, tiny_task


@pytest.fixture(scope="session")
def learnt(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("served") / "memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFEALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = tiny_config(tiny_dir, path, "train.learning_rate=0.05", "train.epochs=2")
        session, store = start(config)
        learn(session, store, tiny_task("bread"), tiny_task("stars"))
        yield path


@pytest.fixture
def memory(learnt: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learnt, tmp_path / "memory"))
