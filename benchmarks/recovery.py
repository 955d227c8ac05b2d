"""Recovery of the first of six tasks after sequential tuning on the planted suite, beside four controls; test rows.

    python benchmarks/recovery.py --out results/recovery.json

Each seed is one `lifealign run examples/planted.yaml` with the strategy `sequential`, 24 rows a task, in float32. Then the first
task is recovered from the prompts of its validation rows, in every variant that is asked for; the memory is not written to.
The controls of a variant change what it changed: as many elements of the same tensors, drawn at random, or those that differ
most; all elements on the way back, by the same distance; and one pass of the memory's own objective over the 24 training rows
of the task. Finished parts are in the file of results and are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "strategy.name=sequential",
    "model.dtype=float32",
    "stream.planted.train_rows=24",
    "stream.planted.validation_rows=40",
    "stream.planted.test_rows=60",
    "evaluate.cells=ends",
    "evaluate.rows=1",  # this program scores what it needs
)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "adapter": {},
    "adapter-steps-5": {"steps": 5},
    "adapter-accumulate": {"accumulate": True},
    "adapter-0.01": {"rate": 0.01},
    "adapter-0.01-steps-10": {"rate": 0.01, "steps": 10},
    "adapter-0.01-accumulate": {"rate": 0.01, "accumulate": True},
    "adapter-0.01-steps-5-unchecked": {"rate": 0.01, "steps": 5, "allowed_drop": 1.0},
    "adapter-0.02": {"rate": 0.02},
    "adapter-0.02-layer-15": {"rate": 0.02, "layer": 15},
    "adapter-0.02-layer-25": {"rate": 0.02, "layer": 25},
    "adapter-0.02-layer-30": {"rate": 0.02, "layer": 30},
    "adapter-0.05": {"rate": 0.05},
    "merged": {},
    "merged-accumulate": {"accumulate": True},
    "merged-0.01": {"rate": 0.01},
}
"""Name -> options of `RecoverOptions`; the name begins with the space."""
CONTROLS = ("random", "magnitude", "interpolation", "replay")


def learn(seed: int, directory: Path) -> Path:
    """The memory of a seed; learnt unless it is there."""
    memory = directory / f"sequential-seed{seed}"
    done = memory.with_suffix(".done")
    if not done.exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "lifealign", "run", str(ROOT / "examples" / "planted.yaml")]
        for setting in (f"memory={memory}", f"seed={seed}", *SETTINGS):
            command += ["--set", setting]
        with memory.with_suffix(".log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ, check=True)
        done.touch()
    return memory


class Bench:
    """One memory with its model.

    Args:
        path: of the memory.
        rows: test rows of a task that are scored.
        prompts: most prompts of a task.
        checked: most validation rows that the newest task is checked on.
    """

    def __init__(self, path: Path, rows: int, prompts: int, checked: int) -> None:
        from lifealign.core.progress import make_progress
        from lifealign.memory.api import Memory
        from lifealign.memory.recovery.points import find_points
        from lifealign.store.heldout import heldout

        self.memory = Memory.open(path)
        self.store = self.memory._store
        self.session = self.memory.loaded(make_progress())
        self.tasks = heldout(self.store)
        self.points = find_points(self.store, self.tasks[0].name, None, None)
        self.prompts, self.checked = prompts, checked
        self.rows, self._shares = rows, dict[str, Callable[[], float | None]]()

    def score(self, *names: str) -> dict[str, float]:
        """Task -> percent of its test pairs that the model as it is prefers rightly."""
        from lifealign.memory.recovery import run as recovering

        found = {}
        for task in self.tasks:
            if task.name in names:
                if task.name not in self._shares:
                    self._shares[task.name] = recovering.accuracy(self.session, task.test, self.rows)
                found[task.name] = 100 * float(self._shares[task.name]() or 0.0)
        return found

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last task."""
        return self.tasks[0].name, self.tasks[-1].name

    def before(self) -> dict[str, Any]:
        """Right after the first task was learnt, and at the end."""
        from lifealign.model.adapters import restore
        from lifealign.store.layout import ADAPTER

        self.session.load_one(self.store, self.points.now)
        now = self.score(*self.ends)
        restore(self.session.model, self.store.load_tensors(self.points.earlier, ADAPTER))
        return {"learnt": self.score(self.ends[0]), "now": now}

    def recover(self, name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """One variant; the model holds its result."""
        from lifealign.memory.recovery import kept as recovered
        from lifealign.memory.recovery import run as recovering
        from lifealign.memory.recovery.config import RecoverOptions, Space

        begun, used = time.perf_counter(), time.process_time()
        space: Space = "merged" if name.startswith("merged") else "adapter"
        chosen, most = RecoverOptions(**options), (self.prompts, self.checked)
        recoverer, held = recovering.prepare(self.session, self.store, self.points, chosen, space, *most)
        states, best = recoverer.run()
        took = {"minutes": (time.perf_counter() - begun) / 60, "cpu_minutes": (time.process_time() - used) / 60}
        document = recovered.document_of(self.points, chosen, recoverer, states, best, space)
        if not best.step:
            print(f"{name}: nothing within the allowed drop", file=sys.stderr, flush=True)
        return {**took, **document, "scores": self.score(*self.ends)}, (recoverer, best, held)

    def control(self, name: str, recoverer: Any, best: Any) -> dict[str, Any]:
        """One control of a variant; the model holds its result."""
        from lifealign.consolidation import restoring
        from lifealign.memory.recompose import _forecast_stage
        from lifealign.training.loop import train_stage

        begun = time.perf_counter()
        names, found = list(best.mask), dict[str, Any]()
        earlier = {n: recoverer.earlier[n] for n in names}
        now = {n: recoverer.now[n] for n in names}
        wanted = restoring.moved(best.mask, earlier, now)
        count = sum(int(m.sum()) for m in best.mask.values())
        recoverer._put(recoverer.now)
        if name == "replay":
            from lifealign.data.load import load_stream

            assert self.memory.config.stream is not None
            rows = load_stream(self.memory.config.stream, self.memory.config.seed).tasks[0].train
            train_stage(*_forecast_stage(self.session, rows, len(rows) // self.memory.config.train.pairs_per_step))
            self.session.model.eval()
            found["rows"] = len(rows)
        elif name == "interpolation":
            whole = restoring.moved({n: torch.ones_like(t, dtype=torch.bool) for n, t in now.items()}, earlier, now)
            found["share"] = share = wanted / whole
            recoverer._put({n: torch.lerp(now[n], earlier[n], share) for n in names})
        else:
            scores = {n: (earlier[n] - now[n]).abs() for n in names}
            if name == "random":
                generator = torch.Generator().manual_seed(0)
                scores = {n: torch.rand(t.shape, generator=generator) * (t > 0) for n, t in scores.items()}
            mask: dict[str, Tensor] = restoring.largest(scores, count)
            found["moved"] = restoring.moved(mask, earlier, now)
            recoverer._put(restoring.mixed(mask, earlier, now))
        return {**found, "scores": self.score(*self.ends), "minutes": (time.perf_counter() - begun) / 60}


def line(seed: str, name: str, found: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """A result for people."""
    first, last = next(iter(before["learnt"])), list(before["now"])[-1]
    scores, learnt = found["scores"], before["learnt"][first]
    lost = learnt - before["now"][first]
    back = (scores[first] - before["now"][first]) / lost if lost else float("nan")
    return (
        f"seed {seed} {name}: first {learnt:.1f} -> {before['now'][first]:.1f} -> {scores[first]:.1f} ({100 * back:.0f}% of the loss), "
        f"last {before['now'][last]:.1f} -> {scores[last]:.1f}, restored {100 * found.get('restored', float('nan')):.2f}%, "
        f"{found['minutes']:.1f} min"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure what is missing, write after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=["adapter"], choices=list(VARIANTS))
    parser.add_argument("--controls", nargs="*", default=[], choices=list(VARIANTS), help="variants to control")
    parser.add_argument("--test-rows", type=int, default=40, help="test rows of a task that are scored")
    parser.add_argument("--prompts", type=int, default=40, help="most prompts of a task")
    parser.add_argument("--checked", type=int, default=40, help="validation rows that the newest task is checked on")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "recovery")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written anew after each part")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}

    def keep(seed: str, name: str, value: Any) -> None:
        results.setdefault(seed, {})[name] = value
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    torch.set_num_threads(1)
    for seed in map(str, options.seeds):
        bench = None
        for name in options.variants:
            own = results.get(seed, {})
            wanted = [c for c in CONTROLS if f"{name}/{c}" not in own] if name in options.controls else []
            if name in own and not wanted:
                continue
            bench = bench or Bench(
                learn(int(seed), options.directory), options.test_rows, options.prompts, options.checked
            )
            if "before" not in results.get(seed, {}):
                keep(seed, "test_rows", options.test_rows)
                keep(seed, "before", bench.before())
            found, (recoverer, best, _) = bench.recover(name, VARIANTS[name])
            keep(seed, name, {"checked_rows": options.checked, **found})
            print(line(seed, name, found, results[seed]["before"]), flush=True)
            for control in wanted if best.step else ():
                keep(seed, f"{name}/{control}", bench.control(control, recoverer, best))
                print(
                    line(seed, f"{name}/{control}", results[seed][f"{name}/{control}"], results[seed]["before"]),
                    flush=True,
                )
            if name.startswith("merged"):
                bench = None  # its base model is changed


if __name__ == "__main__":
    main()
