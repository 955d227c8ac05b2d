"""What both sides of `gpu.py` share: shapes of models, rows, the work that a step needs, and how results are handed over.

Imports torch and transformers alone, so that either side can run in an environment of its own.

Shapes: N pairs, C columns (a pair's prompt once, both answers without their last tokens), T answer tokens.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA, BETA = 16, 32, 0.1
Lengths = tuple[int, int, int]
"""Tokens of prompt, chosen and rejected answer."""
LONG: Lengths = (512, 256, 256)
# Lengths of 96 rows of hh-rlhf-helpful-base, drawn at random, with SmolLM2's tokenizer and chat template.
HH_TEXT = """
256 25 8,119 107 61,190 42 13,210 37 50,73 43 49,43 38 7,170 67 25,165 32 41,207 45 22,108 45 11,656 34 8,40 99 60,
48 82 30,160 67 42,41 65 112,40 224 7,194 72 75,40 8 29,34 218 27,231 30 46,210 75 37,216 121 38,100 25 38,39 75 116,
41 187 14,113 12 11,45 147 54,133 176 76,36 61 40,227 144 42,408 20 15,236 61 31,41 143 8,38 90 14,41 122 56,113 60 20,
37 148 34,253 17 23,308 99 65,525 17 27,80 9 56,36 41 28,116 11 30,36 12 27,41 57 33,124 10 41,198 31 71,247 16 26,
516 7 75,77 57 28,181 31 87,254 39 73,237 75 36,57 45 92,45 77 7,139 38 46,169 17 26,234 29 30,68 7 11,150 13 19,
157 23 53,81 24 100,216 132 26,312 107 29,237 25 12,55 49 34,37 111 10,372 13 10,316 78 11,39 56 11,153 104 27,
45 167 53,42 101 68,36 25 30,40 3 18,41 89 14,208 52 8,326 37 56,76 84 47,57 52 7,43 49 260,38 10 17,187 30 6,210 40 22,
227 206 218,287 22 97,260 29 9,96 125 37,218 4 13,41 173 45,381 46 53,261 3 16,83 8 41,125 61 7,182 99 54,292 6 12
"""
HH: tuple[Lengths, ...] = tuple((int(a), int(b), int(c)) for a, b, c in (row.split() for row in HH_TEXT.split(",")))
TINY: tuple[Lengths, ...] = ((12, 6, 5), (9, 4, 7), (15, 8, 8), (7, 3, 6))
ROWS: dict[str, tuple[Lengths, ...]] = {"long": (LONG,), "hh": HH, "tiny": TINY}


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with gated MLP and grouped heads."""

    kind: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    theta: float = 10000.0

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear modules of one layer."""
        d, kv = self.hidden, self.key_heads * self.head
        return {"q_proj": (d, d), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (d, d),
                "gate_proj": (d, self.mlp), "up_proj": (d, self.mlp), "down_proj": (self.mlp, d)}  # fmt: skip


SHAPES = {
    "tiny": Shape("llama", 64, 128, 2, 4, 2, 300, True),
    "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 49152, True, 100000.0),
    "llama-3.2-1b": Shape("llama", 2048, 8192, 16, 32, 8, 128256, True, 500000.0),
    "qwen2.5-7b": Shape("qwen2", 3584, 18944, 28, 28, 4, 152064, False, 1000000.0),
}


def build(job: Mapping[str, Any], device: str) -> Any:
    """The base model of a job: random weights of its shape, the same on both sides, or the weights at `job["weights"]`."""
    import transformers

    dtype = getattr(torch, job["dtype"])
    if job.get("weights"):
        model = transformers.AutoModelForCausalLM.from_pretrained(job["weights"], dtype=dtype)
        return model.to(device).eval()
    shape = SHAPES[job["shape"]]
    kind = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[shape.kind]
    config = kind(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=4096, tie_word_embeddings=shape.tied, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


@torch.no_grad()
def fingerprint(model: Any) -> float:
    """A number that two models with the same weights share."""
    return float(sum(p.flatten()[:4096].double().abs().sum() for p in model.parameters() if not p.requires_grad))


@torch.no_grad()
def seed_adapter(model: Any) -> None:
    """Give the LoRA factors values that depend on a module's name alone: A uniform in +-1/sqrt(inputs), B zero."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            key = name.removeprefix("base_model.model.").split(".lora_A")[0]
            seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
            generator = torch.Generator().manual_seed(seed)
            values = (torch.rand(parameter.shape, generator=generator) * 2 - 1) / math.sqrt(parameter.shape[1])
            parameter.copy_(values)
        elif "lora_B" in name:
            parameter.zero_()


def lengths_of(rows: str, count: int) -> list[Lengths]:
    """Lengths of `count` rows; a short list is begun again."""
    return [ROWS[rows][i % len(ROWS[rows])] for i in range(count)]


