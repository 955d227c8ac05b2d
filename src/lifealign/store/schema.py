"""Schemas of a memory's own records, which `manifest`, `tags` and `reader` read them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lifealign.core.documents import Count, Document, Name, Sha256, Stored, Text

DIRECTORY = r"^[0-9]{4,15}-[a-z0-9][a-z0-9_-]*$"
"""Form of the name of a task's directory."""
TAG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Form of a tag."""

DirectoryName = Annotated[str, Field(pattern=DIRECTORY, max_length=100)]
TagName = Annotated[str, Field(pattern=TAG)]


class _Open(Document):
    """A record that keeps what its schema does not name."""

    model_config = ConfigDict(extra="allow")


class Strategy(_Open):
    """A strategy's name, beside its options."""

    name: Name


class Model(_Open):
    """A base model's name."""

    name: Name


class Measured(_Open):
    """The settings of measurements that are read without the whole configuration."""

    bootstrap: Annotated[int, Field(ge=1, le=1_000_000)]


class Config(_Open):
    """The parts of a run's configuration that are read without the whole of it; `RunConfig` checks the rest."""

    seed: Count
    strategy: Strategy
    model: Model
    evaluate: Measured


class Origin(_Open):
    """Where code from outside came from; see `core.origin.Origin`."""

    kind: Name
    reference: Name | None
    path: Name | None
    distribution: Name | None
    version: Name | None
    sha256: Name | None
    files: dict[Name, Name] = Field(default_factory=dict)


class Code(Origin):
    """Code from outside by its registered name."""

    name: Name


class Base(_Open):
    """A base model."""

    weights: Name
    code: Name | None = None


class Identity(_Open):
    """What a memory is tied to, whoever made it."""

    seed: Count = 0


class Made(Identity):
    """What a memory that `lifealign learn` or `run` made is tied to."""

    config: Config
    strategy: Strategy
    base: Base
    tokenizer_sha256: Name
    template: Name
    template_sha256: Name
    lora: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = None
    code: dict[Literal["strategy", "loss"], Code] = Field(default_factory=dict)


class Numerics(_Open):
    """The numerics of a task."""

    device: Name
    dtype: Name
    products: Name
    compiled: bool
    tokens_per_pack: Count | None
    threads: Count
    torch: Name


class StoreRecord(Document):
    """store.json."""

    created: Name = ""
    identity: Identity = Identity()


class Entry(Document):
    """A manifest's entry for one file."""

    sha256: Sha256
    size: Count


class Meta(_Open):
    """What a manifest notes; older ones lack any of it."""

    note: Text | None = None
    retires: list[Name] = Field(default_factory=list)
    seconds: Stored = 0.0
    reference_seconds: Stored = 0.0
    rows_sha256: Name = ""
    numerics: Numerics | None = None


class TaskRecord(Document):
    """task.json."""

    directory: DirectoryName
    index: Count
    name: Name
    members: list[Name]
    parent: DirectoryName | None
    parent_sha256: Sha256
    files: dict[Name, Entry]
    seed: Count
    config: dict[str, Any]
    meta: Meta
    versions: dict[Name, Name | None]
    created: Name


class Evaluation(_Open):
    """What every record of evaluations/ has; `evaluation.records` has the schema of each kind."""

    kind: Name
    after: DirectoryName


class Envelope(Document):
    """A file of evaluations/."""

    number: Count
    record: Evaluation


class TagRecord(Document):
    """One tag."""

    directory: DirectoryName
    sha256: Sha256
    created: Name


class TagsRecord(Document):
    """tags.json."""

    tags: dict[TagName, TagRecord]


class DataRecord(_Open):
    """data.json: how a commit's rows were read; older memories lack some of it."""

    reports: dict[Name, list[Mapping[str, Any]]] = Field(default_factory=dict)
    requirements: dict[Name, Text | None] = Field(default_factory=dict)
    checkers: dict[Name, Origin] = Field(default_factory=dict)
    encoding_held_out: dict[Name, dict[Name, list[Name] | dict[Name, list[Name]]]] = Field(default_factory=dict)
    rows: Count = 0


class SignRecord(_Open):
    """Whether a method was itself in a task."""

    key: Name
    says: Text
    value: Stored | None
    low: Stored | None = None
    high: Stored | None = None
    holds: bool | None


class Diagnostics(_Open):
    """diagnostics.json: measurements by the strategy; any of them may be missing."""

    signs: list[SignRecord] = Field(default_factory=list)
    summed: dict[Name, Any] = Field(default_factory=dict)


Step = dict[Name, Stored | Text | None]
"""A line of training.jsonl: quantity -> its value in an optimizer step."""
