"""`check-data --fix`: what is written, and that reading it gives the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.cleaning import clean
from lifealign.data.fixing import check_target, write_rows
from support.records import assistant, read, user

PAIR = {"prompt": "Coast or hills?", "chosen": "Coast.", "rejected": "Hills."}
RECORDS = [
    {**PAIR, "score_chosen": 1, "score_rejected": 2, "topic": "travel"},
    {**PAIR, "chosen": "Assistant: Sea."},
    {**PAIR, "chosen": ""},
    {**PAIR, "system": "Be brief.", "prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Where\u2028to?"},
    {"chosen": [user("Who?"), assistant("Ann \U0001f600")], "rejected": [user("Who?"), assistant("Bob")]},
    {**PAIR, "prompt": "Twice?", "chosen": "Assistant: Assistant: Yes."},
    {"instruction": "Name", "input": "a bird.", "chosen": "Robin.", "rejected": "Trout."},
]


def test_reading_what_was_written_gives_the_same_rows(tmp_path: Path) -> None:
    found = clean(RECORDS, "f")
    assert found.numbers == (1, 2, 4, 5, 6, 7)
    out = tmp_path / "out.jsonl"
    fixed = write_rows(out, found)
    assert (fixed.rows, fixed.not_written) == (5, (6,))
    assert fixed.lines()[1] == "not written, would be read back as another row: row 6"
    rows, report = read(out)
    assert [r.digest for r in rows] == [r.digest for r, n in zip(found.rows, found.numbers, strict=True) if n != 6]
    assert not report.dropped and not report.repaired and not report.unread
    assert report.doubtful == {"the rejected answer has the higher score": (1,)} == found.report.doubtful
    assert json.loads(out.read_text("utf-8").split("\n")[1]) == {
        "prompt": [user("Coast or hills?")],
        "chosen": [assistant("Sea.")],
        "rejected": [assistant("Hills.")],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_nothing_is_left_behind_where_nothing_can_be_written(tmp_path: Path) -> None:
    twice = clean([RECORDS[5]], "f")
    with pytest.raises(DataError, match="no row to write"):
        write_rows(tmp_path / "out.jsonl", twice)
    with pytest.raises(StoreError, match="cannot be written"):
        write_rows(tmp_path / "missing" / "out.jsonl", clean([PAIR], "f"))
    assert list(tmp_path.iterdir()) == []


def test_inputs_and_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_HERE", str(tmp_path))
    path = tmp_path / "rows.jsonl"
    path.write_text("kept")
    for read_from in (str(path), "$ROWS_HERE/rows.jsonl", str(tmp_path / "x" / ".." / "rows.jsonl")):
        with pytest.raises(ConfigError, match=r"--fix .* is an input of this command"):
            check_target(path, "other.jsonl", read_from)
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        check_target(tmp_path / "rows.csv", "rows.jsonl")
    check_target(tmp_path / "new.jsonl", str(path), "owner/name")
    assert path.read_text() == "kept"
