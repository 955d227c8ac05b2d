"""Run a study: choose settings on validation rows, run every cell, keep finished runs.

Each run has a directory named by its id. A run recorded as `done` is repeated only if the code that makes its numbers has
changed (`program`); a killed or failed one continues from its memory the next time the study is started. Imports no torch.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import filelock

from lifealign.core.errors import StoreError
from lifealign.core.files import replace_file, writing
from lifealign.core.json_codec import to_json
from lifealign.core.progress import NullProgress, Progress, duration
from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import Interval
from lifealign.evaluation.numbers import number
from lifealign.studies.config import STUDIES
from lifealign.studies.design import power_line, power_lines
from lifealign.studies.plan import Plan, Run, make_plan
from lifealign.studies.program import program, together
from lifealign.studies.records import Records, redone_text
from lifealign.studies.results import build, decisive, select
from lifealign.studies.tether import announce
from lifealign.studies.worker import (
    ATTEMPTS,
    CONTEXT,
    HEAD,
    LOG,
    PROGRAM,
    RECORD,
    RUN,
    here,
    start,
    too_long,
    write_failure,
)

SHOWN = ("last", "bwt", "ap")
"""Summaries of the table that a study prints."""
RUNS, MEMORIES, LOCK, RESULTS = "runs", "memories", ".study.lock", "results.json"

Record = dict[str, Any]


class Engine(Protocol):
    """A place to do runs.

    Attributes:
        workers: number of runs at a time.
    """

    workers: int

    def run(self, jobs: Sequence[Path], timeout: float | None) -> Iterator[tuple[Path, str | None]]:
        """Do the runs of these directories; yields each as it ends, with the reason if it wrote no record."""


class Here:
    """This machine: one run after another, each in its own process."""

    workers = 1

    def run(self, jobs: Sequence[Path], timeout: float | None) -> Iterator[tuple[Path, str | None]]:
        """See `Engine.run`."""
        for job in jobs:
            yield job, run_here(job, timeout)


def run_here(job: Path, timeout: float | None) -> str | None:
    """Do one run in a process; None if it wrote its record, otherwise the reason.

    Args:
        job: directory of the run.
        timeout: seconds; None: no limit.
    """
    code = 0
    announce()
    for _ in range(ATTEMPTS):
        process = CONTEXT.Process(target=start, args=(job, *here()))
        process.start()
        try:
            process.join(timeout)
            if process.is_alive():
                assert timeout is not None
                return too_long(timeout)
        finally:
            process.kill()
            process.join()
        code = process.exitcode or 0
        if code >= 0:
            break
    if code < 0:
        return (
            f"its process was killed {ATTEMPTS} times, the last time by {signal.Signals(-code).name}; see {job / LOG}"
        )
    return None if code == 0 else f"{_last_line(job / LOG)} (exit code {code}; see {job / LOG})"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next(
        (line.strip() for line in reversed(lines) if line.strip()), "the process exited without writing to its log"
    )


@dataclass
class Study:
    """A running study.

    Attributes:
        plan: its runs.
        records: records of its runs.
        out: directory of results.json.
        engine: where runs are done.
        progress: where to report.
    """

    plan: Plan
    records: Records
    out: Path
    engine: Engine
    progress: Progress

    def execute(self) -> dict[str, Any]:
        """Do the trials, choose settings, do the reported runs; returns the results."""
        directory = self.plan.study.runs_directory
        with writing(directory):
            for path in (directory / RUNS, directory / MEMORIES, self.out):
                path.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(directory / LOCK, timeout=0):
                self._do("trials", self.pending_trials())
                pending = self.pending_runs()
                chosen = {label: s.chosen for label, s in select(self.plan, self.records).items()}
                waiting = {run.id for run in pending}
                if kept := list({r.id: 0 for r in self.plan.reported_runs(chosen) if r.id not in waiting}):
                    self.progress.say(self.records.reused(kept))
                self._do("runs", pending)
        except filelock.Timeout:
            raise StoreError(f"{directory}: another study is running here; wait for it, or set `directory`") from None
        return self._write()

    def pending_trials(self) -> list[Run]:
        """Selection runs that are not finished."""
        plan = self.plan
        return self._pending(
            [
                run
                for method in plan.study.methods
                for trial in plan.trials(method)
                if len(plan.trials(method)) > 1
                for run in plan.selection_runs(method, trial)
            ]
        )

    def pending_runs(self) -> list[Run]:
        """Reported runs that are not finished and whose settings are known."""
        chosen = {label: s.chosen for label, s in select(self.plan, self.records).items()}
        return self._pending(self.plan.reported_runs(chosen))

    def _pending(self, runs: Sequence[Run]) -> list[Run]:
        return list({run.id: run for run in runs if not self.records.done(run.id)}.values())

    def _do(self, what: str, runs: Sequence[Run]) -> None:
        if (said := redone_text(self.records, runs)) is not None:
            self.progress.say(said)
        jobs = {self._prepare(run): run for run in runs}
        begun = time.monotonic()
        for ended, (job, reason) in enumerate(self.engine.run(list(jobs), self.plan.study.timeout), 1):
            run = jobs.pop(job)
            if reason is not None:
                write_failure(job, reason)
            self._write()
            took = duration(time.monotonic() - begun)
            self.progress.say(f"{what} {ended}/{len(runs)}: {self._line(run)}; {took} so far{self._left(jobs)}")

    def _left(self, jobs: dict[Path, Run]) -> str:
        seconds, unknown = self.records.total(list(jobs.values()), self.engine.workers)
        more = f" and {unknown} runs of unknown length" if unknown else ""
        return f", about {duration(seconds)}{more} left" if jobs else ""

    def _line(self, run: Run) -> str:
        record = self.records(run.id)
        assert record is not None
        name = describe(run)
        if record["status"] != "done":
            return f"{name}: FAILED: {record['error']}"
        value = decisive(self.plan.study.selection.parts, record)
        return f"{name}: done" + ("" if value is None else f", {run.config['evaluate']['split']} {value:.2f}")

    def _prepare(self, run: Run) -> Path:
        """Prepare the directory of a run: write run.json, remove the record of an earlier failure."""
        directory = self.plan.study.runs_directory.absolute()
        job = directory / RUNS / run.id
        files = self.plan.code[run.strategy]
        code = together(files)
        # Other code makes other weights, so a memory is never continued or scored by it.
        memory = directory / MEMORIES / f"{run.memory_id}-{code[:8]}"
        content = {
            **{key: getattr(run, key) for key in HEAD},
            "memory": str(memory),
            PROGRAM: {**program(), "code": code, "files": files},
            "config": run.config,
        }
        self.records.forget(run.id)
        with writing(job):
            job.mkdir(exist_ok=True)
            (job / RECORD).unlink(missing_ok=True)
            replace_file(job / RUN, to_json(content).encode() + b"\n")
        return job

    def _write(self) -> dict[str, Any]:
        results = build(self.plan, self.records)
        with writing(self.out):
            replace_file(self.out / RESULTS, to_json(results).encode() + b"\n")
        return results


def describe(run: Run) -> str:
    """A run's name for people."""
    settings = {key.rpartition(".")[2]: value for key, value in run.settings.items()}
    shown_settings = " ".join(f"{key}={value}" for key, value in settings.items())
    name = f"{run.method} {shown_settings}".strip()
    return f"{name}, {run.order}, seed {run.seed}, {run.model}"


