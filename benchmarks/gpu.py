"""Our preference step on one GPU: checks on the device, and a race against TRL's DPOTrainer, without a network.

    python benchmarks/gpu.py --out gpu.json [--minutes 8.5] [--tiny] [--device cpu] [--peer-python PYTHON] [--weights DIR]

Parts, each with its share of the minutes; results are written as they come, and a part whose time is over is left out with
a line:

- machine: card, versions, the measured rate of a bfloat16 product of 8192 x 8192 matrices.
- checks: the probe of packed rows, losses against the CPU's, a run killed and resumed, `lifealign learn`.
- races, LoRA r 16 on all linear layers: shapes of Qwen2.5-7B, Llama-3.2-1B and SmolLM2-135M with random weights (or
  `--weights` for SmolLM2), prompts of 512 tokens and two answers of 256, and lengths of hh-rlhf-helpful-base.
- losses of 20 steps from one adapter, DPO, ours and TRL's, each in two splits of a step.

Both sides get the same token ids in the same optimizer steps. Model FLOPs utilisation (MFU) counts the work that cannot be
left out (`gpu_work.needed_work`) over the time and the measured matrix rate. docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GRACE = 40.0
"""Seconds that a job may run beyond its deadline before its process is killed."""

Job = dict[str, Any]
RACE: Job = {"do": "race", "dtype": "bfloat16", "learning_rate": 1e-4, "warm": 1, "steps": 2}
CHECK: Job = {
    "dtype": "float32",
    "learning_rate": 1e-3,
    "pairs_per_step": 4,
    "rows": "tiny",
    "shape": "tiny",
    "steps": 6,
}
LOSSES: Job = {"do": "losses", "dtype": "bfloat16", "rows": "long", "shape": "llama-3.2-1b", "pairs_per_step": 8,
               "distinct": 160, "epochs": 1, "steps": 20, "learning_rate": 2e-5}  # fmt: skip
LARGE, MIDDLE, SMALL = "qwen2.5-7b", "llama-3.2-1b", "smollm2-135m"


def plan(weights: str | None) -> dict[str, list[Job]]:
    """The jobs of both sides, in order; `share` is the part of the minutes."""
    budgets: list[int | str] = [8192, "8192 compiled", "16384 compiled"]
    races = [
        {**RACE, "name": "7B", "shape": LARGE, "rows": "long", "pairs_per_step": 32,
         "budgets": [4096, "8192 compiled", "16384 compiled", "auto"], "batches": [2, 4, 8], "share": (0.25, 0.25)},
        {**LOSSES, "name": "losses", "budgets": [16384, 4096, "16384 compiled"], "batches": [8, 2], "share": (0.06, 0.07)},
        {**RACE, "name": "1B", "shape": MIDDLE, "rows": "long", "pairs_per_step": 64, "budgets": [16384, "16384 compiled", "32768 compiled"],
         "batches": [8, 16, 32], "share": (0.06, 0.08)},
        {**RACE, "name": "7B, hh lengths", "shape": LARGE, "rows": "hh", "pairs_per_step": 32, "budgets": ["8192 compiled"],
         "batches": [4, 8], "share": (0.05, 0.06)},
        {**RACE, "name": "135M", "shape": SMALL, "rows": "long", "pairs_per_step": 64, "budgets": budgets,
         "batches": [16, 32], "weights": weights, "share": (0.04, 0.05)},
        {**RACE, "name": "135M, hh lengths", "shape": SMALL, "rows": "hh", "pairs_per_step": 64,
         "budgets": budgets[:2], "batches": [32, 64], "weights": weights, "share": (0.03, 0.04)},
    ]  # fmt: skip
    first = [
        {"do": "machine", "name": "machine", "size": 8192, "share": (0.02, 0)},
        {**CHECK, "do": "probe", "name": "probe, bfloat16", "shape": SMALL, "rows": "hh", "dtype": "bfloat16",
         "share": (0.04, 0)},
        {**CHECK, "do": "resume", "name": "resume", "share": (0.02, 0)},
    ]  # fmt: skip
    last = [
        {
            **CHECK,
            "do": "golden",
            "name": "losses as on the CPU",
            "share": (0.1, 0),
        },  # its process for the CPU imports again
        {**CHECK, "do": "learn", "name": "learn", "dtype": "auto", "weights": weights, "share": (0.04, 0)},
        {**CHECK, "do": "probe", "name": "probe, float32", "shape": SMALL, "rows": "hh", "share": (0.02, 0)},
    ]
    ours = [*first, *races[:4], *last, *races[4:]]
    return {
        "ours": [{**job, "share": job["share"][0]} for job in ours],
        "trl": [{**job, "share": job["share"][1]} for job in races],
    }


def tiny_plan() -> dict[str, list[Job]]:
    """The same kinds of jobs, in seconds on a CPU."""
    small: Job = {"shape": "tiny", "rows": "tiny", "pairs_per_step": 4, "dtype": "float32", "share": 0.0}
    races = [
        {**RACE, **small, "name": "tiny", "budgets": [64, 256], "batches": [2, 4]},
        {**LOSSES, **small, "name": "losses", "distinct": 8, "epochs": 2, "steps": 4, "budgets": [64, 256],
         "batches": [4, 2], "learning_rate": 5e-3},
    ]  # fmt: skip
    checks = [
        {"do": "machine", "name": "machine", "size": 64, "share": 0.0},
        {**CHECK, "do": "golden", "name": "losses as on the CPU", "share": 0.0},
        {**CHECK, "do": "resume", "name": "resume", "share": 0.0},
        {**CHECK, "do": "probe", "name": "probe, float32", "share": 0.0},
        {**CHECK, "do": "probe", "name": "probe, bfloat16", "dtype": "bfloat16", "share": 0.0},
    ]
    learn = {**CHECK, "do": "learn", "name": "learn", "share": 0.0}
    return {"ours": [*checks, *races, learn], "trl": races}


def give_deadlines(jobs: Sequence[Job], start: float, end: float) -> list[Job]:
    """Deadlines in the order of the jobs, by their shares of the time; without shares, the end for all."""
    total = sum(job["share"] for job in jobs)
    done, timed = 0.0, []
    for job in jobs:
        done += job["share"]
        timed.append({**job, "begins": start, "deadline": start + (end - start) * done / total if total else end})
    return timed


def read_lines(path: Path) -> list[Job]:
    """What a child has reported; a last line that is not whole is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Side:
    """A side's jobs, done in one process as far as it holds; what it reports goes into the document at once."""

    def __init__(self, name: str, command: Sequence[str], device: str, document: Job, out: Path) -> None:
        self.name, self.command, self.device, self.document, self.out = name, command, device, document, out

    def run(self, jobs: Sequence[Job], end: float) -> None:
        """Run the jobs; a process that dies or hangs is replaced for the jobs after the one that it died in."""
        left = list(jobs)
        with tempfile.TemporaryDirectory() as scratch:
            for turn in range(len(jobs)):
                if not left or time.time() > end:
                    break
                file, lines = Path(scratch) / f"{turn}.json", Path(scratch) / f"{turn}.jsonl"
                file.write_text(json.dumps(left), encoding="utf-8")
                code = self._watch([*self.command, str(file), str(lines), self.device], lines, end)
                done = {line["job"] for line in read_lines(lines) if "finished" in line}
                broken = next((job for job in left if job["name"] not in done), None)
                if broken is None:
                    return
                self._add([{"job": broken["name"], "failed": f"the process ended with code {code}"}])
                left = left[left.index(broken) + 1 :]
        for job in left:
            self._add([{"job": job["name"], "skipped": "no time is left"}])

    def _watch(self, command: Sequence[str], lines: Path, end: float) -> int:
        path = [str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                       "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}  # fmt: skip
        process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
        seen = 0
        while True:
            code = process.poll()
            found = read_lines(lines)
            self._add(found[seen:])
            seen = len(found)
            if code is not None:
                return code
            deadline = next((line["deadline"] for line in reversed(found) if "started" in line), end)
            if time.time() > min(deadline, end) + GRACE:
                process.kill()
            time.sleep(0.2)

    def _add(self, lines: Sequence[Job]) -> None:
        for line in lines:
            if "started" in line or "finished" in line:
                continue
            self.document["results"].append({"by": self.name, **line})
            print(short(line, self.name), flush=True)
        if lines:
            temporary = self.out.with_suffix(".part")
            temporary.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.out)


