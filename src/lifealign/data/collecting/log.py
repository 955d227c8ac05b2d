"""Read a log whose lines may be damaged: each record with its line, each bad line with its reason. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.errors import DataError
from lifealign.core.files import file_sha256, read_bytes
from lifealign.core.json_text import NOT_UNICODE, is_unicode, parse_json
from lifealign.data.collecting.parts import Record
from lifealign.data.sources import read_table
from lifealign.data.tables import table_of

LINES = (".jsonl", ".ndjson", ".log")


@dataclass(frozen=True)
class Log:
    """The records of a file.

    Attributes:
        path: the file.
        sha256: of its bytes, 64 hex digits.
        records: number (of the line, or of the row where the file is no list of lines) and record.
        bad: reason -> numbers of lines that hold no record.
    """

    path: str
    sha256: str
    records: tuple[tuple[int, Record], ...]
    bad: dict[str, tuple[int, ...]]


def read_log(path: str) -> Log:
    """The records of a file. In a file of lines, a line that is no JSON object is left out by number.

    Raises:
        DataError: no such file, an unknown extension, or content that cannot be read at all.
    """
    file = Path(path)
    if file.is_dir() or not file.exists() or file.suffix.lower() not in LINES:
        table = read_table(path)  # with the message if there is no such file
        return _of_rows(path, file_sha256(path, DataError), table.records)
    data = read_bytes(path, DataError)
    digest = hashlib.sha256(data).hexdigest()
    rows = _of_one_value(data, path)
    if rows is not None:
        return _of_rows(path, digest, rows)
    records: list[tuple[int, Record]] = []
    bad: dict[str, list[int]] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        found = _record(line)
        if isinstance(found, str):
            bad.setdefault(found, []).append(number)
        else:
            records.append((number, found))
    return Log(path, digest, tuple(records), {reason: tuple(numbers) for reason, numbers in bad.items()})


def _record(line: bytes) -> Record | str:
    """The object of a line, or why there is none."""
    try:
        value = parse_json(line.decode())
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except ValueError as error:
        return NOT_UNICODE if str(error) == NOT_UNICODE else "not valid JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _of_rows(path: str, digest: str, rows: Sequence[Record]) -> Log:
    numbered = tuple(enumerate(rows, 1))
    broken = tuple(number for number, row in numbered if not is_unicode(row))
    return Log(
        path, digest, tuple(one for one in numbered if one[0] not in broken), {NOT_UNICODE: broken} if broken else {}
    )


def _of_one_value(data: bytes, path: str) -> list[Record] | None:
    """The rows of a file that is one JSON value, a list or an object that holds a table; None if it is lines."""
    try:
        value = parse_json(data.decode("utf-8-sig"), halves=True)
    except ValueError:
        return None
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    table = table_of(value, path) if isinstance(value, dict) else None
    return None if table is None else table.records
