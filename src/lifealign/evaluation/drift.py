"""Drift measures by name: what a measure sees of the model at one prompt, and what it gives; no torch.

A measure reads answers to a prompt, and what the model at several points of a memory's life thinks of each of their tokens. Its
values are kept for each prompt, so that means and intervals can be computed later, without the model.

Shapes: T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lifealign.core.registry import Registry
from lifealign.data.tasks import Row
from lifealign.evaluation.metrics import Array
from lifealign.evaluation.score import Better

SMOOTH = 0.1
"""Weight of a new position in curves along the answers, as they are shown."""
DRIFT = "drift"
"""Summary, for gates, of a column of a drift measure: its value now over all prompts."""
FURTHER: Mapping[str, str] = {
    "kl_spent": "KL of all tasks so far, nats",
    "arbitrariness": "Share of pairs against the consensus of the principles",
    "discrepancy_base": "Discrepancy of the priorities from the base",
    "discrepancy_previous": "Discrepancy of the priorities from the task before",
}
"""Numbers that are computed from several prompts or points -> label."""
Material = Literal["nucleus", "samples", "greedy", "pairs"]
"""Answers that a measure reads: sampled from the nucleus of 0.9, sampled at temperature 1, greedy, or a held-out row's two."""
Policy = Literal["now", "base", "previous"]
"""The model at the point itself, before any task, and after the task before it."""
TOP_P = 0.9
"""Probability of the nucleus."""


@dataclass(frozen=True)
class Seen:
    """One prompt at one point of a memory's life.

    Attributes:
        prompt: text of its last turn.
        answers: token ids of each answer, with the one that ends it; of `pairs` the chosen and the rejected one.
        log_probs: policy -> for each answer [T, V] float32, nats: the policy's distribution at each of its tokens.
        token_text: token id -> its text.
        row: the held-out row of the prompt; None for prompts from a file.
        settings: of the call, by name.
    """

    prompt: str
    answers: Sequence[Sequence[int]]
    log_probs: Mapping[str, Sequence[Array]]
    token_text: Callable[[int], str] = str
    row: Row | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a measure gives for one prompt.

    Attributes:
        values: column -> a finite number.
        curves: name -> for each position of the answers, (sum, number) of what was measured there.
        tallies: name -> text -> how often it was met.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, int]]] = field(default_factory=dict)
    tallies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A number that a measure gives for each prompt.

    Attributes:
        label: name for people, without the unit.
        note: one sentence for people.
        unit: of a mean as it is shown, "%" for shares in [0, 1].
        better: which way is better; `neither` for a number that only describes.
    """

    label: str
    note: str = ""
    unit: str = ""
    better: Better = "neither"

    @property
    def scale(self) -> float:
        """Factor from a prompt's value to the value shown."""
        return 100.0 if self.unit == "%" else 1.0


Summary = Callable[[Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], int], Mapping[str, Any]]
"""(policy -> task -> values of each prompt at its point, bootstrap samples) -> more numbers of the point, as plain values."""


@dataclass(frozen=True)
class Measure:
    """A drift measure.

    Attributes:
        function: reads one prompt.
        columns: the numbers that it gives; one that is not named here is labelled by its name.
        label: name for people.
        meaning: a plain sentence: what the number is.
        worry: a plain sentence: when a reader should worry.
        material: the answers that it reads.
        against: the other policies whose distributions it reads; with some, nothing is measured before any task.
        summary: further numbers of a point, computed from the values of all prompts; None: none.
        options: names of the settings that its values depend on, besides those of the material.
    """

    function: Callable[[Seen], Reading | Mapping[str, float]]
    columns: Mapping[str, Column] = field(default_factory=dict)
    label: str = ""
    meaning: str = ""
    worry: str = ""
    material: Material = "samples"
    against: tuple[Policy, ...] = ("base",)
    summary: Summary | None = None
    options: tuple[str, ...] = ()

    def column(self, name: str) -> Column:
        """A column by its name."""
        return self.columns.get(name) or Column(name.replace("_", " ").capitalize())


