"""Turn records into rows: parse, validate and clean; every drop and repair is counted with its row number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lifealign.core.errors import DataError
from lifealign.core.json_text import NOT_UNICODE, is_unicode
from lifealign.data.collecting.report import kept_beside
from lifealign.data.formats import Parsed, Triple, parse
from lifealign.data.quality import doubts
from lifealign.data.reading import Reader
from lifealign.data.renaming import rename
from lifealign.data.sources import Record, expand_path, is_file_path, read_hub, read_table
from lifealign.data.tables import Table
from lifealign.data.tasks import DataReport, Row, RowKind, kinds_of
from lifealign.data.turns import UnusableRowError
from lifealign.data.unread import unsupported
from lifealign.data.verdicts import Rules

if TYPE_CHECKING:
    from lifealign.core.config import SourceConfig
    from lifealign.data.recipes import Recipe

PREFIX = re.compile(r"\s*Assistant:\s*")

PREFIX_STRIPPED = "'Assistant: ' prefix stripped"
SIDES_OF: Mapping[RowKind, tuple[str, ...]] = {
    "pair": ("chosen", "rejected"),
    "desirable": ("chosen",),
    "undesirable": ("rejected",),
    "demonstration": ("chosen",),
}
"""Kind of a row -> its answers."""


@dataclass(frozen=True)
class Cleaned:
    """The result of `clean` for the records of one source.

    Attributes:
        rows: the usable rows, in order.
        numbers: 1-based number of each of `rows` among the records; a record may make several rows (`SourceConfig.pairs`).
        report: what was dropped and repaired.
        formats: format name -> number of rows (kept or not) that had it.
        one_sided: 1-based numbers of rows in which exactly one answer had the "Assistant: " prefix.
        scores: for each of `rows`, scores of its chosen and its rejected answer, if the source has them; not stored.
    """

    rows: tuple[Row, ...]
    numbers: tuple[int, ...]
    report: DataReport
    formats: Mapping[str, int]
    one_sided: tuple[int, ...]
    scores: tuple[tuple[float, float] | None, ...]


def read_rows(source: SourceConfig, seed: int = 0) -> Cleaned:
    """Read, validate and clean the rows of one source.

    Args:
        source: a file (``~`` and ``${NAME}`` in its path are replaced) or a hub data set id.
        seed: for recipes that choose one of several answers.

    Raises:
        ConfigError: unknown recipe.
        DataError: the source cannot be read, has the wrong columns, or has no usable row (lists the reasons).
    """
    found = read_source(source, seed)
    require_rows(found.report)
    return found


def read_source(source: SourceConfig, seed: int = 0) -> Cleaned:
    """Like `read_rows`, but a source without usable rows is not an error."""
    from lifealign.data.recipes import find_recipe

    recipe = find_recipe(source.recipe) if source.recipe else None
    path = expand_path(source.path)
    if is_file_path(path):
        if source.split != "train":
            raise DataError(f"{path}: unknown split {source.split!r}; a file has only the split 'train'")
        table = read_table(path)
    else:
        hub = recipe.hub if recipe is not None and recipe.hub.id == path else None
        rows = read_hub(
            path,
            source.split,
            data_dir=source.data_dir or (hub.data_dir if hub else None),
            name=hub.config if hub else None,
            revision=hub.revision if hub else None,
        )
        table = Table(rows)
    found = clean(rename(table.records, source.map, path), path, recipe, seed, Rules.of(source))
    unread = {**found.report.unread, **table.beside}
    found = replace(found, report=replace(found.report, collected=kept_beside(path)))
    return replace(found, report=replace(found.report, unread=unread, renamed=source.map or {}))


def require_rows(report: DataReport) -> None:
    """Raise a `DataError` with the reasons of all drops if no row is left."""
    if report.kept == 0:
        reasons = "".join(f"\n  {line}" for line in report.lines()[1:])
        raise DataError(f"{report.source}: no usable row among {report.read}{':' if reasons else ''}{reasons}")


def clean(
    records: Sequence[Record], source: str, recipe: Recipe | None = None, seed: int = 0, rules: Rules | None = None
) -> Cleaned:
    """Turn records into rows; `layouts` lists the accepted columns.

    Args:
        records: as read, in order; record i has row number i + 1.
        source: file or hub id, for messages.
        recipe: maps the upstream columns of a public set; None: layouts are recognised by their columns.
        seed: for recipes that choose one of several answers; the choice depends only on it and the row.
        rules: for scores and labels; None: the default ones.

    Raises:
        DataError: the columns match no layout, or no layout of rows to learn from.
    """
    rules = rules or Rules()
    reader = Reader.of(records, source, recipe, seed, rules)
    kept = _Kept(source)
    for number, record in enumerate(records, 1):
        try:
            if not is_unicode(record):
                raise UnusableRowError(NOT_UNICODE)
            several = reader.read(record)
        except UnusableRowError as fault:
            kept.drop(number, fault)
            continue
        for found in several:
            try:
                kept.take(number, record, found)
            except UnusableRowError as fault:
                kept.drop(number, fault)
    report = DataReport(
        source,
        len(records),
        len(kept.rows),
        {reason: tuple(numbers) for reason, numbers in kept.dropped.items()},
        {repair: tuple(numbers) for repair, numbers in kept.repaired.items()},
        reader.formats(),
        reader.named_layouts(),
        reader.unread(),
        doubts(kept.rows, kept.numbers, kept.scores),
        rules=rules.lines(),
        kinds=kinds_of(kept.rows),
    )
    return Cleaned(
        tuple(kept.rows), tuple(kept.numbers), report, dict(kept.formats), tuple(kept.one_sided), tuple(kept.scores)
    )


@dataclass
class _Kept:
    """The rows of one source so far, and what became of the others."""

    source: str
    rows: list[Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    scores: list[tuple[float, float] | None] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    repaired: dict[str, list[int]] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    one_sided: list[int] = field(default_factory=list)

    def drop(self, number: int, fault: UnusableRowError) -> None:
        numbers = self.dropped.setdefault(str(fault), [])
        if number not in numbers[-1:]:  # two pairs of one row
            numbers.append(number)

    def take(self, number: int, record: Record, found: Triple | Parsed) -> None:
        """Add the row of one pair or answer of a record.

        Raises:
            UnusableRowError: it cannot be used; gives the reason.
        """
        parsed = found if isinstance(found, Parsed) else parse(found)
        self.formats[parsed.format] += 1
        prefixed = [PREFIX.match(answer) is not None for answer in (parsed.chosen, parsed.rejected)]
        if parsed.kind == "pair" and prefixed[0] != prefixed[1]:
            self.one_sided.append(number)
        row, repairs = _finish(parsed, f"{self.source}:{number}")
        if reason := unsupported(record):
            raise UnusableRowError(reason)
        content = replace(row, margin=None).digest
        if content in self.seen:
            raise UnusableRowError("duplicate row")
        self.seen.add(content)
        self.rows.append(row)
        self.numbers.append(number)
        self.scores.append(found.scores if isinstance(found, Triple) else None)
        for repair in dict.fromkeys((*found.repairs, *repairs)):
            numbers = self.repaired.setdefault(repair, [])
            if number not in numbers[-1:]:
                numbers.append(number)


def _finish(parsed: Parsed, source: str) -> tuple[Row, tuple[str, ...]]:
    """Strip the answers' prefixes and check everything, answers first: most faults are there."""
    repairs = parsed.repairs
    answers = {"chosen": parsed.chosen, "rejected": parsed.rejected}
    for side in SIDES_OF[parsed.kind]:
        answer = answers[side]
        prefix = PREFIX.match(answer)
        if prefix is not None:
            answers[side] = answer = answer[prefix.end() :]
            repairs = (*repairs, PREFIX_STRIPPED)
        if not answer.strip():
            raise UnusableRowError(f"empty {side} answer" if parsed.kind == "pair" else "empty answer")
    chosen, rejected = answers["chosen"], answers["rejected"]
    if chosen.strip() == rejected.strip():
        raise UnusableRowError("equal answers")
    if not parsed.prompt or not parsed.prompt[-1].content.strip():
        raise UnusableRowError("empty prompt")
    if parsed.prompt[-1].role != "user":
        raise UnusableRowError("prompt does not end with a user turn")
    if not is_unicode([chosen, rejected, *(m.content for m in parsed.prompt)]):  # JSON inside of a cell
        raise UnusableRowError(NOT_UNICODE)
    return Row(parsed.prompt, chosen, rejected, source, parsed.kind, parsed.margin), repairs
