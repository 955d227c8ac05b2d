"""Configuration of a stream: its tasks, from files or an embedded suite, and their order. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lifealign.core.frozen import Frozen
from lifealign.core.source_config import SourceConfig

TASK_NAME = re.compile(r"[^\W_](?:[\w &'-]{0,62}[\w'-])?")
"""Letters and digits of any language. A full stop, a colon, a comma and = < > ( ) have a meaning in gates and options."""


class TaskConfig(Frozen):
    """One task given by files or hub data sets."""

    _newer: ClassVar[frozenset[str]] = frozenset({"checker", "supersedes"})
    name: str
    """Letters and digits of any language, spaces, `-`, `_`, `&`, `'`; unique in the stream; `base`, `initial` and `now` are reserved."""
    train: SourceConfig
    """Rows to learn from."""
    test: SourceConfig | None = None
    """Held-out rows to report on; None: taken from train with the seed."""
    train_rows: int | None = Field(None, ge=1)
    """Maximum number of training rows, drawn with the seed. 1 <= train_rows."""
    validation_rows: int = Field(40, ge=0)
    """Number of validation rows, taken from train with the seed. 0 <= validation_rows."""
    test_rows: int | None = Field(None, ge=1)
    """Maximum number of test rows, drawn with the seed; without `test`, the number taken from train (default 40)."""
    requirement: str | None = Field(None, pattern=r"\S")
    """The task's requirement in words, for strategies that read it. Not blank; None: the name with hyphens as spaces."""
    checker: str | None = Field(None, pattern=r"\S")
    """Rule that greedy answers must pass, by name or path/to/file.py:function; None: the task has no pass rate."""
    supersedes: str | None = None
    """Earlier task of the stream that this one replaces: it is withdrawn before this one is learnt. None: none."""

    @field_validator("name")
    @classmethod
    def _usable(cls, value: str) -> str:
        value = unicodedata.normalize("NFC", value)
        if TASK_NAME.fullmatch(value) is None:
            slug = re.sub(r"[^a-z0-9_]+", "-", value.lower()).strip("-_")[:64]
            hint = f", such as {slug}" if slug else ""
            raise ValueError(
                "use letters and digits of any language, spaces, - _ & and ', at most 64 in all, and begin with a letter or "
                f"digit{hint}"
            )
        if value in ("base", "initial", "now"):
            raise ValueError(f"{value!r} names a point of a memory's life; choose another name")
        return value


class SuiteConfig(Frozen):
    """Rows per task of an embedded suite; None takes all."""

    _newer: ClassVar[frozenset[str]] = frozenset({"unpaired"})
    train_rows: int | None = Field(None, ge=1)
    """Training rows per task. 1 <= train_rows."""
    validation_rows: int | None = Field(None, ge=0)
    """Validation rows per task. 0 <= validation_rows."""
    test_rows: int | None = Field(None, ge=1)
    """Test rows per task. 1 <= test_rows."""
    unpaired: bool = False
    """Split each training pair into two rows of feedback, one desirable and one undesirable; held-out rows stay pairs."""


class DriftingConfig(SuiteConfig):
    """Rows per step of the drifting suite, and how its preference moves."""

    _newer: ClassVar[frozenset[str]] = frozenset({"unpaired", "drift"})
    drift: Literal["linear", "oscillating", "jump"] = "linear"
    """Path of the preference over the steps: by equal parts, to and fro, or changed once."""


SUITE_SIZES: Mapping[str, int] = {"planted": 6, "contested": 8, "revised": 8, "long": 24, "drifting": 6}
"""Number of tasks of each embedded suite."""


class StreamConfig(Frozen):
    """The tasks and their order: either an embedded suite or a list of tasks."""

    _newer: ClassVar[frozenset[str]] = frozenset({"contested", "revised", "long", "drifting"})
    name: str = "stream"
    """Name of the stream, shown in the report."""
    planted: SuiteConfig | None = None
    """The embedded suite of six domains, each with a behaviour of its own."""
    contested: SuiteConfig | None = None
    """The embedded suite of one support desk, where a detail of the request decides between eight behaviours."""
    revised: SuiteConfig | None = None
    """The embedded suite of a shop and a library, where three later tasks change the rule of an earlier one."""
    long: SuiteConfig | None = None
    """The embedded suite of 24 tasks: three kinds of request in each of eight domains."""
    drifting: DriftingConfig | None = None
    """The embedded suite of six steps of one task, whose preference drifts from step to step."""
    tasks: tuple[TaskConfig, ...] = ()
    """Tasks from files or hub data sets."""
    order: tuple[int, ...] | None = None
    """1-based order in which the tasks arrive, e.g. [3, 1, 6, 4, 2, 5]; None: as listed. May leave tasks out."""

    @model_validator(mode="after")
    def _one_source(self) -> StreamConfig:
        given = [name for name in (*SUITE_SIZES, "tasks") if getattr(self, name) not in (None, ())]
        if len(given) != 1:
            suites = ", ".join(f"`{name}`" for name in SUITE_SIZES)
            raise ValueError(f"give exactly one of {suites} and `tasks`, got {' and '.join(given) or 'none'}")
        names = [t.name for t in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"task names must be unique, got {names}")
        if self.order is not None:
            count = len(self.tasks) if self.suite is None else SUITE_SIZES[self.suite]
            if (
                not self.order
                or len(set(self.order)) != len(self.order)
                or not set(self.order) <= set(range(1, count + 1))
            ):
                raise ValueError(f"order must name tasks 1..{count}, each at most once, got {list(self.order)}")
        return self

    @property
    def suite(self) -> str | None:
        """Name of the embedded suite; None: the tasks are listed."""
        return next((name for name in SUITE_SIZES if getattr(self, name) is not None), None)

    @property
    def sizes(self) -> SuiteConfig:
        """Rows per task of the embedded suite; all of them if the tasks are listed."""
        sizes: SuiteConfig | None = None if self.suite is None else getattr(self, self.suite)
        return SuiteConfig() if sizes is None else sizes
