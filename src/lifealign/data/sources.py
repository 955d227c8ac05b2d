"""Read plain records from a json, jsonl, parquet or csv file, or from a hub data set.

json, jsonl and csv go through Python's own parsers, because `datasets` guesses types (dates become timestamps, "007" a
number, so the original text is lost) and reports errors without a line number. parquet and the hub store their types.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifealign.core.errors import DataError
from lifealign.core.hub import OF_ROWS, from_cache_if_unreachable, looks_local, unreachable
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
    """The records of `read_table`."""
    return read_table(path).records


def read_table(path: str) -> Table:
    """Read the records of a json, jsonl, parquet or csv file, in order.

    A json file holds a list of rows, one row per line, a list of rows under a key, or an object of columns.

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
        return Table(_load_local("parquet", path))
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
def _stdin() -> str:
    """Standard input, which can be read only once."""
    return sys.stdin.read()


def _text(path: str) -> str:
    if path == STDIN:
        return _stdin()
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


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
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse_json(path: str, text: str, line: int | None = None) -> Any:
    """The value of a text, or of one line of it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "" if line is None else "; expected a list of rows, or one row per line"
        where = f"{path}:{line or error.lineno}"
        raise DataError(f"{where}: not valid JSON: {error.msg} (column {error.colno}){hint}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets nested too deeply
        raise DataError(f"{path}{f':{line}' if line else ''}: cannot parse JSON: {_why(error)}") from None


def _lines(path: str, text: str) -> list[tuple[int, Any]]:
    """Line number and value of every line that is not blank."""
    # Not str.splitlines: it also splits at U+2028 and similar characters, which a JSON string may contain.
    lines = enumerate(text.split("\n"), 1)
    return [(number, _parse_json(path, line, number)) for number, line in lines if line.strip()]


def _read_csv(path: str) -> list[Record]:
    # Not pandas: it treats a surplus field (from an unquoted comma) as an index and shifts the columns.
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        lines = ((reader.line_num, fields) for fields in reader if fields)
        _, header = next(lines, (0, []))
        records: list[Record] = []
        for line_number, fields in lines:
            if len(fields) != len(header):
                raise DataError(
                    f"{path}:{line_number}: {len(fields)} fields, but the header has {len(header)}; quote fields that "
                    "contain commas or line breaks"
                )
            records.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not valid csv: {error}") from None
    return records


def _load_local(kind: str, path: str, **options: Any) -> list[Record]:
    """Read through `datasets` with a cache for this call only, so that the file's current content is read."""
    import datasets

    with tempfile.TemporaryDirectory() as cache, _no_progress_bars(datasets):
        try:
            rows = datasets.load_dataset(
                kind,
                data_files=str(Path(path).absolute()),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
            return list(rows)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"{path}: not a readable {kind} file: {_why(error)}") from error


@contextmanager
def _no_progress_bars(datasets: Any) -> Iterator[None]:
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _why(error: BaseException) -> str:
    """First line of the root cause of `error`; the outer messages only report that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def columns_of(records: Sequence[Record]) -> list[str]:
    """Names of the columns of all records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))
