"""Cost of consolidation over a stream: the grown basis against an SVD of the whole history, in either space.

Weights are random, of the shapes of a real adapter; nothing is trained. Ends in under a minute on two cores.

    python benchmarks/consolidation.py [--tasks 12] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from typing import Literal

import torch
from torch import Tensor

from lifealign.consolidation.adapter import ConsolidationConfig, consolidate_adapter, denoise

RANK = 8
# (layers, width, width of v_proj); q_proj and v_proj have adapters.
MODELS = {"smollm2-135m": (30, 576, 192), "one layer of a 7B": (1, 3584, 512)}


def adapter(model: str, seed: int, scale: float) -> dict[str, Tensor]:
    """Random LoRA weights of the model's shapes; the same directions lean into every task, so that there is overlap."""
    layers, width, v_width = MODELS[model]
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for layer in range(layers):
        for name, rows in (("q_proj", width), ("v_proj", v_width)):
            out[f"layers.{layer}.{name}.lora_A"] = scale * torch.randn(RANK, width, generator=generator)
            out[f"layers.{layer}.{name}.lora_B"] = scale * torch.randn(rows, RANK, generator=generator)
    return out


def after_task(weights: dict[str, Tensor], model: str, task: int) -> dict[str, Tensor]:
    own, common = adapter(model, task + 1, 0.01), adapter(model, 1000, 0.005)
    return {k: v + own[k] + common[k] for k, v in weights.items()}


def grown_basis(model: str, tasks: int, space: Literal["factors", "delta_w"]) -> dict[str, float | list[float]]:
    config = ConsolidationConfig(space=space)
    weights = adapter(model, 0, 0.02)
    state: dict[str, Tensor] = {}
    seconds, overlaps = [], []
    for task in range(tasks):
        now = after_task(weights, model, task)
        begin = time.perf_counter()
        result = consolidate_adapter(weights, now, state, config, scaling=2.0, seed=0, task_index=task)
        seconds.append(time.perf_counter() - begin)
        overlaps.append(float(result.diagnostics["summed"]["overlap"]))
        weights, state = result.adapter, result.state
    adapter_bytes = sum(v.nbytes for v in weights.values())
    return {
        "seconds": seconds,
        "overlap": overlaps,
        "state_over_adapter": sum(v.nbytes for v in state.values()) / adapter_bytes,
    }


def svd_of_history(model: str, tasks: int) -> dict[str, float | list[float]]:
    """The paper's way, space `factors`: stack all refined updates, decompose them at every task (float64, as ours)."""
    weights = adapter(model, 0, 0.02)
    history: dict[str, list[Tensor]] = {name: [] for name in weights}
    seconds, overlaps = [], []
    for task in range(tasks):
        now = after_task(weights, model, task)
        inside_energy = energy = 0.0
        begin = time.perf_counter()
        for name, before in weights.items():
            denoised = denoise((now[name] - before).double(), 0.9).update.flatten()
            inside = torch.zeros_like(denoised)
            if history[name]:
                singular, v = torch.linalg.svd(torch.stack(history[name]), full_matrices=False)[1:]
                v = v[singular > 1e-6 * singular[0]]
                inside = v.T @ (v @ denoised)
            refined = denoised - 0.5 * inside
            history[name].append(refined)
            weights[name] = (before.double() + refined.view_as(before)).float()
            inside_energy += float(inside.square().sum())
            energy += float(denoised.square().sum())
        seconds.append(time.perf_counter() - begin)
        overlaps.append(inside_energy / energy)
    return {"seconds": seconds, "overlap": overlaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for model in MODELS:
        results[model] = {
            "basis, factors": grown_basis(model, options.tasks, "factors"),
            "SVD of history, factors": svd_of_history(model, options.tasks),
            "pieces, delta_w": grown_basis(model, options.tasks, "delta_w"),
        }
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "peak_mib": peak_mib, "results": results}))
        return
    print(f"{options.tasks} tasks, rank {RANK}, {torch.get_num_threads()} threads, peak memory {peak_mib:.0f} MiB")
    for model, ways in results.items():
        print(
            f"\n{model:26s} {'task 1':>9s} {'last task':>9s} {'all':>9s} {'overlap, last':>14s} {'state / adapter':>16s}"
        )
        for way, result in ways.items():
            seconds, overlap = result["seconds"], result["overlap"]
            assert isinstance(seconds, list) and isinstance(overlap, list)
            state = result.get("state_over_adapter", "")
            shown = f"{state:.1f}" if isinstance(state, float) else ""
            times = f"{seconds[0]:8.3f}s {seconds[-1]:8.3f}s {sum(seconds):8.3f}s"
            print(f"  {way:24s} {times} {overlap[-1]:14.6f} {shown:>16s}")


if __name__ == "__main__":
    main()
