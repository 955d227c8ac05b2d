"""Runs of a study on Ray: one task per run, on this machine or on a cluster that sees the study's directory.

Ray gives every task its own worker process. If that is killed, Ray restarts the task in another one, and the run
continues from its last checkpoint. If the study is killed, its tasks on the same machine end within a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.registry import hand_over
from lifealign.core.stopping import handlers_kept
from lifealign.studies.plan import strategy_code
from lifealign.studies.program import changed_files
from lifealign.studies.tether import end_with, place
from lifealign.studies.worker import ATTEMPTS, LOG, PROGRAM, RECORD, RUN, Handed, start, too_long, write_failure

SHARED = ("LIFEALIGN_", "HF_")
"""Prefixes of the environment variables that are passed to the workers; the rest is the worker's own."""


class RayEngine:
    """Runs on Ray; see `engine.Engine`.

    Args:
        address: `local` starts Ray on this machine, one worker per core; else the address of a running cluster. A Ray
            that this process has already started is used as it is.

    Raises:
        ConfigError: Ray is not installed.
        StoreError: no cluster runs at the address.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--ray needs Ray, which is not installed; pip install 'lifealign[ray]'")
        try:
            with handlers_kept():  # Ray's own would answer a stop with a stack trace
                self._ray: Any = importlib.import_module("ray")
                if not self._ray.is_initialized():
                    self._ray.init(address=address)
        except (ConnectionError, ValueError) as error:
            raise StoreError(f"--ray {address!r}: no Ray cluster at this address: {error}") from None
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def run(self, jobs: Sequence[Path], timeout: float | None) -> Iterator[tuple[Path, str | None]]:
        """See `engine.Engine.run`; runs end in any order."""
        ray = self._ray
        shared = {name: value for name, value in os.environ.items() if name.startswith(SHARED)}
        # One run per process, so that its peak memory is its own.
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, max_calls=1)(_task)
        waiting = {task.remote(job, timeout, shared, str(Path.cwd()), hand_over(), place()): job for job in jobs}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            reason = None
            try:
                ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                reason = f"{type(error.cause).__name__}: {error.cause} (see {waiting[ended] / LOG})"
            except ray.exceptions.RayError as error:
                reason = f"Ray gave up after {ATTEMPTS} attempts: {str(error).splitlines()[0]}"
            yield waiting.pop(ended), reason


def _task(
    job: Path,
    timeout: float | None,
    shared: Mapping[str, str],
    directory: str,
    handed: Handed,
    study: tuple[str, int],
) -> None:
    end_with(study)
    if (job / RECORD).exists():  # an earlier attempt ran out of time
        return
    if (reason := other_code(job)) is not None:
        write_failure(job, reason)
        return
    if timeout is not None:
        timer = threading.Timer(timeout, _give_up, (job, timeout))
        timer.daemon = True
        timer.start()
    start(job, {**os.environ, **shared}, directory, handed)


def other_code(job: Path) -> str | None:
    """Why this machine cannot do a run: its lifealign has other code than the study's; None: it is the same."""
    run = json.loads((job / RUN).read_bytes())
    changed = changed_files(run[PROGRAM]["files"], strategy_code(run["strategy"]))
    if not changed:
        return None
    return (
        f"{platform.node()} has another lifealign than the study's machine ({changed[0]} differs); install the same "
        "version on all machines"
    )


def _give_up(job: Path, timeout: float) -> None:
    write_failure(job, too_long(timeout))
    os._exit(1)
