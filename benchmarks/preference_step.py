"""Our preference step against TRL's DPOTrainer: same rows, same text, same model, same LoRA, side by side.

    python benchmarks/preference_step.py [--rows 32] [--rows-file ROWS.json] [--repeat 3] [--out FILE]

Each side runs in a process of its own, one after the other, so that neither sees the other's threads or memory. TRL
lives in an environment of its own, made at the first run. What is compared:

- float32: TRL with its defaults, which compute the reference during training, for one epoch. Our time includes our
  reference log-probs too.
- bfloat16: TRL with reference log-probs computed before training; neither side's time includes them.
- parity: a few small steps at a large learning rate from the same adapter; the losses of each step, gamma = 0.

`--rows-file` is a JSON list of query, chosen, rejected; without it, rows of the planted suite are used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE.parent / "constraints.txt"
PEER_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets")
BATCH, ACCUMULATE = 4, 4
"""TRL's pairs per forward, and forwards per optimizer step; their product is our `pairs_per_step`."""
ORDER_NAME = "bench"
"""Our row order is a function of the task's name."""
BARS = {
    "float32 speed": "at least 4",
    "bfloat16 speed": "at least 4",
    "float32 memory": "at most 0.2",
    "bfloat16 memory": "at most 0.2",
    "first loss difference": "at most 0.001",
    "later loss difference": "at most 0.001",
}

Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """What both sides do in one case.

    Attributes:
        dtype: of the base weights; the adapter is float32 on our side, TRL decides on its own.
        rows: number of rows, one epoch.
        precompute: TRL computes the reference log-probs before training instead of during it.
        accumulate: forwards of `BATCH` pairs per optimizer step.
        learning_rate: peak.
        scheduler: `linear` (TRL's default) or `cosine` (ours); without warm-up on both sides.
        max_length: tokens of prompt plus one answer.
        threads: of each side.
    """

    dtype: str = "float32"
    rows: int = 32
    precompute: bool = False
    accumulate: int = ACCUMULATE
    learning_rate: float = 5e-6
    scheduler: str = "linear"
    max_length: int = 1024
    threads: int = 2


# --- ours -------------------------------------------------------------------------------------------------------------


def run_ours(model: str, rows: Sequence[Row], job: Job, initial_adapter: Path | None) -> dict[str, Any]:
    """Train one epoch with our preference step; called in a process of its own.

    DPO (gamma = 0), beta 0.1, LoRA r 8, alpha 16 on q_proj and v_proj, AdamW, no warm-up, `BATCH` * `job.accumulate` pairs
    per optimizer step, in the order of `our_order`.

    Args:
        model: directory of the base model.
        rows: in the order of the file, not yet in the order of training.
        job: what to do.
        initial_adapter: PEFT directory to start from; None starts from a seeded adapter of our own.

    Returns:
        ``seconds`` (the optimizer loop), ``reference_seconds`` (reference log-probs), ``losses`` (one per optimizer
        step, mean over its pairs), ``shared_prefix`` (packed rows, or plain ones).
    """
    from safetensors.torch import load_file

    from lifealign.core.config import DataConfig, ModelConfig, RunConfig, StrategyChoice, TrainConfig
    from lifealign.core.progress import NullProgress
    from lifealign.data.tasks import Message
    from lifealign.data.tasks import Row as PreferenceRow
    from lifealign.memory.session import Session
    from lifealign.model.adapters import restore
    from lifealign.model.logp_cache import ReferenceCache
    from lifealign.training.loop import Loop, train_stage

    config = RunConfig(
        model=ModelConfig.model_validate({"name": model, "dtype": job.dtype}),
        data=DataConfig(max_length=job.max_length),
        strategy=StrategyChoice.model_validate({"name": "sequential", "loss": "dpo", "beta": 0.1}),
        train=TrainConfig(epochs=1, learning_rate=job.learning_rate, pairs_per_step=BATCH * job.accumulate, warmup=0.0),
    )
    session = Session(config, NullProgress())
    session.view.cache = ReferenceCache(None)  # a second run would find its reference log-probs there
    if initial_adapter is not None:
        tensors = load_file(initial_adapter / "adapter_model.safetensors")
        restore(
            session.model, {n.removeprefix("base_model.model.").removesuffix(".weight"): t for n, t in tensors.items()}
        )
    task = [PreferenceRow((Message("user", row["query"]),), row["chosen"], row["rejected"]) for row in rows]
    pairs, _ = session.encoder.encode(task)
    started = time.perf_counter()
    shared_prefix = session.view.shared_prefix(pairs)
    reference = session.view.logps(pairs, base=True, title="reference")
    reference_seconds = time.perf_counter() - started
    loop = Loop(ORDER_NAME, session.model, session.strategy, config.train, 0, shared_prefix, session.accelerator)
    stage = loop.stage("preference", 1, job.learning_rate, pairs, reference, lambda _: iter(()))
    started = time.perf_counter()
    train_stage(loop, stage)
    seconds = time.perf_counter() - started
    losses = [float(line["loss"]) for line in loop.log]
    return {
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "losses": losses,
        "shared_prefix": shared_prefix,
    }


