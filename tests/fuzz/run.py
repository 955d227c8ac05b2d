"""Try every door with many inputs, print a table, and keep what fails: `make fuzz`.

    python tests/fuzz/run.py [--count 100000] [--doors rows.csv,--set] [--seed 0]

Each door is tried in a process of its own, which is stopped when one input takes longer than `SECONDS`. What ends in a
traceback, takes longer, or takes more than `MEMORY` is kept in tests/fuzz/failures/<door>/ under its checksum; `test_fuzz.py`
tries all files there on every change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hypothesis

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.doors import DOORS, Door
from lifealign.core.errors import UserError

FAILURES = Path(__file__).parent / "failures"
SECONDS = 5.0
"""Processor time of one input."""
CLOCK = 300
"""Seconds by the clock after which an input hangs without computing; long, for a machine that does other work."""
MEMORY = 1 << 30
"""Bytes by which one input may raise the peak of the process."""
SLICE = 500
"""Inputs that one process tries."""


@dataclass
class Tally:
    """What became of a door's inputs.

    Attributes:
        refused: ended in a `UserError`.
        accepted: were read.
        failed: tracebacks, inputs that took too long or too much.
        slowest: processor seconds of one input.
        most: MiB by which one input raised the peak.
        reasons: of failures, each once.
    """

    refused: int = 0
    accepted: int = 0
    failed: int = 0
    slowest: float = 0.0
    most: int = 0
    reasons: dict[str, str] | None = None

    @property
    def inputs(self) -> int:
        """Number of inputs that were tried."""
        return self.refused + self.accepted + self.failed

    def add(self, other: Tally) -> None:
        """Take in what another process counted."""
        self.refused += other.refused
        self.accepted += other.accepted
        self.failed += other.failed
        self.slowest, self.most = max(self.slowest, other.slowest), max(self.most, other.most)
        self.reasons = {**(self.reasons or {}), **(other.reasons or {})}


def try_one(door: Door, data: bytes, folder: Path, tally: Tally, keep_it: bool = True) -> str | None:
    """Try one input; the reason if it fails."""
    before, started, reason = _peak(), time.process_time(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.enter(data, folder)
        tally.accepted += 1
    except UserError as error:
        str(error).encode()  # a message that cannot be printed is no message
        tally.refused += 1
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:100]}"
    took, more = time.process_time() - started, _peak() - before
    tally.slowest, tally.most = max(tally.slowest, took), max(tally.most, more >> 20)
    if reason is None and took > SECONDS:
        reason = f"took {took:.1f} s"
    if reason is None and more > MEMORY:
        reason = f"took {more >> 20} MiB"
    if reason is not None:
        tally.failed += 1
        tally.reasons = {**(tally.reasons or {}), reason: keep(door, data) if keep_it else "not kept"}
    return reason


def keep(door: Door, data: bytes) -> str:
    """Keep an input that failed."""
    path = FAILURES / door.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def try_many(
    door: Door, count: int, seed: int, folder: Path, current: Path | None = None, keep_it: bool = True
) -> Tally:
    """Try as many inputs of a door, in this process; each is written to `current` before it is tried."""
    tally = Tally()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(door.inputs)
    def each(data: bytes) -> None:
        if current is not None:
            current.write_bytes(data)
            signal.setitimer(signal.ITIMER_PROF, 3 * SECONDS)  # ends the process, in whatever code it is
        try_one(door, data, folder, tally, keep_it)
        signal.setitimer(signal.ITIMER_PROF, 0)

    each()
    return tally


def try_door(door: Door, count: int, seed: int) -> Tally:
    """Try a door in processes that can be stopped."""
    total = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        current, result = folder / "current", folder / "result"
        try_one(door, b"", folder, Tally())  # what it imports is then there in every process
        while total.inputs < count:
            result.unlink(missing_ok=True)
            current.write_bytes(b"")
            child = os.fork()
            if child == 0:
                try:
                    many = try_many(door, min(SLICE, count - total.inputs), seed, folder, current)
                    result.write_text(json.dumps(asdict(many)))
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            _wait(child, current)
            seed += 1
            if result.exists():
                total.add(Tally(**json.loads(result.read_text())))
            else:
                data = current.read_bytes()
                total.add(Tally(failed=1, reasons={"stopped: too long, or the process died": keep(door, data)}))
    return total


def _wait(child: int, current: Path) -> None:
    """Wait for a process, and stop it when one input waits for something that never comes."""
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.time() - current.stat().st_mtime > CLOCK:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.05)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(tallies: dict[str, Tally]) -> str:
    """One line a door, and the sum."""
    lines = ["| door | inputs | refused | accepted | failed | slowest | most memory |", "|---|---|---|---|---|---|---|"]
    total = Tally()
    for name, one in tallies.items():
        lines.append(_line(name, one))
        total.add(one)
    return "\n".join([*lines, _line("all", total)])


def _line(name: str, one: Tally) -> str:
    return f"| {name} | {one.inputs} | {one.refused} | {one.accepted} | {one.failed} | {one.slowest:.2f} s | {one.most} MiB |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the doors and print the table; 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs for all doors together")
    parser.add_argument("--doors", help="names of doors, with commas; default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", hypothesis.errors.HypothesisWarning)  # of long values in an input's description
    known = {door.name: door for door in DOORS}
    chosen = [known[name] for name in given.doors.split(",")] if given.doors else list(DOORS)
    tallies: dict[str, Tally] = {}
    for door in chosen:
        tallies[door.name] = try_door(door, -(-given.count // len(chosen)), given.seed)
        print(_line(door.name, tallies[door.name]), file=sys.stderr, flush=True)
    print(table(tallies))
    reasons = [f"{name}: {why} ({path})" for name, one in tallies.items() for why, path in (one.reasons or {}).items()]
    print("\n".join(reasons))
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
