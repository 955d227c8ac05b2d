"""Gates: conditions on summaries and tasks that can fail a CI job, such as ``bwt>=-1`` or ``low(tone.pass_rate)>=50``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lifealign.core.errors import ConfigError
from lifealign.core.origin import is_reference
from lifealign.evaluation import catalog
from lifealign.evaluation.catalog import GATE_SUMMARIES, GUARD_SUMMARIES
from lifealign.evaluation.drift import DRIFT, drift_label, drift_names
from lifealign.evaluation.gate_values import TASK

DEFAULT_SCORE = "accuracy"
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
GRAMMAR = 'SUMMARY[.SCORE] or TASK[.SCORE], OPERATOR, NUMBER, e.g. "bwt>=-1", "last.pass_rate>=50" or "low(min)>=60"'
NoValue = Literal["fail", "pass"]
End = Literal["value", "low", "high"]
NEED_TWO_TASKS = ("bwt", "forgetting", "forward_transfer", "drop")
"""Summaries that compare an earlier task with itself."""
NEED_ALL_CELLS = ("ap", "forgetting")
"""Summaries that are not computed from a part of R; see `metrics.holes`."""

_GATE = re.compile(
    r"\s*(?:(?P<end>low|high)\(\s*(?P<inside>[^<>=]+?)\s*\)|(?P<plain>[^<>=()]+?(?:\([^<>=]*)?))"
    r"\s*(?P<operator>>=|<=|==|>|<)\s*(?P<number>\S+)\s*"
)
_SCORE = re.compile(r"[\w-]+|[^<>=]*:[^<>=]+")


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        summary: name of a summary in the catalog, of a score matrix or of general ability; or of a task.
        score: name of the score; `accuracy` if the gate names none.
        operator: a key of `OPERATORS`.
        number: the bound, in the score's unit (percent for rates).
        end: `low` or `high` compares that end of the 95% interval, `value` the value.
        of_task: `summary` is a task.
    """

    summary: str
    score: str
    operator: str
    number: float
    end: End = "value"
    of_task: bool = False

    @property
    def key(self) -> str:
        """Where the value is among those of its score."""
        return f"{TASK}{self.summary}" if self.of_task else self.summary

    @property
    def name(self) -> str:
        """The left side of the condition in full."""
        name = f"{self.summary}.{self.score}"
        return name if self.end == "value" else f"{self.end}({name})"

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.number:g}"

    @classmethod
    def parse(cls, text: str, tasks: Sequence[str] = (), *, against: bool = False) -> Gate:
        """Read one condition.

        Args:
            text: ``LEFT OPERATOR NUMBER``, where ``LEFT`` is ``SUMMARY[.SCORE]``, ``TASK[.SCORE]``, ``SCORE`` (short
                for that score of `last`), or one of these in ``low(...)`` or ``high(...)``. ``task:`` before a task's name tells it
                from a summary of the same name.
            tasks: names of the tasks that were learnt.
            against: whether there is a point to compare with.

        Raises:
            ConfigError: malformed, an unknown summary, task or score, or a bound that is not a finite number.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--gate {text!r}: expected {GRAMMAR}; operators: {', '.join(OPERATORS)}")
        end: End = next((e for e in get_args(End) if e == match["end"]), "value")
        summary, score, of_task = _left(text, (match["inside"] or match["plain"]).strip(), tasks)
        _check_score(text, "" if of_task else summary, score)
        if summary == "change" and not of_task and not against:
            raise ConfigError(f"--gate {text!r}: change is since another point; give it with --against, e.g. a tag")
        try:
            number = float(match["number"])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"--gate {text!r}: {match['number']!r} is not a finite number; expected {GRAMMAR}")
        return cls(summary, score, match["operator"], number, end, of_task)


def _left(text: str, left: str, tasks: Sequence[str]) -> tuple[str, str, bool]:
    """What is compared: a summary or task, its score, and whether it is a task."""
    summaries = [*catalog.summaries(), *GUARD_SUMMARIES, *GATE_SUMMARIES, DRIFT]
    head, _, tail = left.partition(".")
    task = left.removeprefix(TASK)
    found = next((t for t in sorted(tasks, key=len, reverse=True) if task == t or task.startswith(f"{t}.")), None)
    if head in summaries:
        name, score, of_task = head, tail, False
    elif found is not None:
        name, score, of_task = found, task[len(found) + 1 :], True
    elif left.startswith(TASK):
        raise ConfigError(f"--gate {text!r}: unknown task {task!r}; tasks: {', '.join(tasks) or 'none'}")
    elif left in catalog.names() or is_reference(left):
        return "last", left, False
    elif left in drift_names():
        return DRIFT, left, False
    elif re.fullmatch(r"[\w-]+", head):
        known = f"; tasks: {', '.join(tasks)}" if tasks else ""
        raise ConfigError(f"--gate {text!r}: unknown summary {head!r}; allowed: {', '.join(summaries)}{known}")
    else:
        raise ConfigError(f"--gate {text!r}: expected {GRAMMAR}; operators: {', '.join(OPERATORS)}")
    if left.endswith(".") or (score and not _SCORE.fullmatch(score)):
        raise ConfigError(f"--gate {text!r}: expected {GRAMMAR}; operators: {', '.join(OPERATORS)}")
    return name, score or DEFAULT_SCORE, of_task


def _check_score(text: str, summary: str, score: str) -> None:
    if summary == DRIFT:
        if score not in drift_names():
            raise ConfigError(f"--gate {text!r}: unknown drift column {score!r}; allowed: {', '.join(drift_names())}")
        return
    guard_scores = catalog.guard_scores()
    known = [*catalog.names(), *guard_scores]
    if score not in known and not is_reference(score):
        raise ConfigError(f"--gate {text!r}: unknown score {score!r}; allowed: {', '.join(known)}")
    if (summary in GUARD_SUMMARIES) != (score in guard_scores):
        raise ConfigError(
            f"--gate {text!r}: {' and '.join(GUARD_SUMMARIES)} go with {' and '.join(guard_scores)}, "
            "all other summaries with the other scores"
        )


@dataclass(frozen=True)
class GateResult:
    """Whether a gate held.

    Attributes:
        gate: the condition.
        value: the measured value, or the end of its interval that the gate names; None if it was not measured.
        interval: lower and upper end of the 95% interval; None where there is none.
        detail: the task that a value is of, and the point that it is compared with; "" if neither.
        why: the reason for a missing value.
        no_value: whether the gate holds without a value.
    """

    gate: Gate
    value: float | None
    interval: tuple[float | None, float | None] = (None, None)
    detail: str = ""
    why: str = ""
    no_value: NoValue = "fail"

    @property
    def held(self) -> bool:
        """Whether the value meets the bound; without a value, `no_value` decides."""
        if self.value is None:
            return self.no_value == "pass"
        return OPERATORS[self.gate.operator](self.value, self.gate.number)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        low, high = self.interval
        known = {"detail": self.detail, "reason": self.why}
        return {
            "gate": str(self.gate),
            "value": self.value,
            "low": low,
            "high": high,
            "held": self.held,
            **{key: text for key, text in known.items() if text},
        }

    def line(self) -> str:
        """One line for the user."""
        if self.value is None:
            missing = f"{self.gate.name} was not measured: {self.why}"
            if self.held:
                return f"gate {self.gate} held without a value: {missing}"
            return f"gate {self.gate} failed: {missing}; --no-value pass lets such a gate hold"
        title = catalog.score(self.gate.score).title if self.gate.summary != DRIFT else drift_label(self.gate.score)
        detail = f"; {self.detail}" if self.detail else ""
        return f"gate {self.gate} {'held' if self.held else 'failed'}: {self.value:.2f} ({title}{detail})"


def check_gates(
    gates: Sequence[Gate],
    summaries: Mapping[str, Mapping[str, Any]],
    *,
    no_value: NoValue = "fail",
    tasks: int | None = None,
    since: str = "",
    retired: Mapping[str, str] | None = None,
) -> list[GateResult]:
    """Compare each gate with its value.

    Args:
        gates: conditions.
        summaries: score -> summary -> ``{"value": number, ...}``, as `Memory.summary` gives it, with those of
            `gate_values` if a gate asks for one; None and NaN are missing.
        no_value: whether a gate without a value holds.
        tasks: number of tasks learnt, to explain a missing value; None: unknown.
        since: the point that `drop` and `change` compare with; "": none.
        retired: task -> how it was retired, to explain a missing value.
    """
    results = []
    for gate in gates:
        found = summaries.get(gate.score, {}).get(gate.key, {})
        value, low, high = (_finite(found.get(end)) for end in get_args(End))
        compared = {"value": value, "low": low, "high": high}[gate.end]
        parts = [str(found["task"])] if "task" in found and not gate.of_task else []
        parts += [f"since {since}"] if since and gate.key in ("drop", "change") else []
        why = ""
        if compared is None and gate.of_task and gate.summary in (retired or {}):
            why = f"the task is {(retired or {})[gate.summary]}"
        elif compared is None:
            why = _why_missing(gate, value is not None, gate.score in summaries, tasks, since)
        results.append(GateResult(gate, compared, (low, high), ", ".join(parts), why, no_value))
    return results


def _finite(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _why_missing(gate: Gate, has_value: bool, has_score: bool, tasks: int | None, since: str) -> str:
    if has_value:
        return "the value has no interval"
    if tasks is not None and tasks < 2 and gate.key in NEED_TWO_TASKS and not since:
        return f"it needs two tasks, and the memory has {tasks}"
    if since and gate.key in ("drop", "change"):
        return f"no task was learnt at {since} and scored there by it"
    if has_score and gate.key in NEED_ALL_CELLS and tasks is not None and tasks > 2:
        return "some cells of R were not scored: lifealign evaluate MEMORY --as-of TASK scores the row of a task"
    if not has_score and gate.score == "pass_rate":
        return "give --generations N; a pass rate also needs a task with a rule"
    if not has_score and gate.score in catalog.text_metrics():
        return f"give --generations N and --text-metric {gate.score}"
    if gate.summary == DRIFT:
        return "lifealign drift MEMORY measures it at the newest point"
    if gate.summary in GUARD_SUMMARIES:
        return f"give --guard-{catalog.score(gate.score).probe} FILE"
    return "the memory has no such score" if not has_score else "the scores that it needs were not taken"
