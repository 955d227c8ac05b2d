"""make faults: kills, failing disks, corruption, and readers beside a writer, on a small memory. Ends by itself; prints a table.

    python -m faults.run --kills 300 --flips 2000 --loads 10000 --seed 0

A line of the table: door / promise | tries | refused | lost | tracebacks | slowest. `refused`: ended in our message, or was
named by `verify`. `lost`: a promise that did not hold: data lost, a half state, damage that nobody named.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faults import disk, memories
from lifealign.core.errors import StoreError, UserError
from lifealign.store import writer
from lifealign.store.reader import MemoryReader
from lifealign.store.repair import repair
from lifealign.store.writer import MemoryStore


@dataclass
class Line:
    """One line of the table."""

    name: str
    tries: int = 0
    refused: int = 0
    lost: int = 0
    tracebacks: int = 0
    slowest: float = 0.0
    notes: list[str] = field(default_factory=list)

    def attempt(self, action: Callable[[], object]) -> str | None:
        """Do it; the message if it is refused, "" for a traceback, None if it ends well."""
        self.tries += 1
        begun = time.perf_counter()
        try:
            action()
        except UserError as error:
            self.refused += 1
            return str(error) or "refused"
        except Exception as error:
            self.tracebacks += 1
            self.notes.append(f"{type(error).__name__}: {error}")
            return ""
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - begun)
        return None

    def expect(self, held: bool, note: str) -> None:
        if not held:
            self.lost += 1
            self.notes.append(note)


HEADER = ("door / promise", "tries", "refused", "lost", "tracebacks", "slowest")


def table(lines: list[Line]) -> str:
    rows = [HEADER]
    rows += [
        (x.name, str(x.tries), str(x.refused), str(x.lost), str(x.tracebacks), f"{x.slowest:.2f} s") for x in lines
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join(" | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)


def fork(action: Callable[[], object]) -> int:
    """The wait status of a child that does it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kills(folder: Path, tries: int, draw: random.Random) -> Line:
    """SIGKILL before a random call: the memory is sound, its tasks are there, and a rerun ends in the same bytes."""
    line = Line("kill at a random call of a learn")
    base = memories.make(folder / "base")
    whole = memories.copy(base, folder / "whole")
    calls = len(disk.count_calls(whole, lambda: memories.learn(whole)))
    want, old = memories.contents(whole), memories.contents(base)
    for _ in range(tries):
        at = draw.randrange(calls)
        memory = memories.copy(base, folder / "memory")

        def struck(at: int = at, memory: Path = memory) -> None:
            with disk.watched(memory, disk.kill(at)):
                memories.learn(memory)

        status = fork(struck)
        line.expect(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"call {at}: was not killed")
        now = memories.contents(memory)
        line.expect(all(now.get(n) == d for n, d in old.items() if n != "HEAD"), f"call {at}: a stored file changed")
        line.expect(MemoryReader.open(memory).verify() == [], f"call {at}: not sound")
        line.attempt(lambda memory=memory: memories.learn(memory))
        line.expect(memories.contents(memory) == want, f"call {at}: a rerun ends in other bytes")
    return line


def errnos(folder: Path, share: float, draw: random.Random) -> Line:
    """Each error at each call: one message, nothing half visible, nothing left behind, and a rerun ends in the same bytes."""
    line = Line("errno at every call of a learn")
    base = memories.make(folder / "base")
    whole = memories.copy(base, folder / "whole")
    calls = disk.count_calls(whole, lambda: memories.learn(whole))
    want = memories.contents(whole)
    for at, name in enumerate(calls):
        for code in (*disk.ERRNOS, "short"):
            if (code == "short" and name != "write") or draw.random() >= share:
                continue
            memory = memories.copy(base, folder / "memory")

            def struck(at: int = at, code: str = code, memory: Path = memory) -> None:
                with disk.watched(memory, disk.refuse(at, code)):
                    memories.learn(memory)

            told = line.attempt(struck)
            here = f"call {at} ({name}, {code})"
            line.expect(MemoryReader.open(memory).verify() == [], f"{here}: not sound")
            line.expect(not list(memory.rglob(".tmp-*")), f"{here}: temporary files are left behind")
            if told is None:
                line.expect(memories.contents(memory) == want, f"{here}: passed over, with other bytes")
                line.expect(name != "fsync", f"{here}: a failing fsync was passed over")
            memories.learn(memory)
            line.expect(memories.contents(memory) == want, f"{here}: a rerun ends in other bytes")
    return line


