"""Load tasks from a configuration, a file or a list of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from lifealign.core.broken_rule import rule_of
from lifealign.core.config import RunConfig, SourceConfig, StreamConfig, TaskConfig
from lifealign.core.errors import ConfigError, UserError
from lifealign.core.source_config import BEST_WORST
from lifealign.data.cleaning import Cleaned, clean, read_rows, read_source, require_rows
from lifealign.data.formats import FORMATS
from lifealign.data.recipes import find_recipe
from lifealign.data.renaming import rename
from lifealign.data.splits import DEFAULT_TEST_ROWS, drop_shared_prompts, split_task
from lifealign.data.suites.catalog import suite_of
from lifealign.data.suites.rules import check_rule
from lifealign.data.tasks import Row, Task, TaskStream
from lifealign.data.verdicts import Rules, source_of


def load_task(config: TaskConfig, seed: int) -> Task:
    """Read, clean and split the rows of one task.

    No prompt and no conversation is in both train and a held-out split: training rows whose prompt is in the test set,
    begins a conversation there or continues one are dropped and counted, and a split taken from train takes all rows of a
    conversation. Comparing prompts ignores case and white space.

    Args:
        config: sources and sizes.
        seed: with the task's name, the only input of every draw; each split keeps the order in which it was drawn.

    Raises:
        ConfigError: unknown recipe or rule.
        DataError: a source cannot be used, or too few rows are left.
    """
    check_rule(config.name, config.checker)
    train = read_rows(config.train, seed)
    if config.test is None:
        return split_task(config, train.rows, None, (train.report,), seed)
    test = read_rows(config.test, seed)
    train = drop_shared_prompts(train, test.rows)
    require_rows(train.report)
    return split_task(config, train.rows, test.rows, (train.report, test.report), seed)


def load_stream(config: StreamConfig, seed: int) -> TaskStream:
    """The tasks of a run, in the order in which they arrive.

    Raises:
        ConfigError: unknown recipe or rule.
        DataError: a source cannot be used, or too few rows are left.
    """
    if config.suite is not None:
        sizes, suite = config.sizes, suite_of(config)
        tasks = suite.stream(sizes.train_rows, sizes.validation_rows, sizes.test_rows, seed, sizes.unpaired).tasks
        ordered = tuple(tasks[i - 1] for i in config.order) if config.order else tasks
        check_superseded(ordered)
        return TaskStream(config.name, ordered)
    chosen = [config.tasks[i - 1] for i in config.order] if config.order else config.tasks
    for task in chosen:  # before any rows are read
        check_rule(task.name, task.checker)
    check_superseded(chosen)
    return TaskStream(config.name, tuple(load_task(task, seed) for task in chosen))


def configured_stream(config: RunConfig) -> TaskStream:
    """The tasks of a run's configuration; see `load_stream`.

    Raises:
        ConfigError: it has no stream.
    """
    if config.stream is None:
        raise ConfigError("the configuration has no `stream`, so there is nothing to run; see examples/planted.yaml")
    return load_stream(_transformed(config.stream, config.data.reward_transform), config.seed)


def _transformed(stream: StreamConfig, transform: str | None) -> StreamConfig:
    """The stream with `data.reward_transform` in each source of training rows that has none of its own."""
    if transform is None:
        return stream
    tasks = (
        task.model_copy(update={"train": task.train.model_copy(update={"reward_transform": transform})})
        if task.train.reward_transform is None
        else task
        for task in stream.tasks
    )
    return stream.model_copy(update={"tasks": tuple(tasks)})


def check_superseded(tasks: Sequence[Task] | Sequence[TaskConfig]) -> None:
    """Refuse a task that supersedes none before it in the order of arrival, or one that was superseded already.

    Raises:
        ConfigError: names both tasks and those that may be superseded.
    """
    current: list[str] = []
    superseded: dict[str, str] = {}
    for task in tasks:
        old = task.supersedes
        if old in superseded:
            raise ConfigError(
                f"task {task.name}: supersedes: {old!r} is superseded by {superseded[old]} already; "
                f"allowed here: {', '.join(current) or 'none, as no task comes before it'}"
            )
        if old is not None and old not in current:
            raise ConfigError(
                f"task {task.name}: supersedes: no earlier task {old!r} in the stream; "
                f"allowed here: {', '.join(current) or 'none, as no task comes before it'}"
            )
        if old is not None:
            current.remove(old)
            superseded[old] = task.name
        current.append(task.name)


def formats_used(config: StreamConfig, seed: int) -> dict[str, Mapping[str, Any]]:
    """Row format from outside -> its origin, of those that read rows of a stream; a source that cannot be read has none."""
    found: dict[str, Mapping[str, Any]] = {}
    for task in config.tasks if FORMATS.outside() else ():
        for source in (task.train, task.test):
            if source is not None and source.recipe is None:
                with contextlib.suppress(UserError):  # the run reports it
                    found |= read_source(source, seed).report.formats
    return found


def load_rows(
    rows: str | PathLike[str] | Sequence[Row | Mapping[str, Any]],
    label: str,
    *,
    recipe: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    **rules: Any,
) -> Cleaned:
    """Usable rows of a file (or hub data set id), or of a list of rows (called `label` in messages).

    `rules` are `pairs`, `good_from`, `bad_to` and `reward_transform` of `SourceConfig`.

    Raises:
        ConfigError: unknown recipe, or a rule that is none.
        DataError: the rows cannot be used, or none is left (lists the reasons).
    """
    if isinstance(rows, str | PathLike):
        found = read_source(source_of(fspath(rows), recipe=recipe, columns=columns, **rules), seed)
    else:
        records = [_record(row) if isinstance(row, Row) else row for row in rows]
        chosen = Rules.of(source_of(label, **rules))
        upstream = find_recipe(recipe) if recipe else None
        found = clean(rename(records, columns, label), label, upstream, seed, chosen)
        found = replace(_with_margins(found, rows), report=replace(found.report, renamed=columns or {}))
    require_rows(found.report)
    return found


def _with_margins(found: Cleaned, given: Sequence[Row | Mapping[str, Any]]) -> Cleaned:
    """`found` with the margins of rows that were given as `Row`: those of a file need a rule for pairs."""
    before = (given[number - 1] for number in found.numbers)
    margins = [row.margin if isinstance(row, Row) else None for row in before]
    rows = (row if m is None else replace(row, margin=m) for row, m in zip(found.rows, margins, strict=True))
    return replace(found, rows=tuple(rows))


def _record(row: Row) -> Mapping[str, Any]:
    """A row as a record; its source is no column."""
    return {name: value for name, value in row.to_json().items() if name != "source"}


def task_from_rows(
    name: str,
    rows: str | PathLike[str] | Sequence[Row | Mapping[str, Any]],
    test: str | PathLike[str] | Sequence[Row | Mapping[str, Any]] | None = None,
    *,
    recipe: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int = 0,
    test_rows: int | None = None,
    requirement: str | None = None,
    checker: str | None = None,
    supersedes: str | None = None,
    pairs: str = BEST_WORST,
    good_from: float | None = None,
    bad_to: float | None = None,
    reward_transform: str | None = None,
) -> Task:
    """Build a task from a file (or hub data set id), or from a list of rows.

    Args:
        name: of the task; letters and digits of any language, spaces, ``-``, ``_``, ``&`` and ``'``.
        rows: path, or rows (`Row`, or mappings in one of the formats of `lifealign.data.formats`).
        test: held-out rows, given in the same way; None takes them from `rows` with the seed.
        recipe: name of a recipe for upstream columns.
        columns: new name -> column of `rows` and `test`, renamed before the layout is recognised.
        seed: for all draws.
        train_rows: maximum number of training rows; None: all.
        validation_rows: number of validation rows, taken from `rows`.
        test_rows: maximum number of test rows; None: all of `test`, or, without `test`, a fifth of the rows but at
            most 40.
        requirement: what the task asks for, in words; None: the name with hyphens as spaces, if a strategy needs it.
        checker: rule that greedy answers must pass, by name or path/to/file.py:function; None: the task has no pass rate.
        supersedes: task of the memory that this one replaces; None: none.
        pairs: rule for pairs of scored answers: `best-worst`, `best-worst MARGIN` or `all-above MARGIN`.
        good_from: a number as a label means a wanted answer from here on; None: only 1, 0 and -1 are labels.
        bad_to: such a number means an unwanted answer up to here; None: everything below `good_from`.
        reward_transform: of calibrated scores whose differences are margins, as `data.reward_transform`; None: none.

    Raises:
        ConfigError: invalid name or size, or unknown recipe or rule.
        DataError: the rows cannot be used, or there are too few.
    """
    sizes = {"train_rows": train_rows, "validation_rows": validation_rows, "test_rows": test_rows}
    config = _config(name=name, requirement=requirement, checker=checker, supersedes=supersedes, **sizes)
    check_rule(name, checker)
    reading: dict[str, Any] = {"recipe": recipe, "columns": columns, "seed": seed, "pairs": pairs}
    reading |= {"good_from": good_from, "bad_to": bad_to, "reward_transform": reward_transform}
    found = load_rows(rows, name, **reading)
    if test is None:
        share = max(1, min(DEFAULT_TEST_ROWS, len(found.rows) // 5))
        return split_task(config, found.rows, None, (found.report,), seed, share)
    held_out = load_rows(test, f"{name} (test)", **reading)
    train = drop_shared_prompts(found, held_out.rows)
    require_rows(train.report)
    return split_task(config, train.rows, held_out.rows, (train.report, held_out.report), seed)


def _config(**values: Any) -> TaskConfig:
    from pydantic import ValidationError

    try:
        return TaskConfig(train=SourceConfig(path=values["name"]), **values)
    except ValidationError as error:
        mistakes = (_mistake(".".join(map(str, e["loc"])), e) for e in error.errors())
        raise ConfigError("task " + "; ".join(mistakes)) from None


def _mistake(key: str, mistake: Mapping[str, Any]) -> str:
    rule, value = rule_of(mistake), mistake["input"]
    return f"{key} {value!r}: {rule}" if mistake["type"] == "value_error" else f"{key}: {rule}, got {value!r}"
