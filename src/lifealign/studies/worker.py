"""The parts of a study that run in separate processes: check settings, do one run. Imports torch only there.

Processes are forked from a server that has imported everything and computed nothing: a run pays for no import, its peak
memory is its own, and a crash ends only that run. If the study is killed, the processes that it started end by themselves
(`tether`).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock

from lifealign.core.errors import ConfigError, UserError
from lifealign.core.files import replace_file, writing
from lifealign.core.json_codec import to_json
from lifealign.core.registry import hand_over, take_over
from lifealign.strategies import STRATEGIES
from lifealign.studies import program, tether

if TYPE_CHECKING:
    from lifealign.store.reader import MemoryReader

CONTEXT = multiprocessing.get_context("forkserver")
# All strategies at once: a file that is edited while the study goes on must not be read by its later runs.
CONTEXT.set_forkserver_preload(
    [
        tether.__name__,
        "lifealign.memory.learning",
        "lifealign.memory.api",
        *(name.partition(":")[0] for name in STRATEGIES.built_in_references()),
    ]
)

T = TypeVar("T")
RUN, RECORD, LOG = "run.json", "record.json", "log.txt"
PROGRAM, MACHINE = "program", "machine"
"""Keys of a record: the commit and code that made it, and the kind of machine; see `studies.program`."""
SIGNS = "signs"
"""Key of a record, and of a task's diagnostics: what must be seen for a method to be itself. A record has those that fail."""
HEAD = ("id", "memory_id", "strategy", "model")
"""Keys of a run that its record repeats."""
LOCK_SECONDS = 60
"""How long a run waits for an earlier run of a killed study to notice and end."""

Handed = dict[str, dict[str, str]]
Place = tuple[dict[str, str], str, Handed]


def here() -> Place:
    """Environment, working directory, registrations of this process; a forked one has those of the server's start."""
    return dict(os.environ), str(Path.cwd()), hand_over()


def _go(environment: Mapping[str, str], directory: str, handed: Handed) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    take_over(handed)


def resolve(
    trees: Sequence[tuple[str, Mapping[str, Any]]], environment: Mapping[str, str], directory: str, handed: Handed
) -> tuple[list[dict[str, Any] | list[str]], dict[str, str | None]]:
    """Complete each tree to a configuration without memory, or list its mistakes; it comes with its place for messages.

    The second value is name -> sha256 of the source of each strategy and loss from outside that they use, and
    `source_key` of a name -> the same of each score and text metric, each task's rule and each row format.
    """
    _go(environment, directory, handed)
    from lifealign.core.config import StreamConfig
    from lifealign.memory.code import data_code, find_scores, outside_code
    from lifealign.strategies.configure import check_tree

    found: list[dict[str, Any] | list[str]] = []
    sources: dict[str, str | None] = {}
    streams: set[str] = set()
    for where, tree in trees:
        try:
            config = check_tree(tree, where).model_dump(mode="json", exclude={"memory"})
            sources |= {record["name"]: record["sha256"] for record in outside_code(config).values()}
            sources |= {
                source_key("score", n): r["origin"]["sha256"] for n, r in find_scores(config["evaluate"]).items()
            }
            stream = json.dumps(config["stream"])
            if stream not in streams:  # its rows are read, so once
                streams.add(stream)
                code = data_code(StreamConfig.model_validate(config["stream"]), config["seed"])
                for kind, found_code in code.items():
                    sources |= {source_key(kind, n): origin["sha256"] for n, origin in found_code.items()}
            found.append(config)
        except ConfigError as error:
            found.append(str(error).splitlines())
    return found, sources


def source_key(kind: str, name: str) -> str:
    """The key of the source of a score, rule or row format; its kind is in it, as another kind may have the same name."""
    return f"{kind} {name}"


def start(job: Path, environment: Mapping[str, str], directory: str, handed: Handed) -> None:
    """Entry point of a run's process: it writes its output to the run's log and ends when the study ends."""
    _go(environment, directory, handed)
    log = os.open(job / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    tether.end_with_parent()
    work(job)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """The value of a function that is called in a process of its own, which is killed with this one.

    Raises:
        UserError: as the function does.
        RuntimeError: it failed, and its traceback is on stderr; or its process was killed.
    """
    tether.announce()
    receive, send = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_report, args=(send, function, arguments))
    process.start()
    send.close()
    try:
        value, error = receive.recv()
    except EOFError:
        raise RuntimeError(f"the process of {function.__name__} was killed") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    found: T = value
    return found