def run_study(
    path: Path,
    *,
    dry_run: bool = False,
    power: bool = False,
    ray: str | None = None,
    out: Path | None = None,
    keep_finished: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Run a study, or continue it.

    Args:
        path: the study's file.
        dry_run: list the remaining runs and their expected time; do none.
        power: compute the smallest differences that the design can see; do no run.
        ray: `local` or the address of a Ray cluster that sees the study's directory; None: one run at a time, here.
        out: directory of results.json; None: runs/studies/NAME.
        keep_finished: use finished runs although the code that makes their numbers has changed since.
        progress: where to report.

    Returns:
        The document (results.json, the list of a dry run, or the power), lines for people, and the errors of failed runs.

    Raises:
        ConfigError: mistakes in the file, all of them.
        StoreError: a directory cannot be written, or another study is running in it.
    """
    progress = progress or NullProgress()
    progress.say(f"{path}: checking every setting")
    plan = make_plan(path)
    records = Records(plan.study.runs_directory / RUNS, plan.code, keep_finished)
    study = Study(plan, records, out or Path(STUDIES) / plan.study.name, Here(), progress)
    if power:
        document = build(plan, records)["power"]
        return {"study": plan.study.name, **document}, power_lines(plan.study.name, document), []
    if dry_run:
        return _listing(study)
    if ray is not None:
        from lifealign.studies.ray_engine import RayEngine

        study.engine = RayEngine(ray)
    results = study.execute()
    failed = [r for r in results["runs"] if r["status"] == "failed"]
    problems = [f"{r['method']}, {r['order']}, seed {r['seed']}, {r['model']}: {r['error']}" for r in failed]
    lines = [
        *table_lines(results, [score for _, score in plan.study.selection.parts]),
        "",
        f"results: {study.out / RESULTS}",
    ]
    return results, lines, problems


def _listing(study: Study) -> tuple[dict[str, Any], list[str], list[str]]:
    """The remaining runs, with times estimated from finished runs of the same kind."""
    plan, records = study.plan, study.records
    trials, runs = study.pending_trials(), study.pending_runs()
    selection = select(plan, records)
    waiting = [cell for cell in plan.cells() if selection[cell[3].label].chosen is None]
    entries: list[Record] = [
        {"id": run.id, "kind": kind, "run": describe(run), "seconds": records.estimate(run)}
        for kind, group in (("trial", trials), ("run", runs))
        for run in group
    ]
    seconds, unknown = records.total([*trials, *runs])
    lines = [
        f"{e['kind']:<5} {e['id']}  {'?' if e['seconds'] is None else duration(e['seconds']):>7}  {e['run']}"
        for e in entries
    ]
    if (said := redone_text(records, [*trials, *runs])) is not None:
        lines.append(said)
    if waiting:
        lines.append(f"and at least {len(waiting)} runs whose settings are chosen after the trials")
    rest = f", plus {unknown} runs of unknown length" if unknown else ""
    lines.append(f"{len(entries)} runs to do; estimated time: {duration(seconds)}{rest}")
    power = build(plan, records)["power"]
    lines.append(power_line(power))
    document = {
        "study": plan.study.name,
        "to_do": entries,
        "waiting_for_selection": len(waiting),
        "seconds": seconds,
        "unknown": unknown,
        "power": power,
    }
    return document, lines, []


def table_lines(results: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    """The table for a terminal: Last, BWT and AP, with intervals, of these scores, and of the pass rate if it was measured."""
    measured = [name for name in ("pass_rate",) if any(name in row["metrics"] for row in results["table"])]
    names = list(dict.fromkeys([*metrics, *measured]))
    head = [
        "method",
        "order",
        "model",
        *(f"{key} {name}" if key == SHOWN[0] else key for name in names for key in SHOWN),
    ]
    rows = [head]
    for row in results["table"]:
        cells = [_cell(name, key, row["metrics"].get(name, {}).get(key)) for name in names for key in SHOWN]
        rows.append([row["method"], row["order"], row["model"], *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(score: str, key: str, value: dict[str, Any] | None) -> str:
    """A mean with its interval, cut at what the score can reach; no interval where all seeds agree."""
    if value is None or value["mean"] is None or value["mean"] != value["mean"]:
        return "-"
    low, high = value["low"], value["high"]
    text = number(value["mean"], score)
    if low is None or low != low or low == high:
        return text
    inside = catalog.within(score, key, Interval(value["mean"], low, high))
    return f"{text} [{number(inside.low, score)}, {number(inside.high, score)}]"
