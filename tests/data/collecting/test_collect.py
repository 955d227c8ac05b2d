"""The file of rows and its report: what is in them, when they are written, and that `learn` keeps the hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.collecting import collect as collecting
from lifealign.data.collecting.report import kept_beside
from lifealign.data.tasks import DataReport, Row
from support.logs import assistant, collected, exchange, served, user


def test_rows_are_rows_of_their_kinds_with_their_line(tmp_path: Path) -> None:
    records = [
        exchange("q", "a", feedback="up"),
        "{broken",
        exchange("q", "b", feedback="down"),
        exchange("q", "c", edited="d"),
        exchange("q", None, edited="e"),
        "",
    ]
    collected(tmp_path, records)
    lines = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
    rows = [Row.from_json(json.loads(line)) for line in lines]
    assert [(row.kind, row.chosen, row.rejected, row.source) for row in rows] == [
        ("desirable", "a", "", "log.jsonl:1"),
        ("undesirable", "", "b", "log.jsonl:3"),
        ("pair", "d", "c", "log.jsonl:4"),
        ("demonstration", "e", "", "log.jsonl:5"),
    ]
    assert [json.dumps(row.to_json(), ensure_ascii=False) for row in rows] == lines


def test_report_beside_the_rows(tmp_path: Path) -> None:
    _, report = collected(tmp_path, [exchange("q", "ä\u2028", feedback="up"), exchange("q", "b")])
    beside = json.loads((tmp_path / "rows.jsonl.report.json").read_text("utf-8"))
    assert beside == json.loads(json.dumps(report.to_json()))
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("log.jsonl", "rows.jsonl")}
    assert beside["source"] == {"file": str(tmp_path / "log.jsonl"), "sha256": digests["log.jsonl"], "records": 2}
    assert beside["rows"] == {"file": "rows.jsonl", "sha256": digests["rows.jsonl"], "count": 1}
    assert beside["kinds"] == {"desirable": 1} and beside["not_taken"] == {"neither a verdict nor an edit": 1}


def test_bad_lines_are_left_out_by_number(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    good = json.dumps(exchange("q", "a", feedback="up")).encode()
    log.write_bytes(b"\n".join([b"\xef\xbb\xbf" + good, b"\xff\xfe", b"", b"[1]", b"3", b"{", good[:40]]))
    report = collecting.collect(str(log), tmp_path / "rows.jsonl", collecting.Options())
    assert report.left_out == {"not UTF-8 text": [2], "not a JSON object": [4, 5], "not valid JSON": [6, 7]}
    assert (report.read, report.kept) == (6, 1)


@pytest.mark.parametrize("name", ["log.json", "log.jsonl"])
def test_list_and_table_of_records(name: str, tmp_path: Path) -> None:
    records = [exchange("q", "a", feedback="up"), exchange("r", "a", feedback="up")]
    for value in (records, {"data": records, "meta": {"page": 1}}):
        (tmp_path / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
        report = collecting.collect(str(tmp_path / name), tmp_path / "rows.jsonl", collecting.Options())
        assert (report.read, report.kept) == (2, 2)


def test_one_record_alone(tmp_path: Path) -> None:
    rows, _ = collected(tmp_path, [exchange("q", "a", feedback="up")])
    assert rows == [{"prompt": [user("q")], "completion": [assistant("a")], "label": True}]


def test_doubtful_rows_are_kept_and_named(tmp_path: Path) -> None:
    cut = exchange("q", "a", feedback="up")
    cut["response"]["choices"][0]["finish_reason"] = "length"
    rows, report = collected(tmp_path, [cut, exchange("r", "a", feedback="up", edited="b")])
    assert len(rows) == 2
    assert report.doubtful == {
        "the answer was cut off at the longest length": [1],
        "an edit of an answer with a thumb up": [2],
    }


@pytest.mark.parametrize("records", [[exchange("q", "a")], ["{"], [{"a": 1}], []])
def test_no_row_is_an_error_and_leaves_nothing(records: list[object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"log.jsonl: no row to collect from {len(records)} records"):
        collected(tmp_path, records)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_numbers_that_mean_nothing_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`score` holds numbers from 0.2 to 0.7, and that does not tell"):
        collected(tmp_path, [exchange("q", "a", score=0.2), exchange("r", "a", score=0.7)])
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    rows, _ = collected(tmp_path, [exchange("q", "a", score=0.2), exchange("r", "a", score=0.7)], {"good_from": 0.5})
    assert len(rows) == 2


@pytest.mark.parametrize("source", ["gone.jsonl", "."])
def test_log_that_cannot_be_read(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file|is a directory"):
        collecting.collect(str(tmp_path / source), tmp_path / "rows.jsonl", collecting.Options())
    assert list(tmp_path.iterdir()) == []


def test_target(tmp_path: Path) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "rows.jsonl"
    log.write_text("")
    with pytest.raises(ConfigError, match=r"give a name that ends in \.jsonl"):
        collecting.check_target(tmp_path / "rows.json", str(log), True)
    with pytest.raises(ConfigError, match="is an input of this command"):
        collecting.check_target(log, str(log), True)
    for there in (out, collecting.beside(out)):
        there.write_text("mine")
        with pytest.raises(ConfigError, match=r"is there already; give another --out, or --force to overwrite it"):
            collecting.check_target(out, str(log), False)
        collecting.check_target(out, str(log), True)
        there.unlink()


def test_failed_write_leaves_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = collecting.replace_file

    def full(path: Path, data: bytes) -> None:
        if path.name == "rows.jsonl":
            raise OSError(28, "No space left on device", str(path))
        written(path, data)

    monkeypatch.setattr(collecting, "replace_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        collected(tmp_path, [exchange("q", "a", feedback="up")])
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_what_a_memory_keeps_of_the_report(tmp_path: Path) -> None:
    collected(tmp_path, [served("q", "a", True)])
    held = kept_beside(str(tmp_path / "rows.jsonl"))
    assert set(held) == {"source", "source_sha256", "rows_sha256", "selection", "redaction"}
    assert held["redaction"] is None and held["selection"] == {}
    report = DataReport("rows.jsonl", 1, 1, collected=held)
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert (
        report.lines()[1] == f"collected from {tmp_path / 'log.jsonl'}: consent not checked, personal data not removed"
    )


@pytest.mark.parametrize("damage", ["rows", "report"])
def test_report_of_other_rows_is_not_kept(damage: str, tmp_path: Path) -> None:
    collected(tmp_path, [served("q", "a", True)])
    changed = tmp_path / ("rows.jsonl" if damage == "rows" else "rows.jsonl.report.json")
    changed.write_text(changed.read_text("utf-8")[:-20])
    held = kept_beside(str(tmp_path / "rows.jsonl"))
    assert held == {"other_rows": True}
    assert "is of other rows, so none of it is kept" in DataReport("f", 1, 1, collected=held).lines()[1]


def test_rows_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert kept_beside(str(tmp_path / "rows.jsonl")) == {}
    assert "collected" not in DataReport("f", 1, 1).to_json()


@pytest.mark.parametrize("name", ["log.json", "log.jsonl"])
def test_half_a_character_leaves_its_record_out(name: str, tmp_path: Path) -> None:
    records = [
        exchange("q", "a", feedback="up"),
        {**exchange("r", "a", feedback="up"), "a\ud800": 1},
        exchange("\U0001f600", "a", vote=1),
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / name).write_text("\n".join(lines) if name == "log.jsonl" else f"[{','.join(lines)}]")
    report = collecting.collect(str(tmp_path / name), tmp_path / "rows.jsonl", collecting.Options())
    assert report.left_out == {"text is not valid Unicode (a lone surrogate)": [2]}
    assert report.kept == 2
