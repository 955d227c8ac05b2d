"""Gates: conditions on summaries that can fail a CI job, such as ``bwt>=-1`` or ``last.pass_rate>=50``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.core.origin import is_reference
from lifealign.evaluation import catalog
from lifealign.evaluation.catalog import GUARD_SUMMARIES

DEFAULT_SCORE = "accuracy"
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
GRAMMAR = 'SUMMARY[.SCORE] OPERATOR NUMBER, e.g. "bwt>=-1" or "last.pass_rate>=50"'

_GATE = re.compile(
    r"\s*(?P<summary>\w+)(?:\.(?P<score>[\w-]+|[^<>=]*:[^<>=]+?))?\s*(?P<operator>>=|<=|==|>|<)\s*(?P<number>\S+)\s*"
)


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        summary: name of a summary in the catalog, of a score matrix or of general ability.
        score: name of the score; `accuracy` if the gate names none.
        operator: a key of `OPERATORS`.
        number: the bound, in the score's unit (percent for rates).
    """

    summary: str
    score: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.summary}.{self.score}{self.operator}{self.number:g}"

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read ``SUMMARY[.SCORE] OPERATOR NUMBER``.

        Raises:
            ConfigError: malformed, an unknown summary or score, or a bound that is not a finite number.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--gate {text!r}: expected {GRAMMAR}; operators: {', '.join(OPERATORS)}")
        summary, score = match["summary"], match["score"] or DEFAULT_SCORE
        summaries = [*catalog.summaries(), *GUARD_SUMMARIES]
        if summary not in summaries:
            raise ConfigError(f"--gate {text!r}: unknown summary {summary!r}; allowed: {', '.join(summaries)}")
        guard_scores = catalog.guard_scores()
        known = [*catalog.names(), *guard_scores]
        if score not in known and not is_reference(score):
            allowed = ", ".join(known)
            raise ConfigError(f"--gate {text!r}: unknown score {score!r}; allowed: {allowed}")
        if (summary in GUARD_SUMMARIES) != (score in guard_scores):
            raise ConfigError(
                f"--gate {text!r}: {' and '.join(GUARD_SUMMARIES)} go with {' and '.join(guard_scores)}, "
                "all other summaries with the other scores"
            )
        try:
            number = float(match["number"])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"--gate {text!r}: {match['number']!r} is not a finite number; expected {GRAMMAR}")
        return cls(summary, score, match["operator"], number)


@dataclass(frozen=True)
class GateResult:
    """Whether a gate held.

    Attributes:
        gate: the condition.
        value: the measured value; None if it was not measured: the gate then fails.
    """

    gate: Gate
    value: float | None

    @property
    def held(self) -> bool:
        """Whether there is a value and it meets the bound."""
        return self.value is not None and OPERATORS[self.gate.operator](self.value, self.gate.number)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {"gate": str(self.gate), "value": self.value, "held": self.held}

    def line(self) -> str:
        """One line for the user."""
        if self.value is None:
            return f"gate {self.gate} failed: {self.gate.summary}.{self.gate.score} was not measured"
        title = catalog.score(self.gate.score).title
        return f"gate {self.gate} {'held' if self.held else 'failed'}: {self.value:.2f} ({title})"


def check_gates(gates: Sequence[Gate], summaries: Mapping[str, Mapping[str, Any]]) -> list[GateResult]:
    """Compare each gate with its value.

    Args:
        gates: conditions.
        summaries: score -> summary -> ``{"value": number, ...}``, as `Memory.summary` gives it; None and NaN are missing.
    """
    results = []
    for gate in gates:
        value = summaries.get(gate.score, {}).get(gate.summary, {}).get("value")
        number = math.nan if value is None else float(value)
        results.append(GateResult(gate, number if math.isfinite(number) else None))
    return results