def random_rows(rows: str, count: int, vocabulary: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Token ids of `count` pairs, uniform over the vocabulary but for its first ids; a function of the arguments."""
    generator = torch.Generator().manual_seed(7)
    draw = functools.partial(torch.randint, 8, vocabulary, generator=generator)
    return [(draw((p,)).tolist(), draw((c,)).tolist(), draw((r,)).tolist()) for p, c, r in lengths_of(rows, count)]


# --- the work that a step needs ---------------------------------------------------------------------------------------


def columns(lengths: Lengths) -> int:
    """C of a pair."""
    prompt, chosen, rejected = lengths
    return prompt + chosen - 1 + rejected - 1


def scores(lengths: Lengths) -> int:
    """Pairs of a query and a key that it sees, of one head; the prompt's once."""
    prompt, chosen, rejected = lengths
    answers = ((n - 1) * prompt + n * (n - 1) // 2 for n in (chosen, rejected))
    return prompt * (prompt + 1) // 2 + sum(answers)


def needed_work(shape: Shape, pairs: Sequence[Lengths]) -> dict[str, float]:
    """Floating-point operations that cannot be left out, a product of [m, k] and [k, n] counted as 2 m k n.

    With P weights of the layers' matrices, C columns, T answer tokens, S scores, D width, V vocabulary:

    - forward: 2 P C + 4 S heads head layers + 2 T D V + LoRA 2 r (inputs + outputs) C of each module
    - backward, no gradient of a frozen matrix: 2 P C, less what leads to the embedding alone (q, k and v of the first
      layer), + 8 S heads head layers + 2 T D V + LoRA twice its forward
    - reference: the forward without LoRA

    Norms, rotations, softmax and the optimizer are not counted.
    """
    total_columns = sum(columns(p) for p in pairs)
    tokens = sum(p[1] + p[2] for p in pairs)
    layer = sum(i * o for i, o in shape.modules.values())
    first = sum(i * o for name, (i, o) in shape.modules.items() if name in ("q_proj", "k_proj", "v_proj"))
    lora = 2 * RANK * sum(i + o for i, o in shape.modules.values()) * shape.layers * total_columns
    attention = 4 * sum(scores(p) for p in pairs) * shape.heads * shape.head * shape.layers
    vocabulary = 2 * tokens * shape.hidden * shape.vocabulary
    matrices = 2 * layer * shape.layers * total_columns
    forward = matrices + attention + vocabulary
    train = forward + lora + matrices - 2 * first * total_columns + 2 * attention + vocabulary + 2 * lora
    return {"train": float(train), "reference": float(forward), "columns": float(total_columns),
            "tokens": float(sum(p[0] + p[1] + p[2] for p in pairs))}  # fmt: skip


# --- the device -------------------------------------------------------------------------------------------------------


def wait(device: str) -> None:
    """Return when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: str) -> float:
    """Most memory that tensors took since `fresh`, GB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0


def fresh(device: str) -> None:
    """Give back what is unused, and count the peak from here."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@torch.no_grad()
def matrix_rate(device: str, size: int) -> dict[str, float]:
    """Measured rates: a bfloat16 product of random square matrices, TFLOP/s, and a copy on the device, GB/s read plus written."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    source = torch.randn(size * size, device=device)
    target = torch.empty_like(source)

    def best(call: Callable[[], object], repeats: int = 10) -> float:
        for _ in range(3):
            call()
        wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        wait(device)
        return (time.perf_counter() - started) / repeats

    return {
        "matrix_tflops": 2 * size**3 / best(lambda: a @ b) / 1e12,
        "matrix_size": float(size),
        "copy_gb_per_second": 2 * source.numel() * 4 / best(lambda: target.copy_(source)) / 1e9,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


# --- handing over -----------------------------------------------------------------------------------------------------


class Jobs:
    """The jobs of a child process: each result is appended to a file at once, so that a killed child loses nothing."""

    def __init__(self, jobs: Sequence[Mapping[str, Any]], lines: Path) -> None:
        self.jobs, self.lines, self.current = jobs, lines, ""
        self.shortest = 0.0

    def emit(self, **values: Any) -> None:
        """Append one result of the current job."""
        with self.lines.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"job": self.current, **values}) + "\n")

    def run(self, ways: Mapping[str, Callable[[Jobs, Mapping[str, Any], str], object]], device: str) -> None:
        """Do one job after another; one that fails is reported and does not stop the next."""
        for job in self.jobs:
            self.current, self.shortest = job["name"], 0.0
            if time.time() > job["deadline"]:
                self.emit(skipped="no time is left for this part")
                self.emit(finished=True)
                continue
            self.emit(started=time.time(), deadline=job["deadline"])
            print(f"--- {self.current}", file=sys.stderr, flush=True)
            try:
                ways[job["do"]](self, job, device)
            except Exception as error:
                traceback.print_exc()
                self.emit(failed=f"{type(error).__name__}: {str(error)[:600]}")
            self.emit(finished=True)
            gc.collect()

    def affordable(self, job: Mapping[str, Any], variants: Sequence[Any]) -> Iterator[Any]:
        """The variants of a job, as long as most of one that is as short as the shortest so far still fits."""
        for variant in variants:
            if time.time() + 0.6 * self.shortest > job["deadline"]:
                self.emit(skipped=f"no time is left for {variant}")
                continue
            started = time.time()
            yield variant
            seconds = time.time() - started
            self.shortest = min(self.shortest or seconds, seconds)


def child(ways: Mapping[str, Callable[[Jobs, Mapping[str, Any], str], object]]) -> None:
    """Entry of a child process: arguments are the jobs' file, the file for results and the device."""
    jobs_file, lines, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    jobs = Jobs(after_imports(json.loads(jobs_file.read_text(encoding="utf-8")), time.time()), lines)
    jobs.run(ways, device)


def after_imports(jobs: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """The jobs with the time that is left dealt out anew: importing can take a minute, which the first would pay for alone."""
    end = max((job["deadline"] for job in jobs), default=now)
    start = min((job.get("begins", now) for job in jobs), default=now)
    scale = max(end - now, 0.0) / (end - start) if end > start else 0.0
    return [{**job, "deadline": end - (end - job["deadline"]) * scale} for job in jobs]