# --- what is printed --------------------------------------------------------------------------------------------------


def short(line: Job, side: str) -> str:
    """One result as a line for people."""
    head = f"{line['job']:22s} {side:4s} "
    if "skipped" in line or "failed" in line:
        return head + (f"skipped: {line['skipped']}" if "skipped" in line else f"FAILED: {line['failed']}")
    way = " ".join(f"{key}={value}" for key, value in line.get("way", {}).items())
    if line.get("out_of_memory"):
        return f"{head}{way}: out of memory"
    if "pairs_per_second" in line:
        return (f"{head}{way}: {line['pairs_per_second']:.2f} pairs/s, {line['tokens_per_second']:,.0f} tokens/s, "
                f"{line['needed_tflops']:.1f} needed TFLOP/s, {line['peak_gb']:.1f} GB")  # fmt: skip
    if "kinds" in line:
        parts = sorted(line["kinds"]["seconds"].items(), key=lambda item: -item[1])
        wall = line["kinds"]["wall"]
        return f"{head}{way}: " + ", ".join(f"{kind} {100 * value / wall:.0f}%" for kind, value in parts)
    if "losses" in line and "way" in line:
        return f"{head}{way}: losses {line['losses'][0]:.5f} to {line['losses'][-1]:.5f}"
    if "ok" in line:
        rest = {k: v for k, v in line.items() if k not in ("job", "ok", "losses", "cpu", "output", "log")}
        return f"{head}{'ok' if line['ok'] else 'NOT OK'}: {rest}"
    return f"{head}{ {k: v for k, v in line.items() if k != 'job'} }"


