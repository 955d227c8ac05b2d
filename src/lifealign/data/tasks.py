"""Preference tasks: rows, tasks and streams of tasks, their splits and what became of their rows.

Reading and cleaning live in `rows`, the draws in `splits`. This module imports no torch and no `datasets`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from lifealign.core.errors import ConfigError

if TYPE_CHECKING:
    from lifealign.core.config import StreamConfig, TaskConfig
    from lifealign.data.cleaning import Cleaned

SHOWN_ROW_NUMBERS = 10

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


def turns_of(prompt: str | Sequence[Message]) -> Sequence[Message]:
    """A prompt as a conversation; a string is one user turn."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


@dataclass(frozen=True)
class Row:
    """One preference triple (x, y_chosen, y_rejected).

    Attributes:
        prompt: the conversation so far; its last turn is a user turn. A plain string prompt is one user turn.
        chosen: text of the preferred answer (the final assistant turn).
        rejected: text of the other answer.
        source: where the row came from, as ``file:row`` (1-based); for messages only, not part of the digest.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content: equal rows have equal digests wherever they came from."""
        turns = [[m.role, m.content] for m in self.prompt]
        return hashlib.sha256(json.dumps([turns, self.chosen, self.rejected]).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The row in TRL's conversational preference format, with its source."""
        return {
            "prompt": [{"role": m.role, "content": m.content} for m in self.prompt],
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        return cls(
            prompt=tuple(Message(m["role"], m["content"]) for m in value["prompt"]),
            chosen=value["chosen"][0]["content"],
            rejected=value["rejected"][0]["content"],
            source=value.get("source", ""),
        )


def rows_sha256(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of the rows' content, in order."""
    return hashlib.sha256("".join(row.digest for row in rows).encode()).hexdigest()


@dataclass(frozen=True)
class DataReport:
    """What was read, dropped and repaired in one source of rows.

    Attributes:
        source: file, hub id or suite name.
        read: number of rows read.
        kept: number of rows kept.
        dropped: reason -> 1-based row numbers that were left out.
        repaired: repair -> 1-based row numbers that were changed and kept.
    """

    source: str
    read: int
    kept: int
    dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    repaired: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: a summary, then one line for each reason and each repair; long lists of rows are shortened."""
        lines = [f"{self.source}: read {_rows(self.read)}, kept {self.kept}"]
        for done, what in (("dropped", self.dropped), ("repaired", self.repaired)):
            lines += [f"{done} {_rows(len(n))}: {reason} ({shorten_numbers(n)})" for reason, n in what.items()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, row numbers in full."""
        return {
            "source": self.source,
            "read": self.read,
            "kept": self.kept,
            "dropped": {reason: list(numbers) for reason, numbers in self.dropped.items()},
            "repaired": {repair: list(numbers) for repair, numbers in self.repaired.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataReport:
        """The inverse of `to_json`."""
        return cls(
            value["source"],
            value["read"],
            value["kept"],
            {reason: tuple(numbers) for reason, numbers in value["dropped"].items()},
            {repair: tuple(numbers) for repair, numbers in value["repaired"].items()},
        )


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def shorten_numbers(numbers: Sequence[int]) -> str:
    """Row numbers for people, e.g. "rows 4, 17, 220" or "rows 1, ..., 10 and 25 more"."""
    shown = ", ".join(str(n) for n in numbers[:SHOWN_ROW_NUMBERS])
    more = len(numbers) - SHOWN_ROW_NUMBERS
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Task:
    """One task of the stream.

    Attributes:
        name: unique in its stream; letters, digits, ``-`` and ``_``.
        train: rows to learn from.
        validation: rows to choose hyper-parameters on; taken from train with the seed.
        test: rows to report on; no row of them stands in train.
        checker: name of the rule that scores generated answers (a key of `suites.planted.CHECKERS`), or None.
        reports: one data report for each source read.
        requirement: what the task asks for, in words; None: not written down.
    """

    name: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()
    checker: str | None = None
    reports: tuple[DataReport, ...] = ()
    requirement: str | None = None

    @property
    def requirement_text(self) -> str:
        """What the task asks for, in words: its requirement, else its name with hyphens as spaces."""
        return self.requirement or self.name.replace("-", " ")


@dataclass(frozen=True)
class TaskStream:
    """Tasks in the order in which they arrive."""

    name: str
    tasks: tuple[Task, ...]


def load_task(config: TaskConfig, seed: int) -> Task:
    """Read, clean and split the rows of one task.

    Rows of one prompt never stand on both sides of train and a held-out split: training rows whose prompt is in the
    test set are dropped (counted), and splits taken from train take all rows of a prompt. Prompts are compared without
    regard to case and white space.

    Args:
        config: sources and sizes.
        seed: with the task's name, the only input of every draw; each split stands in the order it was drawn.

    Raises:
        ConfigError: unknown recipe.
        DataError: a source cannot be used, or too few rows are left.
    """
    from lifealign.data.cleaning import read_rows, require_rows
    from lifealign.data.splits import drop_shared_prompts, split_task

    train, report = read_rows(config.train, seed)
    if config.test is None:
        return split_task(config, train, None, (report,), seed)
    test, test_report = read_rows(config.test, seed)
    train, report = drop_shared_prompts(train, report, test)
    require_rows(report)
    return split_task(config, train, test, (report, test_report), seed)


def load_stream(config: StreamConfig, seed: int) -> TaskStream:
    """The tasks of a run, in the order in which they arrive.

    Raises:
        ConfigError: unknown recipe.
        DataError: a source cannot be used, or too few rows are left.
    """
    if config.planted is not None:
        from lifealign.data.planted.suite import planted_stream

        sizes = config.planted
        tasks = planted_stream(sizes.train_rows, sizes.validation_rows, sizes.test_rows, seed).tasks
        return TaskStream(config.name, tuple(tasks[i - 1] for i in config.order) if config.order else tuple(tasks))
    chosen = [config.tasks[i - 1] for i in config.order] if config.order else config.tasks
    return TaskStream(config.name, tuple(load_task(task, seed) for task in chosen))


def load_rows(
    rows: str | PathLike[str] | Sequence[Row | Mapping[str, Any]],
    label: str,
    *,
    recipe: str | None = None,
    seed: int = 0,
) -> Cleaned:
    """Usable rows of a file (or hub data set id), or of rows at hand (named `label` in messages).

    Raises:
        ConfigError: an unknown recipe.
        DataError: rows that cannot be used; or none is left (lists why).
    """
    from lifealign.core.config import SourceConfig
    from lifealign.data.cleaning import clean, read_source, require_rows
    from lifealign.data.recipes import find_recipe

    if isinstance(rows, str | PathLike):
        found = read_source(SourceConfig(path=fspath(rows), recipe=recipe), seed)
    else:
        records = [row.to_json() if isinstance(row, Row) else row for row in rows]
        found = clean(records, label, find_recipe(recipe) if recipe else None, seed)
    require_rows(found.report)
    return found


def task_from_rows(
    name: str,
    rows: str | PathLike[str] | Sequence[Row | Mapping[str, Any]],
    test: str | PathLike[str] | Sequence[Row | Mapping[str, Any]] | None = None,
    *,
    recipe: str | None = None,
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int = 0,
    test_rows: int | None = None,
    requirement: str | None = None,
) -> Task:
    """One task from a file (or hub data set id), or from rows at hand.

    Args:
        name: of the task; letters, digits, ``-`` and ``_``.
        rows: path, or rows (`Row`, or mappings in one of the formats of `lifealign.data.formats`).
        test: likewise for the held-out rows; None takes them from `rows` with the seed.
        recipe: of `suites.paper`, for upstream columns.
        seed: of all draws.
        train_rows: at most so many training rows; None: all.
        validation_rows: rows taken from `rows` for validation.
        test_rows: at most so many test rows; None: all of `test`, or, where `test` is None, a fifth of the rows but
            at most 40.
        requirement: what the task asks for, in words; None: its name, hyphens as spaces, where a strategy reads it.

    Raises:
        ConfigError: a name or size out of range, an unknown recipe.
        DataError: rows that cannot be used, or too few of them.
    """
    from pydantic import ValidationError

    from lifealign.core.config import SourceConfig, TaskConfig
    from lifealign.data.cleaning import require_rows
    from lifealign.data.splits import DEFAULT_TEST_ROWS, drop_shared_prompts, split_task

    try:
        config = TaskConfig(
            name=name,
            train=SourceConfig(path=name),
            train_rows=train_rows,
            validation_rows=validation_rows,
            test_rows=test_rows,
            requirement=requirement,
        )
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise ConfigError("task " + "; ".join(mistakes)) from None
    found = load_rows(rows, name, recipe=recipe, seed=seed)
    if test is None:
        if test_rows is None:
            config = config.model_copy(update={"test_rows": max(1, min(DEFAULT_TEST_ROWS, len(found.rows) // 5))})
        return split_task(config, found.rows, None, (found.report,), seed)
    held_out = load_rows(test, f"{name} (test)", recipe=recipe, seed=seed)
    train, report = drop_shared_prompts(found.rows, found.report, held_out.rows)
    require_rows(report)
    return split_task(config, train, held_out.rows, (report, held_out.report), seed)
