"""Forgetting on the planted suite: strategies x seeds, test rows, intervals over seeds.

    python benchmarks/forgetting.py --jobs 2 --out results/planted.json

Every run is `lifealign run examples/planted.yaml` with another strategy and seed, in a process of its own; a finished run
is not repeated and a killed one goes on where it was. The hyper-parameters are those of the example file;
docs/results/reproduction.md says which of them were chosen on validation rows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OWN_SETTINGS = {"joint": ("train.epochs=2",), "replay": ("strategy.replay_share=1.0",)}
"""What differs between strategies: joint training is the upper bound and is trained for longer."""
MEASURES = ("last", "ap", "bwt", "forgetting", "learning_accuracy")


def start(strategy: str, seed: int, directory: Path, settings: Sequence[str], threads: int) -> subprocess.Popen[bytes]:
    """Start one run; its output goes to a file beside its memory."""
    memory = directory / f"{strategy}-seed{seed}"
    command = [sys.executable, "-m", "lifealign", "run", str(ROOT / "examples" / "planted.yaml")]
    for setting in (
        f"memory={memory}",
        f"seed={seed}",
        f"strategy.name={strategy}",
        *OWN_SETTINGS.get(strategy, ()),
        *settings,
    ):
        command += ["--set", setting]
    memory.parent.mkdir(parents=True, exist_ok=True)
    with memory.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )


def collect(directory: Path, strategies: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Summary of the runs that have finished: per strategy and metric, mean and 95% interval over seeds."""
    from lifealign.evaluation.metrics import seeds_interval
    from lifealign.memory.api import Memory

    table: dict[str, Any] = {}
    for strategy in strategies:
        runs = {}
        for seed in seeds:
            path = directory / f"{strategy}-seed{seed}"
            if path.with_suffix(".done").exists():
                runs[seed] = Memory.open(path).results()
        if not runs:
            continue
        scores = sorted({score for run in runs.values() for score in run["summary"]})
        table[strategy] = {
            "seeds": list(runs),
            "seconds": {seed: sum(v or 0 for v in run["seconds"].values()) for seed, run in runs.items()},
            "R": {seed: run["scores"]["accuracy"]["R"] for seed, run in runs.items()},
            "summary": {
                score: {
                    measure: _over_seeds(
                        [run["summary"][score][measure]["value"] for run in runs.values()], seeds_interval
                    )
                    for measure in MEASURES
                }
                for score in scores
            },
        }
    return table


def _over_seeds(values: list[float], interval: Any) -> dict[str, Any]:
    mean, low, high = interval(values)
    return {"values": values, "mean": mean, "low": low, "high": high}


def markdown(table: dict[str, Any], score: str = "accuracy") -> list[str]:
    """The table as it stands in docs/results/reproduction.md."""

    def cell(entry: dict[str, Any]) -> str:
        if entry["mean"] != entry["mean"]:
            return "-"
        each = ", ".join(f"{v:.1f}" for v in entry["values"])
        return f"{entry['mean']:.1f} [{entry['low']:.1f}, {entry['high']:.1f}] ({each})"

    lines = [f"| strategy | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    for strategy, entry in table.items():
        if score in entry["summary"]:
            lines.append(f"| {strategy} | {' | '.join(cell(entry['summary'][score][m]) for m in MEASURES)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=["lifealign", "joint", "sequential", "replay"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--directory", type=Path, default=ROOT / "runs" / "forgetting")
    parser.add_argument("--out", type=Path, help="JSON file, written anew after each run")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    waiting = [(strategy, seed) for seed in options.seeds for strategy in options.strategies]
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    failed = []
    while waiting or running:
        for key in [k for k, process in running.items() if process.poll() is not None]:
            code = running.pop(key).returncode
            path = options.directory / f"{key[0]}-seed{key[1]}"
            print(f"{key[0]} seed {key[1]}: exit {code}", file=sys.stderr, flush=True)
            if code == 0:
                path.with_suffix(".done").touch()
            else:
                failed.append(key)
            if options.out:
                report(options)
        while waiting and len(running) < options.jobs:
            key = waiting.pop(0)
            if not (options.directory / f"{key[0]}-seed{key[1]}.done").exists():
                running[key] = start(*key, options.directory, options.settings, options.threads)
        time.sleep(1)
    table = report(options)
    print("\n".join(markdown(table)))
    if failed:
        sys.exit(f"failed: {failed}; see the .log files in {options.directory}")


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Collect what is finished and write it."""
    from lifealign.core.json_codec import to_json

    table = collect(options.directory, options.strategies, options.seeds)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(to_json({"settings": options.settings, "strategies": table}) + "\n")
    return table


if __name__ == "__main__":
    main()
