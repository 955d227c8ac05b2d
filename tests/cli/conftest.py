"""A stand-in memory on disk, and rows to learn."""

from __future__ import annotations

import json
import sys
import types

import pytest

from support.cli import FakeMemory


@pytest.fixture
def fake(monkeypatch):
    module = types.ModuleType("lifealign.memory.api")
    memory = type("Memory", (FakeMemory,), {"calls": [], "problems": [], "failure": None})
    module.Memory = memory
    monkeypatch.setitem(sys.modules, "lifealign.memory.api", module)
    configure = types.ModuleType("lifealign.strategies.configure")

    def read_config(path, settings, base=None, *, whole=False):
        from lifealign.core.config import load_config

        return load_config(path, settings, None, base, whole=whole)

    configure.read_config = configure.check_early = read_config
    monkeypatch.setitem(sys.modules, "lifealign.strategies.configure", configure)
    monkeypatch.setitem(sys.modules, "lifealign.memory.learning", types.ModuleType("lifealign.memory.learning"))
    return memory


@pytest.fixture
def memory(tmp_path, fake):
    path = tmp_path / "memory"
    path.mkdir()
    (path / "HEAD").write_text("{}")
    return path


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{i}", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(10))
    )
    return path
