"""Read plain records from a json, jsonl, parquet or csv file, or from a hub data set.

json, jsonl and csv go through Python's own parsers, because `datasets` guesses types (dates become timestamps, "007" a
number, so the original text is lost) and reports errors without a line number. parquet goes through pyarrow, in batches
(`data.parquet`); only the hub needs `datasets`.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.errors import DataError
from lifealign.core.files import decode_text, read_text
from lifealign.core.hub import OF_ROWS, from_cache_if_unreachable, looks_local, unreachable
from lifealign.core.json_text import NOT_UNICODE, is_unicode, parse_json, unpacked
from lifealign.core.limits import READ, ROWS, shown
from lifealign.data.parquet import read_parquet
from lifealign.data.tables import Table, table_of

Record = Mapping[str, Any]

STDIN = "-"
"""Means standard input, as json or jsonl."""
EXTENSIONS = (".json", ".jsonl", ".parquet", ".csv")


def expand_path(path: str) -> str:
    """`path` with ``~`` and ``$NAME`` or ``${NAME}`` replaced.

    Raises:
        DataError: a variable is not set.
    """
    for name in re.findall(r"\$(?:\{(\w+)\}|(\w+))", path):
        variable = name[0] or name[1]
        if variable not in os.environ:
            raise DataError(f"{path}: the environment variable {variable} is not set; set it to the folder of the data")
    expanded = os.path.expandvars(path)
    try:
        return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from None


def is_file_path(path: str) -> bool:
    """Whether `path` means a file, never the hub; see `hub.looks_local`."""
    return path == STDIN or looks_local(path, OF_ROWS)


def read_file(path: str) -> list[Record]:
    """The records of `read_table`, for readers that leave no row out.

    Raises:
        DataError: see `read_table`; or a row holds half of a character.
    """
    records = read_table(path).records
    for number, record in enumerate(records, 1):
        if not is_unicode(record):
            raise DataError(f"{path}: row {number}: {NOT_UNICODE}")
    return records


def read_table(path: str) -> Table:
    """Read the records of a json, jsonl, parquet or csv file, in order.

    A json file holds a list of rows, one row per line, a list of rows under a key, or an object of columns. Texts may hold
    half of a character: cleaning leaves such a row out and counts it.

    Raises:
        DataError: no such file, an unknown extension, or content that does not match the extension.
    """
    if path == STDIN:
        return _read_json(path)
    file = Path(path)
    if file.is_dir():
        raise DataError(f"{path}: is a directory; expected a file ending in {', '.join(EXTENSIONS)}")
    if not file.exists():
        raise DataError(f"{path}: no such file")
    extension = file.suffix.lower()
    if extension in (".json", ".jsonl"):
        return _read_json(path)
    if extension == ".csv":
        return Table(_read_csv(path))
    if extension == ".parquet":
        return Table(list(read_parquet(path)))
    raise DataError(f"{path}: unknown extension {file.suffix!r}; allowed: {', '.join(EXTENSIONS)}")


def read_hub(
    hub_id: str, split: str, data_dir: str | None = None, name: str | None = None, revision: str | None = None
) -> list[Record]:
    """Read the records of one split of a hub data set (from the local cache if the hub is switched off).

    Args:
        hub_id: ``owner/name``.
        split: e.g. ``train``.
        data_dir: sub-folder of the data set.
        name: configuration of the data set.
        revision: branch, tag or commit.

    Raises:
        DataError: the data set cannot be loaded; gives its name and the reason.
    """
    import datasets
    import httpx

    try:
        with from_cache_if_unreachable("datasets.config"):
            return list(datasets.load_dataset(hub_id, name=name, data_dir=data_dir, split=split, revision=revision))
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        if (missed := unreachable()) is not None:
            raise DataError(f"{hub_id}: no such file, not a hub data set in the local cache, and {missed}") from error
        switches = [v for v in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(v)]
        offline = f" ({' and '.join(switches)} set, so only the local cache was searched)" if switches else ""
        raise DataError(
            f"{hub_id}: no such file, and the hub data set (split {split!r}) cannot be loaded: {_why(error)}{offline}"
        ) from error


@functools.cache
def _stdin() -> bytes:
    """Standard input, which can be read only once."""
    return sys.stdin.buffer.read(READ.value() + 1)


def _text(path: str) -> str:
    if path != STDIN:
        return read_text(path, DataError)
    data = _stdin()
    READ.refuse(len(data), lambda limit: f"standard input: more than {limit} MiB", DataError)
    return decode_text(data, "standard input", DataError)


def _read_json(path: str) -> Table:
    text = _text(path)
    if text.lstrip().startswith("["):
        numbered = list(enumerate(_parse_json(path, text), 1))
    else:
        single = _single_object(text)
        table = None if single is None else table_of(single, path)
        if table is not None:
            return table
        numbered = [(1, single)] if single is not None else _lines(path, text)
    _check_count(path, len(numbered))
    for number, value in numbered:
        if not isinstance(value, dict):
            raise DataError(
                f"{path}:{number}: a row must be an object such as {{'prompt': ..., 'chosen': ..., 'rejected': ...}}, "
                f"got {type(value).__name__}"
            )
    return Table([value for _, value in numbered])


def _single_object(text: str) -> dict[str, Any] | None:
    """The object that a text consists of; None if it is anything else, e.g. one object per line."""
    try:
        value = parse_json(text, halves=True)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _parse_json(path: str, text: str, line: int | None = None) -> Any:
    """The value of a text, or of one line of it."""
    try:
        return parse_json(text, halves=True)
    except json.JSONDecodeError as error:
        hint = "" if line is None else "; expected a list of rows, or one row per line"
        where = f"{path}:{line or error.lineno}"
        raise DataError(f"{where}: not valid JSON: {error.msg} (column {error.colno}){hint}") from None
    except ValueError as error:
        raise DataError(f"{path}{f':{line}' if line else ''}: cannot parse JSON: {error}") from None


def _lines(path: str, text: str) -> list[tuple[int, Any]]:
    """Line number and value of every line that is not blank."""
    _check_unpacked(path, text)
    # Not str.splitlines: it also splits at U+2028 and similar characters, which a JSON string may contain.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    _check_count(path, len(lines))
    return [(number, _parse_json(path, line, number)) for number, line in lines]


def _read_csv(path: str) -> list[Record]:
    text = read_text(path, DataError)
    _check_unpacked(path, text)
    most = ROWS.value()
    # Not pandas: it treats a surplus field (from an unquoted comma) as an index and shifts the columns.
    reader = csv.reader(io.StringIO(text, newline=""))
    before = csv.field_size_limit(max(len(text), 1))  # a cell may be as long as its file; the limit is the module's
    try:
        lines = ((reader.line_num, fields) for fields in reader if fields)
        _, header = next(lines, (0, []))
        if twice := next((name for name, count in Counter(header).items() if name.strip() and count > 1), None):
            raise DataError(f"{path}:1: two columns are called {shown(twice)}; rename one of them")
        records: list[Record] = []
        for line_number, fields in lines:
            if len(fields) != len(header):
                raise DataError(
                    f"{path}:{line_number}: {len(fields)} fields, but the header has {len(header)}; quote fields that "
                    "contain commas or line breaks"
                )
            if len(records) == most:
                _check_count(path, most + 1)
            records.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid csv: {error}") from None
    finally:
        csv.field_size_limit(before)
    return records


def _check_unpacked(path: str, text: str) -> None:
    READ.refuse(unpacked(text), lambda limit: f"{path}: its rows unpack to more than {limit} MiB", DataError)


def _check_count(path: str, count: int) -> None:
    ROWS.refuse(count, lambda limit: f"{path}: more than {limit} rows", DataError)


def _why(error: BaseException) -> str:
    """First line of the root cause of `error`; the outer messages only report that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def columns_of(records: Sequence[Record]) -> list[str]:
    """Names of the columns of all records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))
