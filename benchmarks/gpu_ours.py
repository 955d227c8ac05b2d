"""Our preference step on the rows of `gpu.py`: races, checks on the device, and what a step's time goes into."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from gpu_kinds import step_kinds
from gpu_work import (
    ALPHA,
    BETA,
    RANK,
    SHAPES,
    TARGETS,
    Jobs,
    build,
    child,
    fingerprint,
    fresh,
    lengths_of,
    matrix_rate,
    needed_work,
    peak_gb,
    random_rows,
    seed_adapter,
    versions,
    wait,
)
from lifealign.core.config import RunConfig, TrainConfig
from lifealign.core.progress import NullProgress
from lifealign.memory import session as session_module
from lifealign.memory.session import Session
from lifealign.model.adapters import dropout_off, restore, snapshot
from lifealign.model.base import BaseModel
from lifealign.model.compiling import leave_uncompiled
from lifealign.model.encoding import EncodedPair
from lifealign.model.frozen_linear import freeze
from lifealign.model.logp_cache import ReferenceCache
from lifealign.model.logps import PADDING, probe, token_logps
from lifealign.model.packing import pack_pairs
from lifealign.model.rounding import in_float32, rms, widened
from lifealign.testing import save_tiny_model, tiny_rows, tiny_tokenizer
from lifealign.training.loop import Loop, Stage, train_stage
from lifealign.training.pair_losses import dpo_loss, focal_dpo_loss

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "trl", "liger_kernel", "datasets", "numpy")


def no_losses(rows: Sequence[Any]) -> Any:
    """Losses on stored rows, which plain sequential training never asks for."""
    return iter(())


def pairs_of(job: Mapping[str, Any], count: int) -> list[EncodedPair]:
    """The rows of a job as our training reads them."""
    rows = random_rows(job["rows"], count, SHAPES[job["shape"]].vocabulary)
    return [
        EncodedPair(tuple(p), tuple(c), tuple(r), False, False, f"{job['rows']}:{i}", position=i)
        for i, (p, c, r) in enumerate(rows)
    ]


def open_session(job: Mapping[str, Any], device: str) -> Session:
    """A session on the job's base model, put in the place of the loader; everything else is as in `lifealign learn`."""
    config = RunConfig.model_validate(
        {
            "memory": "unused",
            "model": {"name": job["shape"], "dtype": job["dtype"]},
            "lora": {"r": RANK, "alpha": ALPHA, "target_modules": TARGETS},
            "strategy": {"name": "sequential", "loss": "dpo", "beta": BETA},
            "train": {"epochs": 1, "pairs_per_step": job["pairs_per_step"], "warmup": 0.0,
                      "learning_rate": job["learning_rate"]},
        }
    )  # fmt: skip
    model = build(job, device)
    freeze(model)
    base = BaseModel(model, tiny_tokenizer(), "chat", {"weights": "random", "dtype": job["dtype"]})
    with patch.object(session_module, "load_base", lambda _: base):
        opened = Session(config, NullProgress())
    opened.view.cache = ReferenceCache(None)
    seed_adapter(opened.model)
    return opened


def with_budget(opened: Session, budget: int | str, device: str) -> TrainConfig:
    """Set the columns of a packed row, by the option that this device reads; `8192 compiled` also compiles the layers."""
    columns, _, compiled = str(budget).partition(" ")
    value = int(columns) if columns.isdigit() else columns
    name = "gpu_tokens_per_pack" if device == "cuda" else "tokens_per_pack"
    way = {"compile": "always" if compiled else "never"} if device == "cuda" else {}
    train = opened.config.train.model_copy(update={name: value, **way})
    opened.config = opened.view.config = opened.config.model_copy(update={"train": train})
    return train


def open_loop(opened: Session, pairs: Sequence[EncodedPair], checkpoints: Path | None = None) -> Loop:
    """The loop of `lifealign learn` for these pairs."""
    train, shared = opened.config.train, opened.view.shared_prefix(pairs)
    if train.compile == "never":
        leave_uncompiled(opened.base.model)
    opened.view.compile_layers(pairs, train.epochs)
    loop = Loop("gpu", opened.model, opened.strategy, train, 0, shared, opened.accelerator, checkpoints)
    loop.tokens_per_pack = opened.view.tokens_per_pack(pairs)
    return loop