def problem(value: Any) -> str | None:
    """The mistake in a measure; None: no mistake."""
    if not isinstance(value, Measure) or not callable(value.function):
        return f"expected a function seen -> values by column, got {value!r}"
    if value.material not in get_args(Material):
        return f"material={value.material!r} is unknown; allowed: {', '.join(get_args(Material))}"
    if unknown := [name for name in value.against if name not in ("base", "previous")]:
        return f"against={unknown[0]!r} is unknown; allowed: base, previous"
    return None


def _adapt(value: Any) -> Any:
    if isinstance(value, Measure) or not callable(value):
        return value
    return MEASURES.of_code(value) or Measure(value, **_words(value))


def _words(function: Any) -> dict[str, Any]:
    """Label and meaning of a function: its name, and the first paragraph of its docstring."""
    name = str(getattr(function, "__name__", type(function).__name__)).strip("_")
    text = inspect.cleandoc(getattr(function, "__doc__", None) or "").split("\n\n")[0]
    return {"label": name.replace("_", " ").capitalize(), "meaning": " ".join(text.split())}


MEASURES: Registry[Measure] = Registry(
    "drift measure", "lifealign.measures", check=problem, code=lambda measure: measure.function, adapt=_adapt
)
OWN: Mapping[str, str] = {
    "branching": "lifealign.evaluation.measures.branching:MEASURE",
    "shift": "lifealign.evaluation.measures.shift:MEASURE",
    "ledger": "lifealign.evaluation.measures.ledger:MEASURE",
    "principles": "lifealign.evaluation.measures.principles:MEASURE",
}
"""Built-in measures."""
MEASURES.built_in(OWN)


_met: dict[str, str] = {}
"""Columns of measures from outside that this process has read about -> label."""


def meet(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Enter the columns of a measure from outside by the description in its records; loads nothing."""
    _met.update({name: _title(str(one["label"]), str(one["unit"])) for name, one in columns.items()})


def _title(label: str, unit: str) -> str:
    return f"{label}, {unit}" if unit else label


def _labels() -> dict[str, str]:
    known = {n: _title(c.label, c.unit) for m in OWN for n, c in MEASURES.find(m).columns.items()}
    return {**known, **FURTHER, **_met}


def drift_names() -> list[str]:
    """Columns that a gate may name: those of built-in measures, and those from outside that this process has read about."""
    return list(_labels())


def drift_label(name: str) -> str:
    """Label of a column with its unit."""
    return _labels().get(name, name)


def register_measure(
    name: str,
    function: Any = None,
    *,
    material: Material = "samples",
    against: Iterable[Policy] = ("base",),
    columns: Mapping[str, Column] | None = None,
    label: str | None = None,
    meaning: str | None = None,
    worry: str = "",
) -> Any:
    """Register your own drift measure under a name for `lifealign drift --measure`; without `function`, a decorator.

    Args:
        name: lower-case letters, digits, - and _.
        function: `Seen` -> column -> a finite number, or a `Reading`.
        material: the answers that it reads.
        against: the other policies whose distributions it reads: `base`, `previous`.
        columns: how its numbers are shown; None: by their names.
        label: name for people; None: the function's name.
        meaning: what the numbers are; None: the first paragraph of the function's docstring.
        worry: when a reader should worry.

    Raises:
        ConfigError: the name is taken or badly written, or `function` is not a function.
    """
    if function is None:
        facts: dict[str, Any] = {"columns": columns, "label": label, "meaning": meaning, "worry": worry}
        return lambda function: register_measure(name, function, material=material, against=against, **facts)
    given = {key: value for key, value in (("label", label), ("meaning", meaning)) if value is not None}
    words: dict[str, Any] = {**(_words(function) if callable(function) else {}), **given}
    MEASURES.register(
        name, Measure(function, columns or {}, material=material, against=tuple(against), worry=worry, **words)
    )
    return function
