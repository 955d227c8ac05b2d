"""Records of finished and failed runs, and whether a finished one may be used again. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.documents import check
from lifealign.core.errors import StoreError
from lifealign.core.files import read_bytes
from lifealign.core.json_codec import decode_json
from lifealign.studies import schema, stats
from lifealign.studies.plan import Run
from lifealign.studies.program import changed_files
from lifealign.studies.worker import PROGRAM, RECORD

Record = dict[str, Any]
FILES_SHOWN = 3
"""Changed files that a message names."""


class Records:
    """Records of the runs in a directory; finished ones are read once.

    A finished run counts as missing if the code that made its numbers has changed since. A record without its code, as
    earlier programs wrote them, is used.

    Args:
        directory: of the runs.
        code: strategy -> file -> checksum, of the code that is here now.
        keep: use finished runs whatever code made them.
    """

    def __init__(self, directory: Path, code: Mapping[str, Mapping[str, str]], keep: bool = False) -> None:
        self.directory = directory
        self._code, self._keep = code, keep
        self._done: dict[str, Record] = {}

    def __call__(self, run: str) -> Record | None:
        """The record of a run, done or failed; None if missing, damaged or made by other code: the run is then to do."""
        record = self._read(run)
        return None if record is None or (not self._keep and self._differs(record)) else record

    def changed(self, run: str) -> list[str]:
        """Files whose code differs from that of a finished run; empty if none does, or if its code is not recorded."""
        record = self._read(run)
        return [] if record is None else self._differs(record)

    def done(self, run: str) -> bool:
        """Whether a run is finished and need not be repeated."""
        record = self(run)
        return record is not None and record["status"] == "done"

    def estimate(self, run: Run) -> float | None:
        """Expected seconds of a run: the mean of the finished ones of its kind; None: unknown."""
        every = (self._read(p.name) for p in sorted(self.directory.glob("*")))
        same = [r["seconds"] for r in every if r and (r["strategy"], r["model"], len(r.get("tasks", ()))) == kind(run)]
        mean = stats.mean(same)
        return None if mean != mean else mean

    def total(self, runs: Sequence[Run], workers: int = 1) -> tuple[float, int]:
        """Expected seconds of these runs together, and how many of them have no estimate."""
        kinds = {kind(run): run for run in runs}
        known = {of: self.estimate(run) for of, run in kinds.items()}
        each = [known[kind(run)] for run in runs]
        return sum(e for e in each if e is not None) / workers, sum(e is None for e in each)

    def reused(self, runs: Sequence[str]) -> str:
        """How many finished runs are used again, and how many of them by which other program, for people."""
        records = [record for run in runs if (record := self(run)) is not None]
        unknown = sum(r.get(PROGRAM) is None for r in records)
        other = sum(bool(self._differs(r)) for r in records)
        more = f", {unknown} of them made by an earlier program, which did not record its code" if unknown else ""
        more += f", {other} of them made by other code than that of now" if other else ""
        return f"reusing {len(runs)} finished runs{more}"

    def _differs(self, record: Record) -> list[str]:
        made, now = record.get(PROGRAM), self._code.get(record["strategy"])
        if record["status"] != "done" or made is None or now is None:
            return []
        return changed_files(made["files"], now)

    def _read(self, run: str) -> Record | None:
        if run in self._done:
            return self._done[run]
        path = self.directory / run / RECORD
        if not path.exists():
            return None
        try:
            record: Record = decode_json(path, read_bytes(path))
            done = check(schema.Record, record, str(path)).status == "done"
        except StoreError:
            return None
        if done:
            self._done[run] = record
        return record

    def forget(self, run: str) -> None:
        """Read a run's record anew: it is about to be done again."""
        self._done.pop(run, None)


def kind(run: Run) -> tuple[str, str, int]:
    """Strategy, model and number of tasks (a trial may learn a part of them): what the time of a run depends on."""
    return run.strategy, run.model, len(run.config["stream"]["order"])


def redone_text(records: Records, runs: Sequence[Run]) -> str | None:
    """How many of these runs are done again because their code has changed, and which files; None: none."""
    changed = {run.id: files for run in runs if (files := records.changed(run.id))}
    if not changed:
        return None
    files = sorted({name for found in changed.values() for name in found})
    shown = ", ".join(files[:FILES_SHOWN]) + (f" and {len(files) - FILES_SHOWN} more" if files[FILES_SHOWN:] else "")
    return f"{len(changed)} finished runs were made by other code, so they are done again; changed since: {shown}"
