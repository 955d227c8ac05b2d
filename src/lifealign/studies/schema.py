"""Schema of a study's results.json: what the report reads from it. Results of earlier programs lack some of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from lifealign.core.documents import Count, Document, Number, Rate, Text
from lifealign.evaluation.catalog import SUMMARIES
from lifealign.evaluation.records import Outside

Label = Annotated[str, Field(max_length=300)]
"""A name in tables, charts and file names; at most 300 characters."""
Seed = Count
Tasks = Annotated[list[Label], Field(max_length=1000)]
Row = list[Number | None]
Settings = dict[Label, Any]
"""Settings: key -> any value of YAML."""


class _Part(Document):
    model_config = ConfigDict(extra="allow")


class Matrix(_Part):
    """The score matrix of a run."""

    R: Annotated[list[Row], Field(max_length=1000)]
    before: Row | None = None

    @model_validator(mode="after")
    def _square(self) -> Matrix:
        count = len(self.R)
        if any(len(row) != count for row in self.R):
            raise ValueError(f"R: expected {count} values in each of its {count} rows")
        if self.before and len(self.before) != count:
            raise ValueError(f"before: expected {count} values, one for each task")
        return self


class Program(_Part):
    """The program of a run."""

    version: Label | None = None
    commit: Label | None = None
    modified: bool | None = None
    code: Label | None = None


class Machine(_Part):
    """The kind of machine of a run."""

    processor: Label
    cores: Count | None = None
    threads: Count | None = None
    accelerator: Label | None = None


class FailedSign(_Part):
    """A sign of a method that did not hold."""

    key: Label
    says: Text
    task: Label
    value: Number
    low: Number | None = None
    high: Number | None = None


class Run(_Part):
    """One run."""

    id: Label | None = None
    method: Label
    strategy: Label | None = None
    settings: Settings | None = None
    order: Label
    seed: Seed | None = None
    model: Label | None = None
    status: Literal["done", "failed", "pending"]
    error: Text | None = None
    tasks: Tasks | None = None
    ends: dict[Label, Count] | None = None
    scores: dict[Label, Matrix] | None = None
    summary: dict[Label, dict[Label, Number | None]] | None = None
    seconds: Number | None = None
    train_seconds: Number | None = None
    peak_memory_gb: Number | None = None
    state_bytes: Number | None = None
    steps: Number | None = None
    rows_kept: Number | None = None
    program: Program | None = None
    machine: Machine | None = None
    signs: list[FailedSign] | None = None
    warnings: list[Text] | None = None

    @model_validator(mode="after")
    def _of_its_tasks(self) -> Run:
        for score, matrix in (self.scores or {}).items():
            if len(matrix.R) != len(self.tasks or ()):
                raise ValueError(f"scores.{score}.R: {len(matrix.R)} rows for {len(self.tasks or ())} tasks")
        return self


class Mean(_Part):
    """A mean over seeds with its interval."""

    mean: Number | None = None
    low: Number | None = None
    high: Number | None = None
    values: Row | None = None


class Difference(_Part):
    """A paired difference."""

    mean: Number | None = None
    low: Number | None = None
    high: Number | None = None
    p: Rate | None = None
    holm: Rate | None = None


class Line(_Part):
    """One line of the table."""

    method: Label
    strategy: Label | None = None
    order: Label
    model: Label | None = None
    seeds: list[Seed] | None = None
    metrics: dict[Label, dict[Label, Mean]] | None = None
    difference: dict[Label, dict[Label, Difference]] | None = None


class Spread(_Part):
    """Means by order, and how far they are apart."""

    spread: Number | None = None
    by_order: dict[Label, Number | None] | None = None


class Interference(_Part):
    """Changes in tasks by others."""

    metric: Label | None = None
    tasks: Tasks
    matrix: list[Row]

    @model_validator(mode="after")
    def _square(self) -> Interference:
        if [len(row) for row in self.matrix] != [len(self.tasks)] * len(self.tasks):
            raise ValueError(f"matrix: expected {len(self.tasks)} rows of {len(self.tasks)} values")
        return self


class Trial(_Part):
    """Settings that were tried."""

    settings: Settings | None = None
    value: Number | None = None
    runs: list[Label] | None = None
    error: Text | None = None


class Selection(_Part):
    """The trials of a method."""

    metric: Label | None = None
    trials: list[Trial] | None = None
    chosen: Settings | None = None


class Cost(_Part):
    """Costs of a method."""

    seconds: Number | None = None
    train_seconds: Number | None = None
    peak_memory_gb: Number | None = None
    state_bytes: Number | None = None
    steps: Number | None = None
    rows_kept: Number | None = None
    relative: Number | None = None
    machines: list[Label | None] | None = None


class Visible(_Part):
    """The differences that a design can see in one summary."""

    difference: Number | None
    corrected: Number | None = None
    comparisons: Count = 1
    source: Label
    pairs: Count = 0
    sd: Number | None = None


class Power(_Part):
    """What a design can see."""

    score: Label
    seeds: Count
    rows: list[Count] | None = None
    summaries: dict[Label, Visible | None]

    @model_validator(mode="after")
    def _known(self) -> Power:
        if unknown := sorted(set(self.summaries) - set(SUMMARIES)):
            raise ValueError(f"summaries: unknown {unknown[0]!r}; allowed: {', '.join(SUMMARIES)}")
        return self


class Results(_Part):
    """A study's results.json."""

    study: Label
    lifealign_version: Label | None = None
    note: Text | None = None
    selected_on: Label | None = None
    reported_on: Label | None = None
    orders: dict[Label, Tasks] | None = None
    baseline: Label | None = None
    runs: Annotated[list[Run], Field(max_length=100_000)]
    table: list[Line] | None = None
    orders_spread: dict[Label, dict[Label, dict[Label, Spread]] | None] | None = None
    interference: dict[Label, Interference] | None = None
    cost: dict[Label, Cost] | None = None
    selection: dict[Label, Selection] | None = None
    power: Power | None = None
    axes: dict[Label, list[Any]] | None = None
    outside: dict[Label, Outside] | None = None


class Record(_Part):
    """The record of a run, of which results are built."""

    id: Label
    strategy: Label
    model: Label
    status: Literal["done", "failed"]
    error: Text | None = None
    tasks: Tasks = Field(default_factory=list)
    ends: dict[Label, Count] = Field(default_factory=dict)
    scores: dict[Label, Matrix] = Field(default_factory=dict)
    summary: dict[Label, dict[Label, Number | None]] = Field(default_factory=dict)
    seconds: Number | None = None
    train_seconds: Number | None = None
    peak_memory_gb: Number | None = None
    state_bytes: Number | None = None
    steps: Number | None = None
    rows_kept: Number | None = None
    program: Mapping[str, Any] | None = None
    machine: Machine | None = None
    libraries: dict[Label, Label | None] | None = None
    outside: dict[Label, Outside] = Field(default_factory=dict)
    signs: list[FailedSign] | None = None
    warnings: list[Text] | None = None
