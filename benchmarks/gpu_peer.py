"""TRL's DPOTrainer on the rows of `gpu.py`; imports nothing of ours, so that it can run in an environment of its own.

Tuned in its favour: bfloat16 as its own default has it (autocast, LoRA factors in float32), its fused head, Liger's layer
kernels where they are installed, the largest batches that fit, no logging during a race, the rows of each optimizer
step sorted by length. Rows are token ids, so its tokenizing is left out.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

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
    needed_work,
    peak_gb,
    random_rows,
    seed_adapter,
    wait,
)


class Tokenized(DPOTrainer):  # type: ignore[misc]
    """A DPOTrainer whose rows are token ids already."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """When each optimizer step ended, the device having finished it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        wait(self.device)
        self.ends.append(time.perf_counter())


def tokenizer() -> Any:
    """A tokenizer that only names the pad token; no text is tokenized."""
    made = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def dataset(job: Mapping[str, Any], count: int, step: int) -> Any:
    """The rows, in the order of training; within an optimizer step sorted by length, which saves TRL padding."""
    rows = random_rows(job["rows"], count, SHAPES[job["shape"]].vocabulary)
    rows = rows * int(job.get("epochs", 1))
    ordered = []
    for start in range(0, len(rows), step):
        ordered += sorted(rows[start : start + step], key=lambda r: len(r[0]) + max(len(r[1]), len(r[2])))
    return Dataset.from_list([{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in ordered])


def trainer(job: Mapping[str, Any], way: Mapping[str, Any], steps: int, device: str, scratch: str) -> tuple[Any, Any]:
    """A trainer on a fresh model, and its clock."""
    pairs = job["pairs_per_step"]
    rows = dataset(job, job.get("distinct", pairs * steps), pairs)
    clock = StepTimes(device)
    config = DPOConfig(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=way["batch"],
        gradient_accumulation_steps=max(1, pairs // way["batch"]),
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        beta=BETA,
        max_length=None,
        gradient_checkpointing=way.get("checkpointing", False),
        use_liger_kernel=way.get("liger", False),
        bf16=job["dtype"] == "bfloat16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        save_strategy="no",
        logging_steps=1 if job["do"] == "losses" else 1000,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    made = Tokenized(
        model=build(job, device),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer(),
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    seed_adapter(made.model)
    return made, clock


def add_reference(made: Any, device: str) -> float:
    """Compute the reference log-probs of all rows as TRL does before training; returns the seconds.

    TRL's own call also hashes all weights, to name a cache file; that is left out.
    """
    batches = made.get_train_dataloader()
    wait(device)
    started = time.perf_counter()
    found = [[part.float().cpu() for part in made.compute_ref_log_probs(made.model, batch)] for batch in batches]
    seconds = time.perf_counter() - started
    chosen, rejected = (torch.cat(parts).tolist() for parts in zip(*found, strict=True))
    made.train_dataset = made.train_dataset.add_column("ref_chosen_logps", chosen).add_column(
        "ref_rejected_logps", rejected
    )
    made.precompute_ref_logps = True
    return seconds


def measure(job: Mapping[str, Any], way: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Time one way of running TRL: steps to warm up, then the timed ones."""
    warm, timed, pairs = job["warm"], job["steps"], job["pairs_per_step"]
    fresh(device)
    with tempfile.TemporaryDirectory() as scratch:
        made, clock = trainer(job, way, warm + timed, device, scratch)
        reference = add_reference(made, device) if way.get("precomputed") else None
        fresh(device)
        started = time.perf_counter()
        made.train()
    seconds = clock.ends[warm + timed - 1] - clock.ends[warm - 1]
    lengths = lengths_of(job["rows"], pairs * (warm + timed))[pairs * warm :]
    work = needed_work(SHAPES[job["shape"]], lengths)
    return {
        "pairs_per_second": pairs * timed / seconds,
        "tokens_per_second": work["tokens"] / seconds,
        "needed_tflops": (work["train"] + (0 if way.get("precomputed") else work["reference"])) / seconds / 1e12,
        "seconds": seconds,
        "pairs": pairs * timed,
        "warm_seconds": clock.ends[warm - 1] - started,
        "reference_pairs_per_second": None if reference is None else pairs * (warm + timed) / reference,
        "peak_gb": peak_gb(device),
        "attention": made.model.config._attn_implementation,
        "fingerprint": fingerprint(made.model),
    }


def attempt(jobs: Jobs, job: Mapping[str, Any], way: Mapping[str, Any], device: str) -> float | None:
    """Measure one way and report it; returns pairs per second, 0 if the memory does not suffice, None if it fails."""
    started = time.time()
    try:
        found = measure(job, way, device)
    except torch.OutOfMemoryError:
        jobs.emit(side="trl", way=dict(way), out_of_memory=True, wall=time.time() - started)
        return 0.0
    except Exception as error:  # Liger's kernels do not go with every version of transformers
        jobs.emit(side="trl", way=dict(way), failed=f"{type(error).__name__}: {str(error)[:600]}")
        return None
    jobs.emit(side="trl", way=dict(way), **found, wall=time.time() - started)
    return float(found["pairs_per_second"])


def race(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """Tune TRL: batches until the memory is full, Liger off, checkpointing on, references computed before."""
    liger = bool(importlib.util.find_spec("liger_kernel")) and device == "cuda"
    found: dict[int, float] = {}
    for batch in jobs.affordable(job, job["batches"]):
        rate = attempt(jobs, job, {"batch": batch, "liger": liger}, device)
        if rate is None and liger:
            liger = False
            rate = attempt(jobs, job, {"batch": batch, "liger": False}, device)
        found[batch] = rate or 0.0
        if found[batch] == 0.0 or found[batch] < 0.9 * max(found.values()):
            break
    fits = [batch for batch, rate in found.items() if rate]
    best = {"batch": max(fits, key=lambda b: found[b]) if fits else job["batches"][0], "liger": liger}
    kept = {"checkpointing": True} if not fits else {}
    more: list[dict[str, Any]] = [{**best, **kept}] if kept else []
    more.append({**best, **kept, "precomputed": True})
    if liger:
        more.append({**best, **kept, "liger": False})
    more.append({"batch": 2 * best["batch"], "liger": liger, "checkpointing": True})
    for way in jobs.affordable(job, more):
        attempt(jobs, job, way, device)


def losses(jobs: Jobs, job: Mapping[str, Any], device: str) -> None:
    """Losses of the first steps, from the seeded adapter, in several splits of an optimizer step into batches."""
    for batch in jobs.affordable(job, job["batches"]):
        fresh(device)
        with tempfile.TemporaryDirectory() as scratch:
            made, _ = trainer(job, {"batch": batch}, job["steps"], device, scratch)
            made.train()
        lines = [float(line["loss"]) for line in made.state.log_history if "loss" in line]
        jobs.emit(side="trl", way={"batch": batch}, losses=lines, fingerprint=fingerprint(made.model))


WAYS: dict[str, Callable[[Jobs, Mapping[str, Any], str], None]] = {"race": race, "losses": losses}

if __name__ == "__main__":
    child(WAYS)