def _report(send: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    tether.end_with_parent()
    try:
        send.send((function(*arguments), None))
    except UserError as error:
        send.send((None, error))
    except Exception as error:
        traceback.print_exc()
        send.send((None, RuntimeError(f"{type(error).__name__}: {error}")))


def work(job: Path) -> None:
    """Do or continue the run of a directory and write its record; a user's mistake is recorded as a failure."""
    run = json.loads((job / RUN).read_bytes())
    memory = Path(run["memory"])
    memory.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    record = {key: run[key] for key in HEAD} | {PROGRAM: run.get(PROGRAM)}
    with filelock.FileLock(f"{memory}.lock", timeout=LOCK_SECONDS):
        fresh = not memory.exists()
        try:
            record |= {"status": "done", "error": None, **_learn(run["config"], memory)}
        except UserError as error:
            record |= {"status": "failed", "error": str(error)}
    # The cost of an earlier process on this memory is unknown: report none rather than a part of it.
    clean = fresh and record["status"] == "done"
    record |= {
        "seconds": time.perf_counter() - begun if clean else None,
        "peak_memory_gb": peak_memory_gb() if clean else None,
    }
    if not clean:
        record["train_seconds"] = None
    _write(job, record)


def write_failure(job: Path, reason: str) -> None:
    """Write the record of a run whose process could not write it."""
    run = json.loads((job / RUN).read_bytes())
    _write(job, {key: run[key] for key in HEAD} | {"status": "failed", "error": reason, "seconds": None})


def too_long(timeout: float) -> str:
    """Why a run was stopped after `timeout` seconds, for its record."""
    return f"not finished within {timeout:g} s (`timeout`)"


def _write(job: Path, record: Mapping[str, Any]) -> None:
    with writing(job):
        replace_file(job / RECORD, to_json(record).encode() + b"\n")


def _learn(config: Mapping[str, Any], memory: Path) -> dict[str, Any]:
    from lifealign.core.config import RunConfig
    from lifealign.core.progress import LineProgress
    from lifealign.evaluation.outside import KEY
    from lifealign.evaluation.results import point_results, read_scores
    from lifealign.memory.api import run_stream
    from lifealign.memory.history import StoreHistory
    from lifealign.memory.numerics import stored_numerics
    from lifealign.store.documents import read_training
    from lifealign.store.layout import REPLAY, STATE, WARNINGS
    from lifealign.store.reader import MemoryReader

    settings = RunConfig.model_validate({**config, "memory": str(memory)})
    with contextlib.redirect_stdout(sys.stderr):
        run_stream(settings, progress=LineProgress())
    store = MemoryReader.open(memory)
    table = read_scores(store, settings.evaluate.split)
    scores, summary, outside = point_results(table)
    files = store.head.files
    log = [read_training(store, manifest) for manifest in store.lineage()[1:]]
    return {
        "tasks": list(table.tasks),
        **({"ends": dict(table.ends)} if table.ends else {}),
        "scores": scores,
        "summary": summary,
        **({KEY: outside} if outside else {}),
        **({WARNINGS: list(table.warnings)} if table.warnings else {}),
        # Reference log-probs are shared between runs: the first one would pay for all.
        "train_seconds": sum(m.meta["seconds"] - m.meta["reference_seconds"] for m in store.lineage()[1:]),
        "state_bytes": sum(files[name].size for name in (f"{STATE}.safetensors", REPLAY) if name in files),
        "steps": sum(len(lines) for lines in log),
        "rows_kept": len(StoreHistory(store).replay.exemplars) / len(table.tasks),
        **({SIGNS: failed} if (failed := _failed_signs(store)) else {}),
        MACHINE: _machine(stored_numerics(store) or {}),
        "libraries": program.libraries(),
    }


def _failed_signs(store: MemoryReader) -> list[dict[str, Any]]:
    """Signs that did not hold, each with its task."""
    from lifealign.store.documents import read_diagnostics

    return [
        {"task": manifest.name, **sign}
        for manifest in store.lineage()[1:]
        for sign in read_diagnostics(store, manifest).get(SIGNS, ())
        if sign["holds"] is False  # None: not measured for this task
    ]


def _machine(numerics: Mapping[str, Any]) -> dict[str, Any]:
    device = str(numerics.get("device", "CPU"))
    return program.machine(None if device.startswith("CPU") else device, numerics.get("threads"))


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in GB (1e9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


ATTEMPTS = 3
"""How often a run is started if its process is killed; each time it continues from its last checkpoint."""
