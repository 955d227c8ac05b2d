"""A study on Ray with two local workers, one of them killed in the middle of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError
from lifealign.store.reader import MemoryReader
from lifealign.studies.engine import run_study
from lifealign.studies.ray_engine import RayEngine
from support.study_runs import Write, in_second_task


def locked_by(lock: Path) -> int | None:
    """The process that holds a file lock, as the kernel lists it."""
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
            return int(fields[4])
    return None


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="finds the worker by Linux's list of locks")
def test_killed_worker_is_replaced_and_its_run_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lifealign[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else the workers starve beside other work
    path, runs = write(), tmp_path / "runs"
    whole, _, _ = run_study(write("whole", directory=str(tmp_path / "whole")), out=tmp_path / "w")
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005) and not killed:
            for memory in in_second_task(runs):
                pid = locked_by(Path(f"{memory}.lock"))
                if pid is not None and not killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        thread = threading.Thread(target=watch)
        thread.start()
        results, _, problems = run_study(path, ray="local", out=tmp_path / "out")
    finally:
        stop.set()
        thread.join()
        ray.shutdown()
    assert len(killed) == 1 and problems == []
    assert [r["status"] for r in results["runs"]] == ["done"] * 2
    assert [r["scores"] for r in results["runs"]] == [r["scores"] for r in whole["runs"]]
    assert [r["seconds"] is None for r in results["runs"]].count(True) == 1, "one run was interrupted"
    for head in (runs / "memories").glob("*/HEAD"):
        assert MemoryReader.open(head.parent).verify() == []
    logs = [(runs / "runs" / r["id"] / "log.txt").read_text() for r in results["runs"]]
    assert all(log.count("one: end of task") == 1 for log in logs), "no task was learnt twice"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["runs"] == json.loads(
        json.dumps(results["runs"])
    )


def test_ray_does_not_take_the_signals_that_stop_a_study() -> None:
    """Its own handlers would end the process with a stack trace in C, and with another exit code."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'lifealign[ray]'")
    code = """
import sys, time
from lifealign.core.stopping import catch_signals, exit_code
from lifealign.studies.ray_engine import RayEngine
catch_signals()
RayEngine("local")
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt as stop:
    sys.exit(exit_code(stop))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 128 + signal.SIGTERM and "PC: @" not in said, said


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    def missing(name: str, *_: Any) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(ConfigError, match=r"pip install 'lifealign\[ray\]'"):
        RayEngine("local")
