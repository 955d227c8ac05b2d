"""Turn records into rows: parse, validate and clean; every drop and repair is counted with its row number."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lifealign.core.errors import DataError
from lifealign.data.formats import FORMATS, Parsed, Triple, UnusableRowError, columns, parse, read_outside
from lifealign.data.sources import Record, columns_of, expand_path, is_file_path, read_file, read_hub
from lifealign.data.tasks import DataReport, Row

if TYPE_CHECKING:
    from lifealign.core.config import SourceConfig
    from lifealign.data.recipes import Recipe

PREFIX = re.compile(r"\s*Assistant:\s*")

PREFIX_STRIPPED = "'Assistant: ' prefix stripped"


@dataclass(frozen=True)
class Cleaned:
    """The result of `clean` for the records of one source.

    Attributes:
        rows: the usable rows, in order.
        numbers: 1-based number of each of `rows` among the records.
        report: what was dropped and repaired.
        formats: format name -> number of rows (kept or not) that had it.
        one_sided: 1-based numbers of rows in which exactly one answer had the "Assistant: " prefix.
    """

    rows: tuple[Row, ...]
    numbers: tuple[int, ...]
    report: DataReport
    formats: Mapping[str, int]
    one_sided: tuple[int, ...]


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
        records: Sequence[Record] = read_file(path)
    else:
        hub = recipe.hub if recipe is not None and recipe.hub.id == path else None
        records = read_hub(
            path,
            source.split,
            data_dir=source.data_dir or (hub.data_dir if hub else None),
            name=hub.config if hub else None,
            revision=hub.revision if hub else None,
        )
    return clean(records, path, recipe, seed)


def require_rows(report: DataReport) -> None:
    """Raise a `DataError` with the reasons of all drops if no row is left."""
    if report.kept == 0:
        reasons = "".join(f"\n  {line}" for line in report.lines()[1:])
        raise DataError(f"{report.source}: no usable row among {report.read}{':' if reasons else ''}{reasons}")


def clean(records: Sequence[Record], source: str, recipe: Recipe | None = None, seed: int = 0) -> Cleaned:
    """Turn records into rows; `formats` lists the accepted columns.

    Args:
        records: as read, in order; record i has row number i + 1.
        source: file or hub id, for messages.
        recipe: maps the upstream columns of a public set; None for the formats of `formats`.
        seed: for recipes that choose one of several answers; the choice depends only on it and the row.

    Raises:
        DataError: the columns match no format.
    """
    found_columns = columns_of(records)
    if records and not (recipe is None and any(_known_outside(record) for record in records)):
        _check_columns(found_columns, source, recipe)
    rows: list[Row] = []
    kept: list[int] = []
    seen: set[str] = set()
    dropped: dict[str, list[int]] = {}
    repaired: dict[str, list[int]] = {}
    formats: Counter[str] = Counter()
    one_sided: list[int] = []
    registered: set[str | None] = set()
    for number, record in enumerate(records, 1):
        try:
            name, outside = (read_outside(record) if recipe is None else None) or (None, None)
            registered |= {name}
            triple = outside if isinstance(outside, Triple) else _triple(record, recipe, seed)
            if outside is None and recipe is None and not {"prompt", "query"} & set(found_columns):
                triple = replace(triple, no_prompt_column=True)
            parsed = outside if isinstance(outside, Parsed) else parse(triple)
            formats[parsed.format] += 1
            if (PREFIX.match(parsed.chosen) is None) != (PREFIX.match(parsed.rejected) is None):
                one_sided.append(number)
            row, repairs = _finish(parsed, f"{source}:{number}")
            if row.digest in seen:
                raise UnusableRowError("duplicate row")
        except UnusableRowError as reason:
            registered |= {reason.format}
            dropped.setdefault(str(reason), []).append(number)
            continue
        seen.add(row.digest)
        rows.append(row)
        kept.append(number)
        for repair in dict.fromkeys((*triple.repairs, *repairs)):
            repaired.setdefault(repair, []).append(number)
    report = DataReport(
        source,
        len(records),
        len(rows),
        {reason: tuple(numbers) for reason, numbers in dropped.items()},
        {repair: tuple(numbers) for repair, numbers in repaired.items()},
        {name: FORMATS.origin(name).to_json() for name in sorted(filter(None, registered))},
    )
    return Cleaned(tuple(rows), tuple(kept), report, dict(formats), tuple(one_sided))


def _check_columns(found: Sequence[str], source: str, recipe: Recipe | None) -> None:
    from lifealign.data.recipes import RECIPES

    if {"chosen", "rejected"} <= set(found) or (recipe is not None and recipe.reads(found)):
        return
    needed = "prompt (or query), chosen, rejected; or chosen and rejected that both begin with the prompt"
    if recipe is not None:
        needed += f"; or, for recipe {recipe.name}, {recipe.upstream}"
    fitting = [r.name for r in RECIPES.values() if recipe is None and r.reads(found)]
    hint = f"; these columns match recipe: {', '.join(fitting)}" if fitting else ""
    raise DataError(f"{source}: wrong columns: found {', '.join(found) or 'none'}; needed {needed}{hint}")


def _known_outside(record: Record) -> bool:
    try:
        return read_outside(record) is not None
    except UnusableRowError:  # a format knows the record and rejects it
        return True


def _triple(record: Record, recipe: Recipe | None, seed: int) -> Triple:
    if recipe is None:
        return columns(record)
    prompt = columns(record).prompt
    if recipe.reads(list(record)):
        return recipe.from_upstream(record, random.Random(f"{seed}/{recipe.name}/{sorted(map(str, record.items()))}"))
    triple = Triple(prompt, record.get("chosen"), record.get("rejected"))
    return recipe.repair(triple, random.Random(f"{seed}/{recipe.name}/{prompt}/{triple.rejected}"))


def _finish(parsed: Parsed, source: str) -> tuple[Row, tuple[str, ...]]:
    """Strip the answers' prefixes and check everything, answers first: most faults are there."""
    repairs = parsed.repairs
    answers = []
    for side, answer in (("chosen", parsed.chosen), ("rejected", parsed.rejected)):
        prefix = PREFIX.match(answer)
        if prefix is not None:
            answer = answer[prefix.end() :]
            repairs = (*repairs, PREFIX_STRIPPED)
        if not answer.strip():
            raise UnusableRowError(f"empty {side} answer")
        answers.append(answer)
    chosen, rejected = answers
    if chosen.strip() == rejected.strip():
        raise UnusableRowError("equal answers")
    if not parsed.prompt or not parsed.prompt[-1].content.strip():
        raise UnusableRowError("empty prompt")
    if parsed.prompt[-1].role != "user":
        raise UnusableRowError("prompt does not end with a user turn")
    try:
        "".join((chosen, rejected, *(m.content for m in parsed.prompt))).encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableRowError("text is not valid Unicode (a lone surrogate)") from None
    return Row(parsed.prompt, chosen, rejected, source), repairs
