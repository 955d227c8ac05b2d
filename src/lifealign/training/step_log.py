"""What a training step tells its log: sums over the rows of each forward, and their means over the step.

Shapes: B rows of one forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SUMS = (
    "pairs",
    "loss",
    "margin",
    "accuracy",
    "focal_weight",
    "chosen_drift",
    "rejected_drift",
    "chosen_length",
    "rejected_length",
    "skipped",
    "judged",
    "with_chosen",
    "with_rejected",
)
OVER = {
    "margin": "judged",
    "accuracy": "judged",
    "chosen_drift": "with_chosen",
    "chosen_length": "with_chosen",
    "rejected_drift": "with_rejected",
    "rejected_length": "with_rejected",
}
"""Sums that only some kinds of rows add to -> the number of those rows."""


@dataclass(frozen=True)
class Seen:
    """Detached [B] values of one forward; `judged` is 1 for rows that people judged, pairs included."""

    margin: Tensor
    weight: Tensor
    chosen_drift: Tensor
    rejected_drift: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    skip: Tensor
    judged: Tensor


def sums_of(seen: Seen | Tensor | None, loss: Tensor, pairs: int) -> Tensor:
    """Sums over the rows of one forward, in the order of `SUMS`, on the device of `loss`.

    Of the SFT stage, `seen` is the weight of each answer, or None.
    """
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=loss.device)
    sums[0] = pairs
    sums[1] = loss
    if isinstance(seen, Tensor):
        sums[SUMS.index("focal_weight")] = seen.double().sum()
    elif seen is not None:
        values = (
            seen.margin * seen.judged,
            (seen.margin > 0) * seen.judged,
            seen.weight,
            seen.chosen_drift,
            seen.rejected_drift,
            seen.chosen_length,
            seen.rejected_length,
            seen.skip,
            seen.judged,
            seen.chosen_length > 0,
            seen.rejected_length > 0,
        )
        sums[2:] = torch.stack([v.double().sum() for v in values])
    return sums


def step_means(sums: Tensor, chosen_only: bool) -> dict[str, float]:
    """Means over an optimizer step of its summed `sums_of`; a value that none of its rows has is left out."""
    total = dict(zip(SUMS, sums.tolist(), strict=True))
    pairs = max(total.pop("pairs"), 1.0)
    loss = total.pop("loss")  # the parts are means over the whole step already
    counts = {name: total.pop(name) for name in dict.fromkeys(OVER.values())}
    over = {name: counts[OVER[name]] if name in OVER else pairs for name in total}
    if chosen_only:
        weight = total["focal_weight"]
        return {"loss": loss, **({"sft_weight": weight / pairs} if weight else {})}
    return {"loss": loss, **{k: v / over[k] for k, v in total.items() if over[k]}}
