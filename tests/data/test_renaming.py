"""`--map` and `map:`: columns are renamed before the layout is recognised."""

from __future__ import annotations

import json
import re

import pytest

from lifealign.core.config import SourceConfig
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.check import check_data
from lifealign.data.cleaning import read_rows
from lifealign.data.load import task_from_rows
from lifealign.data.renaming import parse_map, rename
from lifealign.data.tasks import DataReport
from support.records import numbered, read, write_jsonl

OWN = [{"ask": row["prompt"], "good": row["chosen"], "bad": row["rejected"], "note": "n"} for row in numbered(8)]
NAMES = {"prompt": "ask", "chosen": "good", "rejected": "bad"}


def test_rows_under_other_names_are_read_like_those_of_a_known_layout(tmp_path):
    path = write_jsonl(tmp_path / "own.jsonl", OWN)
    rows, _ = read(write_jsonl(tmp_path / "plain.jsonl", numbered(8)))
    found = read_rows(SourceConfig(path=path, map=NAMES))
    assert [row.digest for row in found.rows] == [row.digest for row in rows]
    assert found.report.layouts == {"TRL preference (prompt, chosen, rejected)": 8}
    assert list(found.report.unread) == ["note"]
    assert "columns renamed: ask to prompt, good to chosen, bad to rejected" in found.report.lines()
    assert DataReport.from_json(json.loads(json.dumps(found.report.to_json()))).renamed == NAMES
    held_out = [{"ask": "x", "good": "y", "bad": "z"}]
    for given in (path, OWN):
        task = task_from_rows("t", given, held_out, columns=NAMES)
        assert {row.digest for row in task.train} == {row.digest for row in rows}
        assert [report.renamed for report in task.reports] == [NAMES, NAMES]
    assert check_data(path, columns=NAMES).report.kept == 8
    with pytest.raises(DataError, match=r"wrong columns: found ask, good, bad, note; .*--map prompt=COLUMN"):
        read_rows(SourceConfig(path=path))


def test_two_columns_may_swap_their_names():
    assert rename([{"chosen": 1, "rejected": 2}, {"chosen": 3}], {"chosen": "rejected", "rejected": "chosen"}, "f") == [
        {"rejected": 1, "chosen": 2},
        {"rejected": 3},
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"prompt": "askk"}, "f: map prompt=askk: no such column (did you mean 'ask'?); found: ask, good, bad, note"),
        ({"prompt": "ask", "chosen": "ask"}, "f: map chosen=ask: the column is already renamed to 'prompt'"),
        ({"good": "bad"}, "f: map good=bad: the rows already have a column 'good'; give that one another name too"),
    ],
)
def test_what_cannot_be_renamed_is_refused(names, message):
    with pytest.raises(DataError, match=re.escape(message)):
        rename(OWN, names, "f")


@pytest.mark.parametrize("setting", ["prompt", "=ask", "prompt="])
def test_a_map_of_another_form_is_refused(setting):
    with pytest.raises(ConfigError, match=re.escape(f"--map {setting!r}: expected NAME=COLUMN")):
        parse_map([setting])


def test_a_name_that_is_given_twice_is_refused():
    assert parse_map(["prompt=ask", "chosen=a=b"]) == {"prompt": "ask", "chosen": "a=b"}
    with pytest.raises(ConfigError, match="'prompt' is already given as prompt=ask"):
        parse_map(["prompt=ask", "prompt=good"])


def test_a_source_without_a_map_is_stored_as_before():
    assert "map" not in SourceConfig(path="f.jsonl").model_dump(mode="json")
    assert SourceConfig(path="f.jsonl", map=NAMES).model_dump(mode="json")["map"] == NAMES
    with pytest.raises(ValueError, match="at least 1 item"):
        SourceConfig(path="f.jsonl", map={})
