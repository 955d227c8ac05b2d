"""Parquet is read in batches and within its limits: a small file may hold a million rows, or a terabyte of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import DataError
from lifealign.core.limits import READ, ROWS
from lifealign.data.parquet import read_parquet
from lifealign.data.sources import read_table


def write(path: Path, columns: Mapping[str, Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def repeated(text: str, count: int) -> Any:
    """A column that stores a text once."""
    import pyarrow

    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), [text])


def one_list(values: Any) -> Any:
    import pyarrow

    return pyarrow.ListArray.from_arrays(pyarrow.array([0, len(values)], pyarrow.int32()), values)


def test_every_kind_of_value_keeps_its_type(tmp_path: Path) -> None:
    import pyarrow

    turns = [{"role": "user", "content": "q"}]
    held = {
        "prompt": ["a", None],
        "messages": [turns, None],
        "score": [1, -2],
        "scores": pyarrow.array([[("x", 0.5)], []], pyarrow.map_(pyarrow.string(), pyarrow.float64())),
        "raw": [b"\xff", b""],
        "kind": pyarrow.array(["a", "a"]).dictionary_encode(),
    }
    path = write(tmp_path / "rows[1] of *.parquet", held)  # a name that could be a pattern
    expected = [
        {"prompt": "a", "messages": turns, "score": 1, "scores": [("x", 0.5)], "raw": b"\xff", "kind": "a"},
        {"prompt": None, "messages": None, "score": -2, "scores": [], "raw": b"", "kind": "a"},
    ]
    assert read_table(str(path)).records == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (lambda: {"a": repeated("x", 1_000_000)}, f"more than 500000 rows; set {ROWS.variable} to raise this limit"),
        (lambda: {"a": repeated("x", 100_000)}, "100000 rows in "),
        (lambda: {"a": repeated("x" * 10**6, 2000)}, f"unpack to more than 512 MiB; set {READ.variable}"),
        (lambda: {"a": one_list(repeated("x" * 10**4, 100_000))}, "unpack to more than 512 MiB"),
        (lambda: {"a": one_list(repeated("", 10_000_000))}, "unpack to more than 512 MiB"),
    ],
    ids=["rows", "rows that repeat", "a long text", "a list of long texts", "a long list"],
)
def test_a_small_file_does_not_fill_the_memory(
    tmp_path: Path, columns: Callable[[], Mapping[str, Any]], message: str
) -> None:
    path = write(tmp_path / "bomb.parquet", columns())
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError) as error:
        read_parquet(str(path))
    assert message in str(error.value)


def test_columns_of_one_name_and_no_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["a", "a"]), path)
    with pytest.raises(DataError, match="two columns are called 'a'; rename one of them"):
        read_parquet(str(path))
    whole = path.read_bytes()
    for data in (b"", b"PAR1", whole[:-9], whole[:4] + b"\xff" * 40 + whole[44:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.parquet: (not a readable parquet file|two columns)"):
            read_parquet(str(path))