def compare(results: Sequence[Job]) -> Job:
    """What is claimed: speed, use of the card and memory of both sides at their best, and how far losses differ."""
    rate = next((line["matrix_tflops"] for line in results if "matrix_tflops" in line), None)
    raced = [line for line in results if "pairs_per_second" in line]
    found: Job = {}
    for name in dict.fromkeys(line["job"] for line in raced):
        lines = [line for line in raced if line["job"] == name]
        ours = max((x for x in lines if x["by"] == "ours"), key=lambda x: x["pairs_per_second"], default=None)
        live = [x for x in lines if x["by"] == "trl" and not x["way"].get("precomputed")]
        before = [x for x in lines if x["by"] == "trl" and x["way"].get("precomputed")]
        row: Job = {}
        if ours is not None:
            row["ours"] = {"way": ours["way"], "pairs_per_second": ours["pairs_per_second"], "peak_gb": ours["peak_gb"],
                           "with_reference": ours["pairs_per_second_with_reference"],
                           "mfu": ours["needed_tflops"] / rate if rate else None}  # fmt: skip
        for key, rows, mine in (
            ("live", live, "pairs_per_second_with_reference"),
            ("precomputed", before, "pairs_per_second"),
        ):
            theirs = max(rows, key=lambda x: x["pairs_per_second"], default=None)
            if theirs is None:
                continue
            row[f"trl {key}"] = {"way": theirs["way"], "pairs_per_second": theirs["pairs_per_second"],
                                 "peak_gb": theirs["peak_gb"], "mfu": theirs["needed_tflops"] / rate if rate else None}  # fmt: skip
            if ours is not None:
                row[f"speed over trl {key}"] = ours[mine] / theirs["pairs_per_second"]
                row[f"memory of trl {key}"] = ours["peak_gb"] / theirs["peak_gb"] if theirs["peak_gb"] else None
        found[name] = row
    found["losses"] = loss_differences(results)
    return found


def loss_differences(results: Sequence[Job]) -> Job:
    """Largest difference in the losses of a step between two runs: ours and TRL's, and each with itself in another split."""
    runs = [line for line in results if line["job"] == "losses" and "way" in line and "losses" in line]
    found: Job = {}
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            gaps = [abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True)]
            key = f"{a['by']} {a['way']} and {b['by']} {b['way']}"
            found[key] = {"largest": max(gaps), "mean": sum(gaps) / len(gaps), "first": gaps[0]}
    return found


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file of all that is measured")
    parser.add_argument("--minutes", type=float, default=8.5, help="time for everything (default: 8.5)")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, for a CPU")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda, with --tiny cpu")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="an interpreter that has TRL; 'none' leaves it out"
    )
    parser.add_argument("--weights", help="directory of SmolLM2-135M; without it its shape has random weights")
    parser.add_argument("--only", action="append", help="part by name; repeatable (default: all)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Job:
    options = arguments(argv)
    device = options.device or ("cpu" if options.tiny else "cuda")
    start = time.time()
    end = start + 60 * options.minutes
    document: Job = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": device, "results": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sides = tiny_plan() if options.tiny else plan(options.weights)
    if options.only:
        sides = {name: [job for job in jobs if job["name"] in options.only] for name, jobs in sides.items()}
    if options.peer_python == "none":
        sides["trl"] = []
    total = sum(job["share"] for jobs in sides.values() for job in jobs)
    begin = start
    for name, script, python in (("ours", "gpu_ours.py", sys.executable), ("trl", "gpu_peer.py", options.peer_python)):
        part = sum(job["share"] for job in sides[name]) / total if total else 0.5
        stop = end if name == "trl" else start + (end - start) * part
        jobs = give_deadlines(sides[name], begin, stop)
        Side(name, [python, str(HERE / script)], device, document, options.out).run(jobs, stop)
        begin = time.time()
    document["comparison"] = compare(document["results"])
    document["seconds"] = time.time() - start
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["comparison"], indent=1))
    return document


if __name__ == "__main__":
    main()
