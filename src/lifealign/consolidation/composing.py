"""Tasks weighted, withdrawn and compared through their updates: PURE functions of tensors.

An adapter is a flat mapping ``{"<module>.lora_A": [R, I], "<module>.lora_B": [O, R]}``. `points` are the adapters after
each task, the initial one first (T + 1 of them), so the update of task t lies between point t and point t + 1.
All arithmetic is float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lifealign.consolidation.lowrank import Product, Stack, difference, inner, truncate

Adapter = Mapping[str, Tensor]
Space = Literal["factors", "delta_w"]


class Composed(NamedTuple):
    """Result of `compose`.

    Attributes:
        adapter: same names, shapes and types as the points'.
        truncation_error: ||dW - dW_R|| / ||dW|| over all modules; None in space `factors`, which truncates nothing.
        change: ||dW_new - dW_stored|| / ||dW_stored|| over all modules; infinite if the stored dW is 0.
    """

    adapter: dict[str, Tensor]
    truncation_error: float | None
    change: float


def compose(points: Sequence[Adapter], weights: Sequence[float], space: Space, seed: int = 0) -> Composed:
    """Long-term weights with other weights for the tasks' updates: initial + sum_t w_t RSM_t.

    Computed as stored + sum_t (w_t - 1) RSM_t: a task with weight 1 takes part in no arithmetic, and with all weights 1
    the stored tensors come back bit for bit.

    Args:
        points: T + 1 adapters.
        weights: one per task, finite.
        space: `factors`: RSM_t is the task's change of A and of B (exact). `delta_w`: its change of B A; the sum is cut to
            the adapter's rank.
        seed: of spare directions, if `delta_w` leaves less than the adapter's rank.
    """
    assert len(points) == len(weights) + 1
    stored = points[-1]
    changed = [(t, w - 1) for t, w in enumerate(weights) if w != 1]
    if not changed:
        return Composed(dict(stored), 0.0 if space == "delta_w" else None, 0.0)
    if space == "factors":
        adapter = {name: _weighted(name, points, changed) for name in stored}
        return Composed(adapter, None, _change(stored, adapter))
    adapter, lost, total = {}, 0.0, 0.0
    for index, module in enumerate(modules(stored)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        terms = [product(stored, module), *(update(points[t], points[t + 1], module) for t, _ in changed)]
        rank = stored[f"{module}.lora_A"].shape[0]
        svd = Stack(terms).svd([1.0, *(c for _, c in changed)])
        cut, numbers = truncate(svd, rank, 1.0, generator)
        for name, tensor in ((f"{module}.lora_A", cut.a_KI), (f"{module}.lora_B", cut.b_OK)):
            adapter[name] = tensor.to(stored[name].dtype).contiguous()
        total += numbers["long_term_norm"] ** 2
        lost += (numbers["truncation_error"] * numbers["long_term_norm"]) ** 2
    error = math.sqrt(lost / total) if total else 0.0
    return Composed({name: adapter[name] for name in stored}, error, _change(stored, adapter))


def overlap(one: tuple[Adapter, Adapter], other: tuple[Adapter, Adapter]) -> float | None:
    """Cosine in [-1, 1] of two updates in delta-W space, over all modules at once; None if one of them is zero.

    Negative: one partly undoes the other. Near 0: they hardly affect each other.

    Args:
        one: adapters before and after the update.
        other: adapters before and after the other update; same names, same alpha / r.
    """
    dot = length_one = length_other = 0.0
    for module in modules(one[0]):
        x, y = update(*one, module), update(*other, module)
        dot += inner(x, y)
        length_one += inner(x, x)
        length_other += inner(y, y)
    length = math.sqrt(max(length_one, 0.0) * max(length_other, 0.0))
    return max(-1.0, min(1.0, dot / length)) if length else None


def modules(adapter: Adapter) -> list[str]:
    """Paths of the adapted modules, sorted."""
    return sorted({name.rpartition(".")[0] for name in adapter})


def product(adapter: Adapter, module: str) -> Product:
    """B A of a module, float64."""
    return Product(adapter[f"{module}.lora_B"].double(), adapter[f"{module}.lora_A"].double())


def update(before: Adapter, after: Adapter, module: str) -> Product:
    """The change of B A of a module."""
    return difference(product(before, module), product(after, module))


def _weighted(name: str, points: Sequence[Adapter], changed: Sequence[tuple[int, float]]) -> Tensor:
    total = points[-1][name].double()
    for t, factor in changed:
        total = total + factor * (points[t + 1][name].double() - points[t][name].double())
    return total.to(points[-1][name].dtype)


def _change(stored: Adapter, adapter: Adapter) -> float:
    gaps = [update(stored, adapter, module) for module in modules(stored)]
    length = sum(inner(x, x) for x in (product(stored, module) for module in modules(stored)))
    changed = sum(max(inner(x, x), 0.0) for x in gaps)
    return math.sqrt(changed / length) if length else (math.inf if changed else 0.0)
