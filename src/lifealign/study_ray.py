"""Runs of a study on Ray: one task per run, on this machine or on a cluster that sees the study's directory.

A task does its run as it is done here: in a process of its own. If Ray's worker is killed, that process ends with it, Ray
starts the task again elsewhere, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.errors import ConfigError, StoreError
from lifealign.study import ATTEMPTS, run_here

SHARED = ("LIFEALIGN_", "HF_")
"""Environment variables that go to the workers, by their beginning; the rest is the worker's own."""


class RayEngine:
    """See `study.Engine`.

    Args:
        address: `local` starts Ray on this machine; else the address of a running cluster.
        workers: runs at a time with `local`; None: one per core.

    Raises:
        ConfigError: Ray is not installed.
        StoreError: there is no cluster at the address.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--ray needs Ray, which is not installed; pip install 'lifealign[ray]'")
        self._ray: Any = importlib.import_module("ray")
        try:
            if address == "local":
                self._ray.init(address="local", num_cpus=workers, include_dashboard=False)
            else:
                self._ray.init(address=address)
        except (ConnectionError, ValueError) as error:
            raise StoreError(f"--ray {address!r}: no Ray cluster there: {error}") from None
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def run(self, jobs: Sequence[Path], timeout: float | None) -> Iterator[tuple[Path, str | None]]:
        """See `study.Engine.run`; runs end in any order."""
        ray = self._ray
        shared = {name: value for name, value in os.environ.items() if name.startswith(SHARED)}
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_task)
        waiting = {task.remote(job, timeout, shared, str(Path.cwd())): job for job in jobs}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            try:
                reason: str | None = ray.get(ended)
            except ray.exceptions.RayError as error:
                reason = f"Ray could not do it in {ATTEMPTS} attempts: {error}"
            yield waiting.pop(ended), reason


def _task(job: Path, timeout: float | None, shared: Mapping[str, str], directory: str) -> str | None:
    return run_here(job, timeout, ({**os.environ, **shared}, directory))
