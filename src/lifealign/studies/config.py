"""Configuration of a study: methods, task orders, seeds, models, and the settings that are tried. Imports no torch.

A study file is read like a run's file: frozen models, unknown keys refused, all mistakes reported at once. The options
of a strategy can only be checked for a whole run; `plan` does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from lifealign.core.config import Frozen, RunConfig, StreamConfig
from lifealign.core.config_files import explain, nearest, read_yaml, together
from lifealign.core.errors import ConfigError
from lifealign.core.option_names import current_keys
from lifealign.core.origin import is_reference
from lifealign.data.suites.catalog import suite_of
from lifealign.evaluation import catalog
from lifealign.evaluation.outside import require

SECTIONS = ("lora", "sft", "strategy", "train")
"""Sections that a method may set; the rows, the model and the scoring are the same for all methods."""
STUDIES = "runs/studies"

Options = dict[str, tuple[Any, ...]]
"""Dotted key -> the values that are tried."""


def _check_keys(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in settings:
        section, _, rest = key.partition(".")
        if section not in SECTIONS or not rest:
            raise ValueError(
                f"{key!r} is not a setting of a method{nearest(section, SECTIONS)}; expected a dotted key of "
                f"{', '.join(SECTIONS)}, such as train.learning_rate"
            )
        if key == "strategy.name":
            raise ValueError("strategy.name cannot be a setting; write it as the method's `strategy`")
    return settings


def _check_options(options: Options) -> Options:
    _check_keys(options)
    for key, values in options.items():
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError(f"{key}: expected at least one value and none twice, got {list(values)}")
    return options


Settings = Annotated[dict[str, Any], AfterValidator(_check_keys)]
Choices = Annotated[Options, AfterValidator(_check_options)]


class MethodConfig(Frozen):
    """One row of the table: a strategy and its settings."""

    label: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _+.-]{0,63}$")
    """Name in the results; unique. A method given by a name alone is the strategy of that name."""
    strategy: str | None = None
    """Name of the strategy; None: the label."""
    set: Settings = Field({})
    """Settings that override `base`, as dotted key: value; keys of lora, sft, strategy and train."""
    grid: Choices | None = None
    """The method's own grid, instead of the common one."""
    sweep: Choices | None = None
    """The method's own sweep, instead of the common one."""

    @model_validator(mode="before")
    @classmethod
    def _current_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        label = values.get("label")
        strategy = values.get("strategy") or label
        parts = {key: values[key] for key in ("set", "grid", "sweep") if isinstance(values.get(key), Mapping)}
        return {**values, **{k: current_keys(strategy, part, f"method {label!r}") for k, part in parts.items()}}

    @property
    def strategy_name(self) -> str:
        """Name of the strategy, given or taken from the label."""
        return self.strategy or self.label


def _parts(metric: str) -> list[tuple[str, str]]:
    # A + may also be in the path of a score from outside, so it only parts where a summary follows.
    found = re.split(rf"\s*\+\s*(?=(?:{'|'.join(catalog.summaries())})\.)", metric)
    return [(summary, score) for summary, _, score in (part.partition(".") for part in found)]


class SelectionConfig(Frozen):
    """How the settings of a grid are chosen: on validation rows, in the first order, on all models.

    Choosing on the first tasks alone: Chaudhry et al. 2019, arXiv 1812.00420, section 2.
    """

    metric: str = "last.accuracy"
    """SUMMARY.SCORE on the validation rows, or the mean of several joined by `+`, as in `last.accuracy+last.pass_rate`. The best
    mean over the runs wins; ties go to the first."""
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    """Seeds of the trials; None: the first of `seeds`."""
    tasks: int | None = Field(None, ge=1)
    """Number of first tasks that a trial learns, because later ones are not known yet; None: all. 1 <= tasks."""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        summaries, scores = catalog.summaries(), catalog.names()
        for summary, score in _parts(value):
            if summary not in summaries or (score not in scores and not is_reference(score)):
                raise ValueError(
                    "expected SUMMARY.SCORE, or several joined by +; "
                    f"summaries: {', '.join(summaries)}; scores: {', '.join(scores)}"
                )
        return value

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Summary and score of each number whose mean decides."""
        return _parts(self.metric)


class PowerConfig(Frozen):
    """Assumptions about runs that are not finished, for the smallest difference that a study can see."""

    accuracy: float = Field(0.9, gt=0, lt=1)
    """Expected share of test rows that are right. 0 < accuracy < 1."""
    spread: float | None = Field(None, ge=0)
    """Standard deviation between seeds in points, beyond the noise of the rows; None: as measured. 0 <= spread."""
    correlation: float | None = Field(None, ge=-1, lt=1)
    """Correlation of two methods' values over the seeds; None: as measured. -1 <= correlation < 1."""