def stage_of(loop: Loop, pairs: Sequence[EncodedPair], reference: torch.Tensor, epochs: int = 1) -> Stage:
    """All pairs in their order, at a constant rate."""
    size, order = loop.config.pairs_per_step, list(range(len(pairs)))
    windows = [order[i : i + size] for i in range(0, len(order), size)] * epochs
    made = loop.stage("preference", 1, loop.config.learning_rate, pairs, reference, no_losses)
    return replace(made, windows=windows, rates=[loop.config.learning_rate] * len(windows))


# --- races ------------------------------------------------------------------------------------------------------------


def measure(opened: Session, job: Mapping[str, Any], budget: int | str, device: str) -> dict[str, Any]:
    """Time our step with one budget: steps to warm up, then the timed ones; and the reference of the timed rows."""
    warm, timed, size = job["warm"], job["steps"], job["pairs_per_step"]
    pairs = pairs_of(job, size * (warm + timed))
    first, rest = pairs[: size * warm], pairs[size * warm :]
    restore(opened.model, opened.initial)
    seed_adapter(opened.model)
    fresh(device)
    with_budget(opened, budget, device)
    started = time.perf_counter()
    loop = open_loop(opened, pairs)
    # Kernels are compiled for each width of a row: where lengths differ, the timed rows are gone through as well.
    known = first if len(set(lengths_of(job["rows"], len(pairs)))) == 1 else pairs
    train_stage(loop, stage_of(loop, known, opened.view.logps(known, base=True, title="reference")))
    wait(device)
    warm_seconds = time.perf_counter() - started
    fresh(device)
    started = time.perf_counter()
    reference = opened.view.logps(rest, base=True, title="reference")
    wait(device)
    reference_seconds = time.perf_counter() - started
    reference_peak = peak_gb(device)
    stage = stage_of(loop, rest, reference)
    started = time.perf_counter()
    train_stage(loop, stage)
    wait(device)
    seconds = time.perf_counter() - started
    work = needed_work(SHAPES[job["shape"]], lengths_of(job["rows"], len(pairs))[len(first) :])
    return {
        "tokens_per_pack": loop.tokens_per_pack,
        "shared_prefix": loop.shared_prefix,
        "pairs_per_second": len(rest) / seconds,
        "pairs_per_second_with_reference": len(rest) / (seconds + reference_seconds),
        "tokens_per_second": work["tokens"] / seconds,
        "columns_per_second": work["columns"] / seconds,
        "needed_tflops": work["train"] / seconds / 1e12,
        "reference_needed_tflops": work["reference"] / reference_seconds / 1e12,
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "pairs": len(rest),
        "warm_seconds": warm_seconds,
        "peak_gb": peak_gb(device),
        "reference_peak_gb": reference_peak,
        "losses": [float(line["loss"]) for line in loop.log],
        "fingerprint": fingerprint(opened.model),
    }


