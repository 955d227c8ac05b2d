"""The workflow in examples/ci: its commands are run as a runner would, on a small memory; only installing is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifealign.memory.api import Memory
from lifealign.strategies.configure import read_config
from support.paths import ROOT
from support.rows import make_task

WORKFLOW = ROOT / "examples" / "ci" / "gate.yaml"


def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return loaded


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workflow()["jobs"]["gate"]["steps"]
    return found


@pytest.fixture
def place(tiny_dir: Path, tmp_path: Path) -> Path:
    """A folder with a memory of two tasks, the first in production, and `lifealign` on the path."""
    base: dict[str, Any] = {
        "memory": str(tmp_path / "memory"),
        "model": {"name": str(tiny_dir), "dtype": "float32"},
        "lora": {"r": 2, "alpha": 4},
        "strategy": {"name": "sequential"},
        "train": {"epochs": 1},
        "evaluate": {"before": False, "bootstrap": 50},
    }
    memory = Memory.create(tmp_path / "memory", read_config(None, base=base))
    for name in ("bread", "stars"):
        memory.learn(make_task(name, train=4, test=3))
    memory.tag("bread", "production")
    shim = tmp_path / "bin" / "lifealign"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m lifealign "$@"\n')
    shim.chmod(0o755)
    return tmp_path


def run(place: Path, command: str) -> int:
    """One step, with the shell and the options that GitHub uses."""
    environment = {
        **os.environ,
        **{key: str(value) for key, value in workflow()["env"].items()},
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "MEMORY": str(place / "memory"),
        "GITHUB_STEP_SUMMARY": str(place / "page.md"),
        "GITHUB_RUN_ID": "7",
    }
    return subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=place, env=environment).returncode


def with_bounds(command: str, bound: int) -> str:
    """The gates with bounds that a random model meets (1000), or does not (-1000)."""
    changed = re.sub(r'>=-?\d+"', f'>={-bound}"', command)
    return re.sub(r'<=-?\d+"', f'<={bound}"', changed)


@pytest.mark.parametrize(("bound", "code"), [(1000, 0), (-1000, 3)])
def test_the_commands_run_and_the_gate_decides(place: Path, bound: int, code: int) -> None:
    done = []
    failed = 0
    for step in steps():
        command = step.get("run", "")
        if "pip install" in command or not command or (failed and step.get("if") != "always()"):
            continue
        ended = run(place, with_bounds(command, bound))
        failed = failed or ended
        done.append(step["name"])
    assert failed == code
    assert done == ["Verify every file", "Gate", "Show the page", *(["Release"] if code == 0 else [])]
    document = json.loads((place / "gates.json").read_text())
    assert [gate["held"] for gate in document["gates"]] == 4 * [code == 0]
    assert (place / "page.md").read_text() == (place / "gates.md").read_text() != ""
    assert (place / "adapter-7").exists() == (code == 0)
    in_production = Memory.open(place / "memory").tags()["production"]["directory"]
    assert in_production == ("0002-stars" if code == 0 else "0001-bread")


def test_every_step_uses_an_action_or_a_command_and_is_named() -> None:
    assert [("uses" in step) != ("run" in step) for step in steps()] == [True] * len(steps())
    assert all(step.get("name") for step in steps() if "run" in step)
    assert {step["uses"].partition("@")[0] for step in steps() if "uses" in step} == {
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    }
