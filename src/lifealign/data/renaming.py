"""Rename columns before the layout is recognised: `map` of a source, `--map` on the command line. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.core.config_files import nearest
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.sources import Record, columns_of


def parse_map(settings: Sequence[str]) -> dict[str, str]:
    """New name -> column, from ``NAME=COLUMN`` settings.

    Raises:
        ConfigError: a setting has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, column = setting.partition("=")
        if not equals or not name or not column:
            raise ConfigError(f"--map {setting!r}: expected NAME=COLUMN, e.g. prompt=instruction")
        if name in found:
            raise ConfigError(f"--map {setting!r}: {name!r} is already given as {name}={found[name]}; give one column")
        found[name] = column
    return found


def rename(records: Sequence[Record], names: Mapping[str, str] | None, source: str) -> Sequence[Record]:
    """Records with renamed columns, in the same order; all other columns stay.

    Args:
        records: as read.
        names: new name -> column of the records. Two columns may swap their names. None: nothing is renamed.
        source: file or hub id, for messages.

    Raises:
        DataError: no record has a column, a column gets two names, or a new name is that of another column.
    """
    if not names:
        return records
    found = columns_of(records)
    new: dict[Any, str] = {}
    for name, column in names.items():
        where = f"{source}: map {name}={column}"
        if column not in found:
            shown = ", ".join(map(str, found)) or "none"
            raise DataError(f"{where}: no such column{nearest(column, list(map(str, found)))}; found: {shown}")
        if column in new:
            raise DataError(f"{where}: the column is already renamed to {new[column]!r}; give each column one name")
        if name in found and name not in names.values():
            raise DataError(
                f"{where}: the rows already have a column {name!r}; give that one another name too, "
                f"e.g. other_{name}={name}"
            )
        new[column] = name
    return [{new.get(name, name): value for name, value in record.items()} for record in records]
