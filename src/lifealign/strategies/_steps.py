"""Shared by methods whose signs are seen in their steps: means over the log of a task's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def mean_of_steps(log: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Mean of a value over the steps that have it; None if there is no such step."""
    values = [float(line[key]) for line in log if key in line]
    return sum(values) / len(values) if values else None


def penalty_share(log: Sequence[Mapping[str, Any]]) -> float | None:
    """Sum of the penalty over the sum of the loss, of the steps that have a penalty; None if there is no such step."""
    held = [line for line in log if "penalty" in line]
    penalty, loss = mean_of_steps(held, "penalty"), mean_of_steps(held, "loss")
    return None if penalty is None or not loss else penalty / loss
