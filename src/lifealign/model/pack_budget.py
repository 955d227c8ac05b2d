"""How many columns a packed row for a GPU should have: the fewest that keep the card busy, by a short measurement.

On a CPU `train.tokens_per_pack` gives the number, and small rows are faster because they stay in the cache. A GPU needs
thousands of columns in a product; beyond that, more only take memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import nn

from lifealign.model.adapters import trainable
from lifealign.model.encoding import EncodedPair
from lifealign.model.logps import token_logps
from lifealign.model.packing import cost, pack_pairs

SIZES = (2048, 4096, 8192, 16384, 32768, 65536)
"""Columns that are tried, in this order."""
GAIN = 1.03
"""Speed-up that a larger row must bring; a smaller one may be noise, and each doubling doubles the memory."""
ROOM = 0.8
"""Share of the card's memory that a row's forward and backward may leave in use; rows of other lengths come later."""


@dataclass(frozen=True)
class Measured:
    """One size that was tried.

    Attributes:
        columns: budget of a row.
        rate: columns a second, forward and backward.
        memory: highest memory in use, as a share of the card's.
    """

    columns: int
    rate: float
    memory: float


def measure_budget(model: nn.Module, pairs: Sequence[EncodedPair], device: torch.device) -> list[Measured]:
    """Time a forward and a backward of rows of growing size, made of these pairs over and over.

    It stops at the first size that is no faster than the last one by `GAIN`, or needs more than `ROOM` of the memory.
    """
    total = torch.cuda.get_device_properties(device).total_memory

    def trial(columns: int) -> Measured:
        index = _filled(pairs, columns)
        torch.cuda.reset_peak_memory_stats(device)
        seconds = min(_seconds(model, pairs, index, device) for _ in range(3))  # the first compiles kernels
        used = sum(cost(pairs[i], shared_prefix=True) for i in index)
        return Measured(columns, used / seconds, torch.cuda.max_memory_allocated(device) / total)

    try:
        return growing(trial)
    finally:
        for parameter in trainable(model).values():
            parameter.grad = None
        torch.cuda.empty_cache()


def growing(trial: Callable[[int], Measured]) -> list[Measured]:
    """The sizes that `trial` was asked for, up to the one after the best; out of memory ends it."""
    found: list[Measured] = []
    for columns in SIZES:
        try:
            new = trial(columns)
        except torch.OutOfMemoryError:
            break
        found.append(new)
        if new.memory > ROOM or (len(found) > 1 and new.rate < GAIN * found[-2].rate):
            break
    return found


def best(found: Sequence[Measured]) -> Measured:
    """The smallest size that no larger one beats by `GAIN`, among those within `ROOM`; half of the first where none is."""
    allowed = [m for m in found if m.memory <= ROOM]
    if not allowed:
        return Measured(SIZES[0] // 2, found[0].rate if found else math.inf, ROOM)
    top = max(m.rate for m in allowed)
    return next(m for m in allowed if m.rate * GAIN >= top)


def _filled(pairs: Sequence[EncodedPair], columns: int) -> list[int]:
    """Positions in `pairs`, over and over, of as many as fit; at least one."""
    index: list[int] = []
    used = 0
    for number in count():
        used += cost(pairs[number % len(pairs)], shared_prefix=True)
        if index and used > columns:
            return index
        index.append(number % len(pairs))
    raise AssertionError


def _seconds(model: nn.Module, pairs: Sequence[EncodedPair], index: Sequence[int], device: torch.device) -> float:
    pack = pack_pairs(pairs, index, shared_prefix=True).to(device)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    token_logps(model, pack).token_T.sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return time.perf_counter() - start
