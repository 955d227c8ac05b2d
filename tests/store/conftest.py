"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lifealign.store import writer as store_module
from support.store import (
    full_memory,
    snapshot,
)


@pytest.fixture(autouse=True)
def _fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_now", lambda: "2026-01-02T03:04:05+00:00")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = full_memory(tmp_path_factory.mktemp("sound") / "memory").path
    before = snapshot(path)
    yield path
    assert snapshot(path) == before
