"""One score of a row: its label, note, unit, direction and formula, and how to make one of a function from outside.

`catalog` registers the built-in scores; read scores by name there. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lifealign.core.errors import ConfigError
from lifealign.core.origin import described
from lifealign.core.registry import Registry
from lifealign.evaluation.metrics import Array
from lifealign.evaluation.pair_scores import PairLogProbs

Better = Literal["higher", "lower", "neither"]
Formula = Literal["of_pairs", "of_answer"]


@dataclass(frozen=True)
class Score:
    """A number for each held-out row.

    At most one of the three formulas is given; without any, the value comes from the task's own rule, or from others (`follow`).

    Attributes:
        label: name for people, without the unit.
        note: one or two sentences for people.
        unit: of a mean as it is shown, e.g. "%" or "nats"; "" for a plain number.
        better: whether a higher or a lower value is better; "neither" for a score that only describes.
        rate: rows are in [0, 1] and their mean is shown in percent.
        low: smallest value of a row; None: no bound.
        high: largest value of a row; None: no bound.
        chance: mean, as it is shown, of a model that tells nothing apart, such as 50 of pairs; None: there is no such mean.
        of_pairs: log-probs of N held-out pairs -> [N] values.
        of_answer: (generated answer, chosen answer) -> value of one row. A score with this formula is a text metric,
            measured if `evaluate.text_metrics` names it.
        of_probe: samples of a guard's probe, arrays [..., rows] by name -> [...] values, as shown. A score with this
            formula measures general ability: no task trains on it.
        probe: the guard's probe that `of_probe` reads, "text" or "choices".
        packages: import names of the packages that `of_answer` needs; pip's names have - for _.
    """

    label: str
    note: str
    unit: str = ""
    better: Better = "higher"
    rate: bool = False
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    of_pairs: Callable[[PairLogProbs], Array] | None = None
    of_answer: Callable[[str, str], float] | None = None
    of_probe: Callable[[Mapping[str, Array]], Array] | None = None
    probe: str = ""
    packages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The label with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def scale(self) -> float:
        """Factor from a row's value to the value shown."""
        return 100.0 if self.rate else 1.0

    @property
    def sign(self) -> float:
        """-1 if lower is better, else 1."""
        return -1.0 if self.better == "lower" else 1.0

    @property
    def code(self) -> Any:
        """The function that computes it; this class if the task's own rule does."""
        return self.of_pairs or self.of_answer or self.of_probe or Score

    def described(self) -> dict[str, Any]:
        """Everything shown of it, as plain values, which a record keeps of a score from outside."""
        return {key: getattr(self, key) for key in SHOWN}


SHOWN = ("label", "note", "unit", "better", "rate")


def from_record(name: str, record: Mapping[str, Any]) -> Score:
    """A score that a record describes, without its formula; the note tells where it comes from."""
    facts = {"label": name, "note": "", **{key: record[key] for key in SHOWN if key in record}}
    if "origin" in record:
        facts["note"] = f"{facts['note']} From {described(record['origin'])}.".strip()
    return Score(**facts)


def of_function(function: Any, formula: Formula, **facts: Any) -> Any:
    """Make a score of a function; without `facts`, its label and note come from the function's name and docstring.

    Args:
        function: computes the score. Anything not callable is returned unchanged, for `problem` to report.
        formula: the kind of arguments that the function takes.
        facts: attributes of the score; None: the default.
    """
    if isinstance(function, Score) or not callable(function):
        return function
    given = {key: value for key, value in facts.items() if value is not None}
    name = str(getattr(function, "__name__", type(function).__name__)).strip("_")
    note = " ".join(inspect.cleandoc(getattr(function, "__doc__", None) or "").split("\n\n")[0].split())
    defaults: dict[str, Any] = {"label": name.replace("_", " ").capitalize(), "note": note}
    if given.get("rate"):
        defaults |= {"unit": "%", "low": 0, "high": 1}
    return Score(**{**defaults, **given, formula: function})


def problem(value: Any, formula: Formula) -> str | None:
    """The mistake in a score that must have this formula; None: no mistake."""
    wanted = "(pairs) -> [N] values" if formula == "of_pairs" else "(answer, reference) -> number"
    if not isinstance(value, Score) or not callable(getattr(value, formula)):
        return f"expected a function {wanted}, got {value!r}"
    if value.better not in get_args(Better):
        return f"better={value.better!r} is unknown; allowed: {', '.join(get_args(Better))}"
    return None


# --- from outside ---


def _registry(what: str, group: str, formula: Formula) -> Registry[Score]:
    def adapt(value: Any) -> Any:
        return made.of_code(value) or of_function(value, formula)

    made: Registry[Score] = Registry(
        what, group, check=lambda value: problem(value, formula), code=lambda score: score.code, adapt=adapt
    )
    return made


SCORES = _registry("score", "lifealign.scores", "of_pairs")
TEXT_METRICS = _registry("text metric", "lifealign.text_metrics", "of_answer")


def register_score(
    name: str,
    function: Any = None,
    *,
    label: str | None = None,
    note: str | None = None,
    unit: str | None = None,
    better: Better = "higher",
    rate: bool = False,
) -> Any:
    """Register your own score under a name for `evaluate.scores`; without `function`, a decorator.

    Use it as a decorator in the file of the function: a study's processes then find the function together with these
    facts.

    Args:
        name: lower-case letters, digits, - and _.
        function: `PairLogProbs` of N held-out pairs -> [N] finite numbers, one per pair.
        label: name for people, without the unit; None: the function's name.
        note: one or two sentences for people; None: the first paragraph of the function's docstring.
        unit: of a mean as it is shown; None: "%" for a rate, else none.
        better: `higher`, `lower`, or `neither` for a score that only describes.
        rate: values are in [0, 1], and their mean is shown in percent.

    Raises:
        ConfigError: the name is taken or badly written, or `function` is not a function.
    """
    if function is None:
        return lambda function: register_score(
            name, function, label=label, note=note, unit=unit, better=better, rate=rate
        )
    facts = {"label": label, "note": note, "unit": unit, "better": better, "rate": rate}
    _register(SCORES, TEXT_METRICS, name, of_function(function, "of_pairs", **facts))
    return function


def register_text_metric(
    name: str,
    function: Any = None,
    *,
    label: str | None = None,
    note: str | None = None,
    unit: str | None = None,
    better: Better = "higher",
    rate: bool = False,
    packages: Sequence[str] = (),
) -> Any:
    """Register your own text metric under a name for `evaluate.text_metrics`; without `function`, a decorator.

    Args:
        name: see `register_score`.
        function: (generated answer, chosen answer of the row) -> a finite number.
        label: see `register_score`.
        note: see `register_score`.
        unit: see `register_score`.
        better: see `register_score`.
        rate: see `register_score`.
        packages: import names of packages that the function needs beyond lifealign, checked before a model is loaded.

    Raises:
        ConfigError: the name is taken or badly written, or `function` is not a function.
    """
    if function is None:
        return lambda function: register_text_metric(
            name, function, label=label, note=note, unit=unit, better=better, rate=rate, packages=packages
        )
    facts = {"label": label, "note": note, "unit": unit, "better": better, "rate": rate, "packages": tuple(packages)}
    _register(TEXT_METRICS, SCORES, name, of_function(function, "of_answer", **facts))
    return function


def _register(registry: Registry[Score], other: Registry[Score], name: str, value: Any) -> None:
    if name in other:
        raise ConfigError(
            f"{registry.what} {name!r} cannot be registered: the name is taken by a {other.what} ({other.origin(name)}); "
            "choose another name"
        )
    registry.register(name, value)
