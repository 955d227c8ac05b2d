"""Signs: what must be seen in a task's diagnostics for a method to be itself. No torch.

A method can be right by its formulas and still do nothing on a real model: a pool from which every input takes the same
prompts, a penalty beside which the loss is nothing. Its scores then say little of the method. So a method names what it
must be seen to do (`Strategy.signs`), `end_task` returns the values, and a sign that does not hold is said, kept with
the task, and shown beside the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIGNS = "signs"
"""Key of the checked signs in a task's diagnostics, a run's results and a study's record."""


@dataclass(frozen=True)
class Sign:
    """One sign of a method.

    Attributes:
        key: of the value in the diagnostics that `end_task` returns, or in their ``summed``.
        says: what holds if the value is within the limits, as a sentence without a full stop.
        low: the smallest value that is expected; None: no limit.
        high: the largest.
    """

    key: str
    says: str
    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the limits; NaN never is."""
        return value == value and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def with_signs(strategy: str, signs: Sequence[Sign], diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """A task's diagnostics with its checked signs: [{key, says, value, low, high, holds}]; unchanged without signs.

    A value of None was not measured for this task, such as a penalty before there is anything to keep: `holds` is None.

    Raises:
        TypeError: the diagnostics lack the value of a sign.
    """
    if not signs:
        return dict(diagnostics)
    values = {**diagnostics, **diagnostics.get("summed", {})}
    if missing := [sign.key for sign in signs if sign.key not in values]:
        raise TypeError(
            f"strategy {strategy}: its signs read {missing}, which its end_task does not return; return a number, or None "
            "if it is not measured for a task"
        )
    checked = [
        {**asdict(sign), "value": (value := values[sign.key]), "holds": None if value is None else sign.holds(value)}
        for sign in signs
    ]
    return {**diagnostics, SIGNS: checked}


def plain_diagnostics(diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """A task's diagnostics without those of single matrices, if there are any: what is ``summed``, and the signs."""
    signs = {SIGNS: diagnostics[SIGNS]} if SIGNS in diagnostics else {}
    return {**diagnostics.get("summed", diagnostics), **signs}


def unseen(diagnostics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The signs of a task's diagnostics that do not hold."""
    return [sign for sign in diagnostics.get(SIGNS, ()) if sign["holds"] is False]


def limits_text(sign: Mapping[str, Any]) -> str:
    """The limits of a sign, for people: "at least 5", "at most 0.69", "0.1 to 1"."""
    low, high = sign["low"], sign["high"]
    if low is None or high is None:
        return f"at most {high:.4g}" if low is None else f"at least {low:.4g}"
    return f"{low:.4g} to {high:.4g}"


def unseen_lines(task: str, strategy: str, diagnostics: Mapping[str, Any]) -> list[str]:
    """A sentence for each sign that does not hold."""
    return [
        f"task {task}: {strategy}: {sign['says']}: {sign['value']:.4g}, expected {limits_text(sign)}; its scores say little "
        "of the method"
        for sign in unseen(diagnostics)
    ]