def our_order(count: int) -> list[int]:
    """The order in which `run_ours` trains on `count` rows; TRL is given the rows in this order."""
    from lifealign.training.schedule import row_order

    return row_order(0, ORDER_NAME, "preference", 0, count)


def ours_main(options: argparse.Namespace) -> None:
    """The child process of our side: train, print one JSON line."""
    import torch

    job = Job(**json.loads(options.ours_job))
    torch.set_num_threads(job.threads)
    rows = json.loads(options.rows_file.read_text(encoding="utf-8"))
    result = run_ours(options.model, rows, job, options.initial_adapter)
    unit = 1 if sys.platform == "darwin" else 1024
    result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    print(json.dumps(result))


# --- both sides in processes of their own -----------------------------------------------------------------------------


def peer_environment(path: Path) -> Path:
    """The interpreter of TRL's environment, which is made at the first use and when the pins change."""
    python = path / "bin" / "python"
    stamp = path / "ready"
    pins = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == pins:
        return python
    say(f"making TRL's environment in {path}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", path], check=True)
    install: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-compile"]
    subprocess.run([*install, "-c", CONSTRAINTS, *PEER_PACKAGES], check=True)
    stamp.write_text(pins)
    return python


def run_process(command: Sequence[object], label: str, threads: int) -> dict[str, Any]:
    """Run one side and read the JSON on its last line; what it writes to stderr is shown if it fails."""
    started = time.perf_counter()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{label} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    say(
        f"{label}: {result['seconds']:.1f} s, {result['peak_rss_gb']:.2f} GB ({time.perf_counter() - started:.0f} s in all)"
    )
    return result


def run_case(
    name: str, job: Job, rows: Sequence[Row], model: str, python: Path, scratch: Path, *, same_adapter: bool = False
) -> dict[str, Any]:
    """One case: TRL, then ours, on the same rows."""
    taken = list(rows[: job.rows])
    if len(taken) < job.rows:
        sys.exit(f"{job.rows} rows asked for, {len(taken)} given")
    ours_rows, peer_rows = scratch / f"{name}-ours.json", scratch / f"{name}-peer.json"
    ours_rows.write_text(json.dumps(taken), encoding="utf-8")
    peer_rows.write_text(json.dumps([taken[i] for i in our_order(len(taken))]), encoding="utf-8")
    adapter = ["--save-initial-adapter", scratch / name] if same_adapter else []
    peer_options = ["--dtype", job.dtype, "--batch", BATCH, "--accumulate", job.accumulate, "--learning-rate",
                    job.learning_rate, "--scheduler", job.scheduler, "--max-length", job.max_length, "--threads",
                    job.threads, *(["--precompute"] if job.precompute else []), *adapter]  # fmt: skip
    peer_command = [python, HERE / "peer_trl.py", model, peer_rows, *peer_options]
    peer = run_process(peer_command, f"{name}, TRL", job.threads)
    ours_command = [sys.executable, Path(__file__), "--ours-job", json.dumps(asdict(job)), "--model", model,
                    "--rows-file", ours_rows, *(["--initial-adapter", scratch / name] if same_adapter else [])]  # fmt: skip
    ours = run_process(ours_command, f"{name}, ours", job.threads)
    return {"job": asdict(job), "trl": peer, "ours": ours}


# --- the comparison ---------------------------------------------------------------------------------------------------


