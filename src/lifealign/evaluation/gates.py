"""Gates: conditions on metrics that a CI job can fail on, such as ``bwt>=-1`` or ``last.pass_rate>=50``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.evaluation.catalog import GUARDS

METRICS = ("last", "ap", "bwt", "forgetting", "learning_accuracy", "guard", "tax")
GUARDED = ("guard", "tax")
"""Summaries of the guard's scores, `perplexity` and `choice_accuracy`: as they are now, and what was lost of them."""
DEFAULT_SCORE = "accuracy"
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
GRAMMAR = 'METRIC[.SCORE] OPERATOR NUMBER, e.g. "bwt>=-1" or "last.pass_rate>=50"'

_GATE = re.compile(r"\s*(?P<metric>\w+)(?:\.(?P<score>\w+))?\s*(?P<operator>>=|<=|==|>|<)\s*(?P<number>\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        metric: a summary of the score matrix, or of the guard; one of `METRICS`.
        score: which score's matrix; `accuracy` where the gate names none.
        operator: a key of `OPERATORS`.
        number: the bound, in the score's own units (points for accuracy and pass rate).
    """

    metric: str
    score: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.metric}.{self.score}{self.operator}{self.number:g}"

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read ``METRIC[.SCORE] OPERATOR NUMBER``.

        Raises:
            ConfigError: malformed, unknown metric, or a bound that is not a finite number.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--gate {text!r}: expected {GRAMMAR}; operators: {', '.join(OPERATORS)}")
        metric = match["metric"]
        if metric not in METRICS:
            raise ConfigError(f"--gate {text!r}: unknown metric {metric!r}; allowed: {', '.join(METRICS)}")
        if (metric in GUARDED) != (match["score"] in GUARDS.values()):
            raise ConfigError(
                f"--gate {text!r}: {' and '.join(GUARDED)} are summaries of {' and '.join(GUARDS.values())}, and of these alone"
            )
        try:
            number = float(match["number"])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"--gate {text!r}: {match['number']!r} is not a finite number; expected {GRAMMAR}")
        return cls(metric, match["score"] or DEFAULT_SCORE, match["operator"], number)


@dataclass(frozen=True)
class GateResult:
    """Whether a gate held.

    Attributes:
        gate: the condition.
        value: what was measured; None where there is no such value, and then the gate has not held.
    """

    gate: Gate
    value: float | None

    @property
    def held(self) -> bool:
        """True if there is a value and it meets the bound."""
        return self.value is not None and OPERATORS[self.gate.operator](self.value, self.gate.number)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"gate": str(self.gate), "value": self.value, "held": self.held}

    def line(self) -> str:
        """One line for the user."""
        if self.value is None:
            return f"gate {self.gate} failed: there is no value of {self.gate.metric}.{self.gate.score}"
        return f"gate {self.gate} {'held' if self.held else 'failed'}: {self.value:.2f}"


def check_gates(gates: Sequence[Gate], summary: Mapping[str, Mapping[str, Any]]) -> list[GateResult]:
    """Look each gate's value up.

    Args:
        gates: conditions.
        summary: score -> metric -> ``{"value": number, ...}`` as `Memory.summary` gives it; None or NaN is missing.
    """
    results = []
    for gate in gates:
        value = summary.get(gate.score, {}).get(gate.metric, {}).get("value")
        number = math.nan if value is None else float(value)
        results.append(GateResult(gate, number if math.isfinite(number) else None))
    return results
