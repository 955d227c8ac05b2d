"""Rows of a JSON file that is one object: a list of rows under a key, or an object of columns. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifealign.core.errors import DataError
from lifealign.data.turns import is_message

KEYS = ("data", "rows", "train")
"""Keys under which a file's rows are, the first that has rows."""
ROW_COLUMNS = frozenset({"prompt", "chosen", "rejected", "instruction", "question", "messages", "conversations"})
"""An object that has one of these is a row, whatever else it has."""


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        records: the rows.
        beside: what else the file holds -> its kind; none of it is read.
    """

    records: list[Mapping[str, Any]]
    beside: Mapping[str, str] = field(default_factory=dict)


def table_of(value: Mapping[str, Any], path: str) -> Table | None:
    """The rows of an object; None if it is one row itself.

    Args:
        value: the only object of a file.
        path: of the file, for messages.

    Raises:
        DataError: its columns have different lengths, or a row has not one value per column.
    """
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas, orient="split"
        return Table(_split(value["columns"], value["data"], path))
    if not ROW_COLUMNS & set(value):
        for key in KEYS:
            rows = _rows(value.get(key), f"{path}: {key}")
            if rows is not None:
                beside = {name: _kind(other) for name, other in value.items() if name != key}
                return Table(rows, beside)
    rows = _of_columns(value, path)
    return None if rows is None else Table(rows)


def _split(names: list[Any], rows: list[Any], path: str) -> list[Mapping[str, Any]]:
    for number, cells in enumerate(rows, 1):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise DataError(f"{path}: row {number} of `data` is not a list of {len(names)} values, one per column")
    return [dict(zip(map(str, names), cells, strict=True)) for cells in rows]


def _rows(value: Any, path: str) -> list[Mapping[str, Any]] | None:
    if isinstance(value, Mapping):
        return _of_columns(value, path)
    if not isinstance(value, list) or not value or not all(isinstance(row, Mapping) for row in value):
        return None
    if all(isinstance(row.get("row"), Mapping) and "row_idx" in row for row in value):  # the hub's viewer
        return [row["row"] for row in value]
    return None if any(map(is_message, value)) else list(value)


def _of_columns(value: Mapping[str, Any], path: str) -> list[Mapping[str, Any]] | None:
    """The rows of columns, which are lists, or objects from row to cell as pandas writes them."""
    columns: dict[str, Sequence[Any]] = {}
    for name, cells in value.items():
        if isinstance(cells, Mapping) and cells and all(str(key).isdigit() for key in cells):
            cells = list(cells.values())
        if not isinstance(cells, list) or not cells or any(map(is_message, cells)):
            return None
        columns[name] = cells
    if not columns:
        return None
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: columns of different lengths: {shown}; expected one value per row in each")
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _kind(value: Any) -> str:
    if isinstance(value, list | Mapping):
        entries = "1 entry" if len(value) == 1 else f"{len(value)} entries"
        return f"{entries}; rows of it belong in a file of their own"
    return "not a row"
