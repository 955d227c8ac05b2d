"""Rubrics: the questions about an answer, the same for judge models and people. Imports no torch.

A rubric is a YAML file. Six are built in, one for each kind of task of the paper's stream; a user's own is given by its
path. `llm.prompt` turns a rubric and an answer into text for a judge; the page for people shows the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from lifealign.core.config import Frozen
from lifealign.core.config_files import explain, nearest, read_yaml, together
from lifealign.core.errors import ConfigError

RUBRICS = ("expert", "harmlessness", "helpful", "helpfulness", "safe", "truthfulness")
"""Names of the built-in rubrics."""

_TASKS: Mapping[str, str] = {
    # The embedded suite.
    "data-json": "helpfulness",
    "how-to-steps": "helpful",
    "short-facts": "expert",
    "see-a-professional": "safe",
    "private-data": "harmlessness",
    "myths": "truthfulness",
    # The recipes of the paper's six sets.
    "capybara": "helpfulness",
    "hc3": "expert",
    "hh-harmless": "harmlessness",
    "hh-helpful": "helpful",
    "safe-rlhf": "safe",
    "truthfulqa": "truthfulness",
}

_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
_TEXT = r"\S"


class Criterion(Frozen):
    """One criterion for a good answer."""

    name: str = Field(pattern=_NAME)
    """Lower-case word; unique in the rubric."""
    text: str = Field(pattern=_TEXT)
    """Description of a good answer. Not blank."""


class Option(Frozen):
    """One answer to a step's question."""

    name: str = Field(pattern=_NAME)
    """Lower-case word; unique in the step."""
    text: str = Field(pattern=_TEXT)
    """When this option applies, and what makes a good answer then. Not blank."""


class Step(Frozen):
    """A question to answer before scoring."""

    name: str = Field(pattern=_NAME)
    """Lower-case word; unique in the rubric."""
    question: str = Field(pattern=_TEXT)
    """The question. Not blank."""
    options: tuple[Option, ...] = Field(min_length=2)
    """The allowed answers, two or more."""

    @field_validator("options")
    @classmethod
    def _unique(cls, options: tuple[Option, ...]) -> tuple[Option, ...]:
        _refuse_twins([option.name for option in options], "options")
        return options


class Scale(Frozen):
    """Whole numbers from `low` to `high`; more is better."""

    low: int = 1
    """Worst score. low < high."""
    high: int = 10
    """Best score. low < high."""
    anchors: dict[int, str]
    """Score -> its meaning; for `low`, `high` and any scores between."""

    @model_validator(mode="after")
    def _anchored(self) -> Scale:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        outside = [score for score in self.anchors if not self.low <= score <= self.high]
        if outside or not {self.low, self.high} <= set(self.anchors):
            raise ValueError(
                f"anchors must include {self.low} and {self.high} and no score outside, got {sorted(self.anchors)}"
            )
        return self

    def lines(self) -> list[str]:
        """``1: ...``, worst first."""
        return [f"{score}: {text.strip()}" for score, text in sorted(self.anchors.items())]


class Rubric(Frozen):
    """A question about an answer, with criteria and a scale."""

    name: str = Field(pattern=_NAME)
    """Lower-case word; recorded in every judgement and rating."""
    title: str = Field(pattern=_TEXT)
    """Heading for people. Not blank."""
    question: str = Field(pattern=_TEXT)
    """The question that judges and people answer, in one sentence. Not blank."""
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    """Criteria, the most important first; one or more."""
    scale: Scale
    """Scale of absolute scores."""
    sees: tuple[Literal["conversation", "reference"], ...] = ("conversation", "reference")
    """Material shown beside the answer: the whole conversation before it, a reference answer. Without `conversation`, only its last turn."""
    mode: Literal["absolute", "pairwise"] = "absolute"
    """Default mode; either mode works with any rubric."""
    steps: tuple[Step, ...] = ()
    """Questions to answer first, in this order."""

    @model_validator(mode="after")
    def _unique(self) -> Rubric:
        _refuse_twins([criterion.name for criterion in self.criteria], "criteria")
        _refuse_twins([step.name for step in self.steps], "steps")
        _refuse_twins(self.sees, "sees")
        return self


def _refuse_twins(names: tuple[str, ...] | list[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{what} must be unique, got {list(names)}")


def load_rubric(name_or_path: str | Path) -> Rubric:
    """Load a built-in rubric by name, or a user's own by the path of its YAML file.

    Raises:
        ConfigError: no such name or file, or the file is not a rubric; lists every mistake with its key.
    """
    text = str(name_or_path)
    if text in RUBRICS:
        path = Path(__file__).parent / f"{text}.yaml"
    elif Path(text).suffix in (".yaml", ".yml"):
        path = Path(text)
    else:
        raise ConfigError(
            f"rubric {text!r}: unknown{nearest(text, RUBRICS)}; allowed: {', '.join(RUBRICS)}, or a .yaml file"
        )
    try:
        return Rubric.model_validate(read_yaml(path))
    except ValidationError as error:
        raise together(list(explain(error, str(path), Rubric, ()))) from None


def rubric_for(task: str) -> Rubric | None:
    """The rubric for a task of the embedded suite or a recipe of the paper's sets; None for any other task."""
    return load_rubric(_TASKS[task]) if task in _TASKS else None


def parse_rubrics(given: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """Split ``RUBRIC`` and ``TASK=RUBRIC`` options into the rubric of all tasks and those of single tasks.

    The rubrics are not loaded yet.

    Raises:
        ConfigError: two rubrics for all tasks, or two for one task.
    """
    general: list[str] = []
    by_task: dict[str, str] = {}
    for text in given:
        task, equals, name = text.partition("=")
        if not equals:
            general.append(text)
        elif task in by_task:
            raise ConfigError(f"--rubric {text!r}: task {task!r} already has {by_task[task]!r}; give only one")
        else:
            by_task[task] = name
    if len(general) > 1:
        raise ConfigError(
            f"--rubric: expected one for all tasks, got {', '.join(general)}; for a single task, write TASK=RUBRIC"
        )
    return (general[0] if general else None), by_task
