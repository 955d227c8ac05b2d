"""`lifealign check-data --fix`: the cleaned rows of a file as a new one, in the explicit layout. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lifealign.core.errors import ConfigError, DataError
from lifealign.core.files import keep_apart, replace_file, writing
from lifealign.data.cleaning import Cleaned, clean
from lifealign.data.sources import expand_path
from lifealign.data.tasks import Row, shorten_numbers

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Fixed:
    """What was written.

    Attributes:
        path: the file.
        rows: number of rows in it.
        not_written: 1-based numbers (in the file that was checked) of kept rows that are not in it, because they would
            be read back as other rows.
    """

    path: str
    rows: int
    not_written: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"path": self.path, "rows": self.rows, "not_written": list(self.not_written)}

    def lines(self) -> list[str]:
        """The result as lines of text."""
        lines = [f"written: {self.path}, {self.rows} row{'' if self.rows == 1 else 's'}"]
        if self.not_written:
            lines.append(f"not written, would be read back as another row: {shorten_numbers(self.not_written)}")
        return lines


def check_target(path: Path, *read: str) -> None:
    """Refuse a file that cannot take the rows, before anything is read.

    Args:
        path: the file to write.
        read: the files that are read; hub ids do no harm.

    Raises:
        ConfigError: it is not a jsonl file, or is one of those that are read.
        DataError: the path of a file that is read has a variable that is not set.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"--fix {path}: the rows are written as JSONL; give a name that ends in {SUFFIX}")
    keep_apart(path, *(Path(expand_path(name)) for name in read), option="--fix")


def write_rows(path: Path, found: Cleaned) -> Fixed:
    """Write kept rows in TRL's conversational forms of their kinds, with their scores where they have some.

    The file appears whole or not at all. Reading it gives the same rows in the same order: rows for which that does not
    hold are left out, e.g. an answer that begins with "Assistant: " twice, of which each reading strips one.

    Raises:
        DataError: no row is left to write.
        StoreError: the file cannot be written.
    """
    kept = list(zip(found.rows, found.numbers, map(_record, found.rows, found.scores), strict=True))
    not_written: list[int] = []
    while True:
        again = clean([record for _, _, record in kept], str(path))
        # Margins are not read back without a rule; the scores that they come from are in the file.
        digests = {place: row.digest for place, row in zip(again.numbers, again.rows, strict=True)}
        same = [digests.get(place) == replace(row, margin=None).digest for place, (row, _, _) in enumerate(kept, 1)]
        if all(same):
            break
        not_written += [number for (_, number, _), good in zip(kept, same, strict=True) if not good]
        kept = [one for one, good in zip(kept, same, strict=True) if good]
    if not kept:
        raise DataError(f"--fix {path}: no row to write")
    with writing(path):
        replace_file(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for _, _, record in kept).encode())
    return Fixed(str(path), len(kept), tuple(sorted(not_written)))


def _record(row: Row, scores: tuple[float, float] | None) -> Mapping[str, Any]:
    record = {name: value for name, value in row.to_json().items() if name not in ("source", "margin")}
    return record if scores is None else {**record, "score_chosen": scores[0], "score_rejected": scores[1]}