class StudyConfig(Frozen):
    """Everything that determines a study."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Letters, digits, `-`, `_`."""
    note: str | None = None
    """Shown with the results."""
    directory: str | None = None
    """Directory of the runs; studies that share it share their runs. None: runs/studies/NAME."""
    base: dict[str, Any]
    """Settings of every run, as in a run's file, without memory, seed, strategy.name and evaluate.split."""
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    """Methods by name or with settings."""
    orders: tuple[str, ...] = Field(("given",), min_length=1)
    """Task orders: `given`, `reversed`, `order1` to `order3` (the paper's, six tasks), `random:N`, `all` (up to 6 tasks)."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of the runs. 0 <= seed."""
    models: tuple[str, ...] = ()
    """Names of base models; empty: the model of `base`."""
    grid: Choices = Field({})
    """Dotted key: values to choose from on validation rows; every combination is one trial."""
    sweep: Choices = Field({})
    """Dotted key: values to report, one key at a time, for sensitivity curves; nothing is chosen."""
    selection: SelectionConfig = SelectionConfig()
    unequal_trials: bool = False
    """Allow methods with different numbers of trials; the numbers are part of the results."""
    baseline: str | None = None
    """Label of the method that the others are compared with, by paired differences."""
    power: PowerConfig = PowerConfig()
    """Assumptions of `lifealign study --power`."""
    timeout: float | None = Field(None, gt=0)
    """Time limit of a run, in seconds; a longer run is stopped and recorded as failed. 0 < timeout."""

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [{"label": m} if isinstance(m, str) else m for m in value] if isinstance(value, list) else value

    @field_validator("methods")
    @classmethod
    def _unique_labels(cls, value: tuple[MethodConfig, ...]) -> tuple[MethodConfig, ...]:
        labels = [m.label for m in value]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"labels must be unique, got {', '.join(twice)} more than once")
        return value

    @field_validator("seeds", "models", "orders")
    @classmethod
    def _different(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value) or any(isinstance(v, int) and v < 0 for v in value):
            raise ValueError(f"values must differ and seeds must be 0 or more, got {list(value)}")
        return value

    @field_validator("base")
    @classmethod
    def _no_axis_in_base(cls, value: dict[str, Any]) -> dict[str, Any]:
        mine = {"memory": "the study", "seed": "`seeds`"} | {
            "strategy.name": "`methods`",
            "evaluate.split": "the study (validation to choose, test to report)",
        }
        for key, who in mine.items():
            section, _, name = key.partition(".")
            inner = value.get(section)
            if (isinstance(inner, Mapping) and name in inner) if name else section in value:
                raise ValueError(f"{key} is set by {who}; leave it out")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> StudyConfig:
        labels = [m.label for m in self.methods]
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(
                f"baseline {self.baseline!r} is not a method{nearest(self.baseline, labels)}; "
                f"allowed: {', '.join(labels)}"
            )
        counts = {m.label: self.trials(m) for m in self.methods}
        if len(set(counts.values())) > 1 and not self.unequal_trials:
            shown = ", ".join(f"{label} {count}" for label, count in counts.items())
            raise ValueError(
                f"methods are tried with different numbers of settings ({shown}), which favours those with more; "
                "give each the same number, or set unequal_trials: true"
            )
        for method in self.methods:
            if both := sorted(set(self.grid_of(method)) & set(self.sweep_of(method))):
                raise ValueError(f"{both[0]} is in both the grid and the sweep of {method.label}; keep one")
        return self

    def grid_of(self, method: MethodConfig) -> Options:
        """Values that a method's settings are chosen from."""
        return current_keys(method.strategy_name, self.grid, "grid") if method.grid is None else method.grid

    def sweep_of(self, method: MethodConfig) -> Options:
        """Values that a method is reported at."""
        return current_keys(method.strategy_name, self.sweep, "sweep") if method.sweep is None else method.sweep

    def trials(self, method: MethodConfig) -> int:
        """Number of settings that a method is tried with; 1 if nothing is chosen."""
        count = 1
        for values in self.grid_of(method).values():
            count *= len(values)
        return count

    @property
    def runs_directory(self) -> Path:
        """Directory of the runs."""
        return Path(self.directory or f"{STUDIES}/{self.name}").expanduser()


