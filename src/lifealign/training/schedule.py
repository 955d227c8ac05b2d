"""The order of the rows and the learning rate, functions of their arguments alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch


def row_order(seed: int, task: str, stage: str, epoch: int, count: int) -> list[int]:
    """A permutation of range(count), a function of its arguments alone."""
    text = f"{seed}|{task}|{stage}|{epoch}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
    return [int(i) for i in torch.randperm(count, generator=generator)]


def windows(
    seed: int, task: str, stage: str, epochs: int, units: Sequence[Sequence[int]], pairs_per_step: int
) -> list[list[int]]:
    """The pairs of each optimizer step, epoch after epoch; the last step of an epoch may be smaller.

    `units` are pairs that stay in one step, usually one each; a step that would grow beyond `pairs_per_step` by the next unit ends.
    """
    steps: list[list[int]] = []
    for epoch in range(epochs):
        step: list[int] = []
        for i in row_order(seed, task, stage, epoch, len(units)):
            if step and len(step) + len(units[i]) > pairs_per_step:
                steps.append(step)
                step = []
            step = [*step, *units[i]]
        steps += [step] if step else []
    return steps


def learning_rate(step: int, steps: int, warmup: float, peak: float) -> float:
    """Linear warm-up over the first `warmup` share of the steps, then a cosine to 0 (Loshchilov & Hutter 2017, eq. 5)."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