def ratios(cases: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Medians over the repeats of what is compared; see the module's docstring for what the times include."""

    def median(case: str, side: str, *keys: str) -> float:
        return statistics.median(sum(float(run[side][key]) for key in keys) for run in cases[case])

    found = {
        "float32 speed": median("float32", "trl", "seconds")
        / median("float32", "ours", "seconds", "reference_seconds"),
        "float32 memory": median("float32", "ours", "peak_rss_gb") / median("float32", "trl", "peak_rss_gb"),
    }
    if "bfloat16" in cases:
        found["bfloat16 speed"] = median("bfloat16", "trl", "seconds") / median("bfloat16", "ours", "seconds")
        found["bfloat16 memory"] = median("bfloat16", "ours", "peak_rss_gb") / median("bfloat16", "trl", "peak_rss_gb")
    found["first loss difference"] = max(
        abs(run["ours"]["losses"][0] - run["trl"]["losses"][0]) for runs in cases.values() for run in runs
    )
    found["later loss difference"] = max(
        abs(a - b) for run in cases["parity"] for a, b in zip(run["ours"]["losses"], run["trl"]["losses"], strict=True)
    )
    return found


def verdict(name: str, value: float) -> str:
    """One line: the value, the bar, and whether it is met."""
    sense, number = BARS[name].rsplit(" ", 1)
    met = value >= float(number) if sense == "at least" else value <= float(number)
    return f"{name:24s} {value:10.4g}   {BARS[name]:15s} {'met' if met else 'MISSED'}"


def planted_rows(count: int) -> list[Row]:
    """Rows of the planted suite, task after task in turn."""
    from lifealign.data.suites.planted import planted_stream

    tasks = planted_stream().tasks
    mixed = [row for rows in zip(*(task.train for task in tasks), strict=False) for row in rows]
    return [{"query": row.prompt[-1].content, "chosen": row.chosen, "rejected": row.rejected} for row in mixed[:count]]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="directory of the base model, or a built-in name")
    parser.add_argument("--rows-file", type=Path, help="JSON list of query, chosen, rejected")
    parser.add_argument("--rows", type=int, default=32, help="pairs in float32; a multiple of 16 (default: 32)")
    parser.add_argument(
        "--bf16-rows",
        type=int,
        help="pairs in bfloat16; 0 leaves the case out (default: as in float32 where this processor multiplies bfloat16 faster, else 0)",
    )
    parser.add_argument("--parity-rows", type=int, default=16, help="pairs for the losses, 4 a step (default: 16)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each case; medians are compared (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="of each side (default: 2)")
    parser.add_argument("--env", type=Path, help="TRL's environment (default: in the user's cache)")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has TRL, instead of --env")
    parser.add_argument("--out", type=Path, help="write everything measured as JSON")
    # For the child process of our side.
    parser.add_argument("--ours-job", help=argparse.SUPPRESS)
    parser.add_argument("--initial-adapter", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.ours_job is not None:
        ours_main(options)
        return
    from lifealign.core.files import cache_dir
    from lifealign.model.base import resolve_dtype
    from lifealign.model.names import WHEELS
    from lifealign.model.wheels import wheel_model

    if options.bf16_rows is None:
        options.bf16_rows = options.rows if resolve_dtype("auto") == "bfloat16" else 0
        if not options.bf16_rows:
            say(
                "bfloat16 is left out: this processor multiplies it slower than float32 (--bf16-rows N measures it all the same)"
            )
    python = options.peer_python or peer_environment(options.env or cache_dir() / "bench-trl")
    model = wheel_model(options.model) if options.model in WHEELS else options.model
    most = max(options.rows, options.bf16_rows, options.parity_rows)
    rows = json.loads(options.rows_file.read_text(encoding="utf-8")) if options.rows_file else planted_rows(most)
    plain = Job(rows=options.rows, threads=options.threads)
    jobs = {
        "float32": plain,
        "parity": replace(plain, rows=options.parity_rows, accumulate=1, learning_rate=1e-3, scheduler="cosine"),
    }
    if options.bf16_rows:
        jobs["bfloat16"] = replace(plain, rows=options.bf16_rows, dtype="bfloat16", precompute=True)
    cases: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(options.repeat):
            for name, job in jobs.items():
                same = name == "parity"
                cases[name].append(run_case(name, job, rows, model, python, Path(scratch), same_adapter=same))
    found = ratios(cases)
    print("\n".join(verdict(name, value) for name, value in found.items()))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        source = str(options.rows_file) if options.rows_file else "planted suite"
        document = {"machine": machine(), "model": options.model, "rows": source, "ratios": found, "cases": cases}
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
