"""Schemas of the evaluation records, which are read here and nowhere else; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from lifealign.core.documents import Count, Document, Name, Sha256, Stored, Text, check
from lifealign.store.layout import DRIFT_RECORD, GATE_RECORD, GUARD_RECORD, ROW_RECORD
from lifealign.store.reader import MemoryReader
from lifealign.store.schema import Origin

Values = dict[Name, list[Stored | None]]
"""Score -> its value of each row."""


class Outside(Document):
    """A score from outside, as `outside.record_of` describes it."""

    kind: Literal["score", "text metric"]
    label: Name
    note: Text = ""
    unit: Name = ""
    better: Literal["higher", "lower", "neither"] = "higher"
    rate: bool = False
    origin: Origin


class _Record(Document):
    model_config = ConfigDict(extra="allow")

    after: Name
    warnings: list[Text] = Field(default_factory=list)


class RowOptions(Document):
    """How a row of R was measured."""

    model_config = ConfigDict(extra="allow")

    split: Literal["test", "validation"]
    rows: Annotated[int, Field(ge=1)] | None = None
    one_adapter: bool = False


class Answer(Document):
    """A generated answer."""

    prompt: Text
    answer: Text
    passed: bool | None = None
    scores: dict[Name, Stored] = Field(default_factory=dict)


class Scores(Document):
    """Scores of one task."""

    task: Name
    rows: Values
    rows_sha256: Sha256 | Literal[""]
    answers: list[Answer] = Field(default_factory=list)
    floors: dict[Name, Values] = Field(default_factory=dict)


class RowRecord(_Record):
    """Scores after a commit: a row of R."""

    options: RowOptions
    scores: list[Scores]
    checkers: dict[Name, Origin | Text] = Field(default_factory=dict)
    outside: dict[Name, Outside] = Field(default_factory=dict)


class GuardOptions(Document):
    """How general ability was measured."""

    model_config = ConfigDict(extra="allow")

    probe: Name
    path: Name
    sha256: Name


class Windows(Document):
    """Values of the windows of a text."""

    nll: list[Stored]
    tokens: list[Annotated[int, Field(ge=1, le=2**53)]]

    @model_validator(mode="after")
    def _as_many(self) -> Windows:
        if len(self.nll) != len(self.tokens):
            raise ValueError(f"nll has {len(self.nll)} windows, but tokens has {len(self.tokens)}")
        return self


class Correct(Document):
    """Which questions were answered correctly."""

    correct: list[Annotated[float, Field(ge=0, le=1)]]
    left_out: Count = 0


class GuardRecord(_Record):
    """General ability after a commit."""

    options: GuardOptions
    scores: Mapping[str, Any]


class GateOutcome(Document):
    """Whether a gate held; see `gates.GateResult.to_json`."""

    gate: Name
    value: Stored | None
    low: Stored | None
    high: Stored | None
    held: bool
    detail: Text = ""
    reason: Text = ""


class GateRecord(_Record):
    """Gates that were checked at a commit."""

    created: Name
    gates: list[GateOutcome]


class DriftOptions(Document):
    """How a drift measure was taken."""

    model_config = ConfigDict(extra="allow")

    measure: Name


class DriftScores(Document):
    """A drift measure's values on the prompts of one task."""

    task: Name
    rows_sha256: Sha256
    values: dict[Name, list[Stored]]
    curves: dict[Name, list[list[Stored]]] = Field(default_factory=dict)
    tallies: dict[Name, dict[Text, Count]] = Field(default_factory=dict)
    left_out: Count = 0


class DriftRecord(_Record):
    """A drift measure after a commit."""

    options: DriftOptions
    scores: list[DriftScores]
    described: dict[Name, Any] = Field(default_factory=dict)


Samples = dict[Name, list[Stored] | Count]
"""Values of the rows of any other probe."""
_SAMPLES: Mapping[str, Any] = {"text": Windows, "choices": Correct}


def read_records(store: MemoryReader) -> list[dict[str, Any]]:
    """All evaluation records, oldest first, each of the shape of its kind; kinds that this version does not know are left out.

    Raises:
        StoreError: one is damaged, or of another shape; names its file and field.
    """
    found = []
    for path, record in store.evaluations_by_file().items():
        where = f"{path}: damaged: record"
        if record["kind"] == ROW_RECORD:
            check(RowRecord, record, where)
        elif record["kind"] == GATE_RECORD:
            check(GateRecord, record, where)
        elif record["kind"] == DRIFT_RECORD:
            check(DriftRecord, record, where)
        elif record["kind"] == GUARD_RECORD:
            guard = check(GuardRecord, record, where)
            check(_SAMPLES.get(guard.options.probe, Samples), guard.scores, f"{where}.scores")
        else:
            continue
        found.append(record)
    return found