def race(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """Every budget, then the kinds of kernel of a step with the best one."""
    opened = open_session(job, device)
    found: dict[int | str, float] = {}
    too_many: float = math.inf
    for budget in jobs.affordable(job, [b for b in job["budgets"] if device == "cuda" or isinstance(b, int)]):
        if isinstance(budget, int) and budget > too_many:
            jobs.emit(side="ours", way={"budget": budget}, skipped=f"{too_many} columns did not fit")
            continue
        started = time.time()
        try:
            values = measure(opened, job, budget, device)
        except torch.OutOfMemoryError:
            jobs.emit(side="ours", way={"budget": budget}, out_of_memory=True, wall=time.time() - started)
            too_many = budget if isinstance(budget, int) else too_many
            opened.model.zero_grad(set_to_none=True)
            continue
        found[budget] = values["pairs_per_second"]
        jobs.emit(side="ours", way={"budget": budget}, **values, wall=time.time() - started)
    if not found:
        return
    best = max(found, key=lambda b: found[b])
    for _ in jobs.affordable(job, ["kinds of kernel"]):
        with_budget(opened, best, device)
        pairs = pairs_of(job, job["pairs_per_step"])
        loop = open_loop(opened, pairs)
        stage = stage_of(loop, pairs, opened.view.logps(pairs, base=True, title="reference"))
        kinds = step_kinds(functools.partial(train_stage, loop, stage), device)
        jobs.emit(side="ours", way={"budget": best}, kinds=kinds)


def losses(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """Losses of the first steps from the seeded adapter, by budget."""
    opened = open_session(job, device)
    pairs = pairs_of(job, job["distinct"])
    for budget in jobs.affordable(job, job["budgets"]):
        restore(opened.model, opened.initial)
        seed_adapter(opened.model)
        with_budget(opened, budget, device)
        loop = open_loop(opened, pairs)
        reference = opened.view.logps(pairs, base=True, title="reference")
        train_stage(loop, stage_of(loop, pairs, reference, job["epochs"]))
        lines = [float(line["loss"]) for line in loop.log]
        jobs.emit(side="ours", way={"budget": budget}, losses=lines, fingerprint=fingerprint(opened.model))


# --- checks -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_probe(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """What the probe decides, and how far packed and plain rows are from float32, in nats a token."""
    opened = open_session(job, device)
    for parameter in opened.model.parameters():  # with B zero the adapter would not be in the comparison
        if parameter.requires_grad:
            parameter.add_(0.02 * torch.randn(parameter.shape).to(parameter.device))
    pairs = pairs_of(job, 6)
    packs = [pack_pairs(pairs, [i], shared_prefix=False) for i in range(len(pairs))]
    model, where = opened.model, opened.accelerator.device

    def plain(extra: int) -> torch.Tensor:
        made = (widened(pack, extra) if extra else pack for pack in packs)
        return torch.cat([token_logps(model, pack.to(where)).token_T for pack in made])

    with dropout_off(model):
        packed_T = token_logps(model, pack_pairs(pairs, range(len(pairs)), shared_prefix=True).to(where)).token_T
        rows_T, padded_T = plain(0), plain(PADDING)
        with in_float32(model):
            exact_T = plain(0)
    refused = probe(model, pairs)
    jobs.emit(
        ok=refused is None,
        refused=refused,
        dtype=job["dtype"],
        packed_rms=rms(packed_T - exact_T),
        plain_rms=rms(rows_T - exact_T),
        padded_rms=rms(padded_T - exact_T),
        packed_mean_difference=float((packed_T - rows_T).abs().mean()),
        tokens=len(exact_T),
    )


def few_steps(job: Mapping[str, Any], device: str, checkpoints: Path | None, stop: int = 0) -> tuple[list[float], Any]:
    """Losses and trained tensors of a short run; `stop` kills it after so many steps."""
    opened = open_session(job, device)
    config = opened.config.train.model_copy(update={"checkpoint_every": 1})
    opened.config = opened.view.config = opened.config.model_copy(update={"train": config})
    pairs = pairs_of(job, job["pairs_per_step"] * job["steps"])
    loop = open_loop(opened, pairs, checkpoints)
    stage = stage_of(loop, pairs, opened.view.logps(pairs, base=True, title="reference"))
    if stop:
        loop.progress = Killing(stop)
        try:
            train_stage(loop, stage)
        except KilledError:
            return [], None
    train_stage(loop, stage)
    return [float(line["loss"]) for line in loop.log], snapshot(opened.model)


class KilledError(Exception):
    """Stands for a kill."""


class Killing(NullProgress):
    """Raises after some steps, when their checkpoint is written."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, n: int = 1, **info: Any) -> None:
        """Count a step."""
        self.steps -= 1
        if self.steps == 0:
            raise KilledError


def check_losses(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """The formulas against the golden numbers, the losses of a short run in float32 against the CPU's, its first against ln 2."""
    golden = json.loads((ROOT / "tests" / "golden" / "losses.json").read_text(encoding="utf-8"))
    margin = torch.tensor(golden["reward_margin"], device=device)
    found = {"dpo_loss": dpo_loss(margin), "fpo_loss": focal_dpo_loss(margin, golden["gamma"])}
    formulas = max(float((value.cpu() - torch.tensor(golden[name])).abs().max()) for name, value in found.items())
    here, _ = few_steps(job, device, None)
    there = cpu_losses(job)
    worst = max(abs(a - b) for a, b in zip(here, there, strict=True))
    first = abs(here[0] - math.log(2))
    jobs.emit(
        ok=formulas < 1e-6 and worst < 1e-4 and first < 1e-6,
        formulas=formulas,
        largest_difference=worst,
        first_from_ln2=first,
        losses=here,
        cpu=there,
    )


def cpu_losses(job: Mapping[str, Any]) -> list[float]:
    """The same run in a process that sees no GPU."""
    code = "import json, sys, gpu_ours; print(json.dumps(gpu_ours.few_steps(json.loads(sys.argv[1]), 'cpu', None)[0]))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, json.dumps(dict(job))]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the run on the CPU failed: {done.stderr[-400:]}")
    losses: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return losses


def check_resume(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """A run that is killed half way and goes on, against one that is not."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, expected = few_steps(job, device, Path(scratch) / "whole")
        again, repeated = few_steps(job, device, Path(scratch) / "again")
        few_steps(job, device, Path(scratch) / "killed", stop=job["steps"] // 2)
        resumed, found = few_steps(job, device, Path(scratch) / "killed")

    def furthest(a: Any, b: Any) -> float:
        return max(float((a[name] - b[name]).abs().max()) for name in a)

    jobs.emit(
        ok=resumed == whole and furthest(expected, found) == 0,
        largest_difference=furthest(expected, found),
        losses_equal=resumed == whole,
        same_run_twice=furthest(expected, repeated),
        steps=len(whole),
        again_equal=again == whole,
    )


def check_learn(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """Learn a task by the command line, with the job's weights or a tiny random model, and read it back."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        model = job.get("weights") or str(save_tiny_model(directory / "model"))
        rows, memory = directory / "rows.jsonl", str(directory / "memory")
        rows.write_text("".join(json.dumps(row.to_json()) + "\n" for row in tiny_rows("brief", 48)), encoding="utf-8")
        lifealign = [sys.executable, "-m", "lifealign"]
        learn = [*lifealign, "learn", memory, str(rows), "--name", "brief", "--base-model", model,
                 "--set", f"model.dtype={job['dtype']}"]  # fmt: skip
        started = time.perf_counter()
        learnt = subprocess.run(learn, capture_output=True, text=True, cwd=directory, check=False)
        seconds = time.perf_counter() - started
        log = subprocess.run([*lifealign, "log", memory], capture_output=True, text=True, cwd=directory, check=False)
    jobs.emit(
        ok=learnt.returncode == 0 and log.returncode == 0,
        seconds=seconds,
        model=job.get("weights") or "tiny random model",
        output=(learnt.stdout + learnt.stderr)[-1500:],
        log=log.stdout[-500:],
    )


def machine(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """The card, its measured rates and the versions."""
    card: dict[str, Any] = {"card": platform.processor() or "CPU"}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            smi = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            smi = "nvidia-smi did not answer"
        card = {"card": properties.name, "memory_gb": properties.total_memory / 1e9, "nvidia_smi": smi,
                "cuda": torch.version.cuda}  # fmt: skip
    jobs.emit(**card, **matrix_rate(device, job["size"]), versions=versions(PACKAGES), python=platform.python_version())


WAYS: dict[str, Callable[[Jobs, Mapping[str, Any], str], None]] = {
    "machine": machine,
    "probe": check_probe,
    "golden": check_losses,
    "resume": check_resume,
    "learn": check_learn,
    "race": race,
    "losses": losses,
}

if __name__ == "__main__":
    child(WAYS)