def load_study(path: Path) -> tuple[StudyConfig, RunConfig]:
    """Read a study file; the second value is its `base`, checked except for the options of strategies.

    Raises:
        ConfigError: lists every mistake, each with its file and key, the value got and what is allowed.
    """
    tree = read_yaml(path)
    mistakes: list[str] = []
    study: StudyConfig | None = None
    base: RunConfig | None = None
    try:
        study = StudyConfig.model_validate(tree)
    except ValidationError as error:
        mistakes += explain(error, str(path), StudyConfig, ())
    if isinstance(tree.get("base"), Mapping):
        try:
            base = RunConfig.model_validate(tree["base"])
        except ValidationError as error:
            mistakes += explain(error, str(path), RunConfig, ("base",))
        if base is not None and base.stream is None:
            mistakes.append(f"{path}: base.stream: missing, so there is nothing to learn; see examples/studies")
        if base is not None:
            mistakes += _score_mistakes(path, base, study)
        chooses = study is not None and any(study.trials(m) > 1 for m in study.methods)
        if chooses and base is not None and base.stream is not None and not _has_validation(base.stream):
            mistakes.append(
                f"{path}: base.stream: validation_rows is 0, but a grid needs validation rows; raise it or drop `grid`"
            )
    if mistakes or study is None or base is None:
        raise together(mistakes)
    return study, base


def _score_mistakes(path: Path, base: RunConfig, study: StudyConfig | None) -> list[str]:
    """Mistakes in the measured scores, and in the one that settings are chosen by."""
    measured = base.evaluate.text_metrics + base.evaluate.scores
    try:
        require(base.evaluate.text_metrics, base.evaluate.scores)
    except ConfigError as error:
        return [f"{path}: base.{error}"]
    if study is None:
        return []
    parts = study.selection.parts
    mistakes = [why for part in parts if (why := _not_chosen_by(*part, base, measured))]
    kinds = {(catalog.score(score).unit, catalog.best_is_lowest(score, summary)) for summary, score in parts}
    if not mistakes and len(kinds) > 1:
        mistakes = ["the mean of numbers with different units or directions says nothing; join numbers of one kind"]
    return [f"{path}: selection.metric: {why}" for why in mistakes]


def _not_chosen_by(summary: str, score: str, base: RunConfig, measured: Sequence[str]) -> str | None:
    """Why settings cannot be chosen by a summary of a score; None: they can."""
    found, options = catalog.score(score), base.evaluate
    if found.better == "neither":
        return f"settings cannot be chosen by {score}: neither higher nor lower is better"
    if (score not in catalog.BUILT_IN or found.of_answer is not None) and score not in measured:
        return f"{score} is not measured; name it in base.evaluate.scores or .text_metrics"
    if score == "pass_rate" and not options.generations:
        return "pass_rate is measured on answers, but base.evaluate.generations is 0; set it to 1 or more"
    if score == "pass_rate" and base.stream is not None and not _has_rule(base.stream):
        return "pass_rate needs a task with a rule; name one as its `checker`"
    if summary in ("ap", "forgetting") and options.cells == "ends":
        return f"{summary} needs all cells of R, but base.evaluate.cells is ends; choose by last or bwt, or score all"
    return None


def _has_rule(stream: StreamConfig) -> bool:
    return stream.suite is not None or any(task.checker is not None for task in stream.tasks)


def _has_validation(stream: StreamConfig) -> bool:
    if stream.suite is not None:
        return stream.sizes.validation_rows != 0
    return all(task.validation_rows for task in stream.tasks)


def task_names(stream: StreamConfig) -> list[str]:
    """Names of the tasks as listed, before `stream.order`."""
    return [*suite_of(stream).tasks] if stream.suite is not None else [task.name for task in stream.tasks]
