"""Read the rows of a Parquet file in batches, and stop before they fill the memory. Imports no torch.

A Parquet file stores a value that repeats once, however often: 20 KB may hold a million rows, or a terabyte of text. So
columns are read as the file has them, each distinct value once, and the size of the rows is added up before they are
made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lifealign.core.errors import DataError, UserError
from lifealign.core.files import open_file
from lifealign.core.limits import READ, ROWS

BATCH = 4096
"""Rows that are read at a time."""
FREE = 10_000
"""Rows that a file may have even if it has fewer bytes: so many are read in no time."""
VALUE = 60
"""Bytes that a value takes in Python, beside its content; for the sum that is compared with `READ`."""


def read_parquet(path: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        DataError: no such file, or no Parquet; or it holds more than `limits.ROWS` and `limits.READ` allow.
    """
    import pyarrow

    try:
        with open_file(path, DataError) as stream:
            return list(_rows(path, stream))
    except UserError:
        raise
    except (
        OSError,
        pyarrow.ArrowException,
        MemoryError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not a readable parquet file: {lines[0][:300]}") from None


def _rows(path: str, stream: Any) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(stream, thrift_string_size_limit=1 << 26, thrift_container_size_limit=1 << 22)
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are called {twice!r}; rename one of them")
    meta = file.metadata
    ROWS.refuse(meta.num_rows, lambda limit: f"{path}: more than {limit} rows", DataError)
    size = os.fstat(stream.fileno()).st_size
    if meta.num_rows > max(FREE, size):
        raise DataError(
            f"{path}: {meta.num_rows} rows in {size} bytes, so they only repeat each other; keep one of each"
        )
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    unpacked = max([values * VALUE, *(group.total_byte_size for group in groups)], default=0)
    _refuse(path, unpacked)
    texts = [
        meta.schema.column(i).path
        for i in range(meta.num_columns)
        if meta.schema.column(i).physical_type == "BYTE_ARRAY"
    ]
    held = pyarrow.parquet.ParquetFile(stream, read_dictionary=texts) if texts else file
    size = count = 0
    for batch in held.iter_batches(batch_size=BATCH, use_threads=False):
        size += sum(_size(column) for column in batch.columns)
        count += batch.num_rows
        _refuse(path, size + VALUE * count * len(names))
        ROWS.refuse(count, lambda limit: f"{path}: more than {limit} rows", DataError)
        columns = [_plain(column).to_pylist() for column in batch.columns]
        yield from (dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True))


def _plain(column: Any) -> Any:
    """A column of texts with each in full, which converts ten times faster."""
    import pyarrow

    return column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column


def _refuse(path: str, size: int) -> None:
    READ.refuse(size, lambda limit: f"{path}: its rows unpack to more than {limit} MiB", DataError)


def _size(column: Any) -> int:
    """Bytes of a column's values in Python, from above; a value that repeats is counted each time."""
    import pyarrow
    import pyarrow.compute

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(column.dictionary)
        total = pyarrow.compute.sum(pyarrow.compute.take(lengths, column.indices)).as_py() or 0
        return int(total) + VALUE * len(column)
    if pyarrow.types.is_struct(kind):
        return 200 * len(column) + sum(_size(column.field(i)) for i in range(kind.num_fields))
    if pyarrow.types.is_map(kind):
        return VALUE * len(column) + _size(column.keys) + _size(column.items)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return VALUE * len(column) + _size(column.flatten())
    return int(column.nbytes) + VALUE * len(column)