def corruption(folder: Path, tries: int, draw: random.Random) -> list[Line]:
    """Flips, truncations and removals of every file: all named by `verify`; `repair` ends in a sound memory or refuses."""
    named, mended = Line("flip, cut or remove a file: verify"), Line("the same: repair")
    base = memories.make(folder / "base")
    files = memories.contents(base)
    last = max(name for name in files if name.startswith("evaluations/"))
    for _ in range(tries):
        name = draw.choice(sorted(files))
        how = draw.choices(("flip", "cut", "remove"), (8, 3, 1))[0]
        if how == "remove" and name in (last, "tags.json"):
            continue  # nothing refers to them: docs/reliability.md lists this
        memory = memories.copy(base, folder / "memory")
        data = files[name]
        at = draw.randrange(len(data))
        if how == "remove":
            (memory / name).unlink()
        else:
            flipped = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            (memory / name).write_bytes(flipped if how == "flip" else data[:at])
        problems: list[str] = []

        def look(memory: Path = memory, problems: list[str] = problems) -> None:
            problems += MemoryReader.open(memory).verify(deep=False)

        told = named.attempt(look)
        named.refused += bool(problems)
        text = told or "\n".join(problems)
        named.expect(name in text, f"{how} {name} at {at}: not named")
        if mended.attempt(lambda memory=memory: repair(memory)) is None:
            mended.expect(MemoryReader.open(memory).verify() == [], f"{how} {name}: not sound after repair")
    return [named, mended]


def readers(folder: Path, loads: int) -> Line:
    """Loads beside a process that commits, rolls back and evaluates: each sees one consistent point."""
    line = Line("loads beside a writer")
    back = 0
    for start in range(0, loads, 500):  # each time a new memory, so that it stays small
        memory = memories.make(folder / f"memory{start}")
        child = os.fork()
        if child == 0:
            _write_for_ever(memory)
        try:
            seen = ""
            for _ in range(min(500, loads - start)):
                points: list[str] = []
                told = line.attempt(lambda memory=memory, points=points: points.append(_load(memory)))
                line.expect(told is None, f"a load was refused: {told}")
                line.expect("" not in points, "a load saw an inconsistent point")
                back += bool(points) and points[0] < seen
                seen = points[0] if points else seen
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        shutil.rmtree(memory)
    line.notes.append(
        f"HEAD was older than in the load before {back} times: the writer rolls back after every third task"
    )
    return line


def _write_for_ever(memory: Path) -> None:
    try:
        store = MemoryStore.open(memory)
        for number in itertools.count(1):
            with store.writer():
                memories.commit(store, f"task{number}")
                store.append_evaluation({"kind": "row", "after": store.head.directory, "scores": {}})
                if number % 3 == 0:
                    store.rollback("helpful")
    finally:
        os._exit(1)


def _load(memory: Path) -> str:
    """HEAD's directory as a reader sees it, every file of its line read; "" if two of its parts do not fit."""
    reader = MemoryReader.open(memory)
    lineage = reader.lineage()
    for task in lineage:
        for name in task.files:
            reader.load_lines(task, name) if name.endswith("jsonl") else reader.load_document(task, name)
    linked = all(b.parent == a.directory and b.parent_sha256 == a.sha256 for a, b in itertools.pairwise(lineage))
    listed = {entry["directory"] for entry in reader.log()} if linked else set()
    return reader.head.directory if linked and {task.directory for task in lineage} <= listed else ""


def run(
    kill: int, flips: int, loads: int, share: float, seed: int, folder: Path, told: Callable[[Line], None] | None = None
) -> list[Line]:
    """All of it."""
    draw = random.Random(seed)
    now = writer._now
    writer._now = lambda: "2026-01-02T03:04:05+00:00"  # the same bytes at any time
    try:
        parts: list[Callable[[], list[Line]]] = [
            lambda: [kills(folder / "kills", kill, draw)],
            lambda: [errnos(folder / "errnos", share, draw)],
            lambda: corruption(folder / "flips", flips, draw),
            lambda: [readers(folder / "readers", loads)],
        ]
        lines: list[Line] = []
        for part in parts:
            lines += part()
            if told is not None:
                told(lines[-1])
    finally:
        writer._now = now
    return lines


def main() -> int:
    """Entry point of `make faults`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--loads", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=1.0, help="of the errno matrix, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default: the directory for temporary files")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lifealign-faults-", dir=given.folder))
    try:
        lines = run(
            given.kills,
            given.flips,
            given.loads,
            given.share,
            given.seed,
            folder,
            lambda line: print(line.name, line.tries, line.lost, file=sys.stderr, flush=True),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(lines))
    for line in lines:
        for note in list(dict.fromkeys(line.notes))[:20]:
            print(f"{line.name}: {note}")
    return int(any(line.lost or line.tracebacks for line in lines))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as error:
        sys.exit(str(error))
