"""Rows of every kind; reports of what became of rows; what importing the data modules costs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lifealign.data.tasks import DataReport, Message, Row

PROMPT = (Message("system", "Be brief."), Message("user", "How tall is K2?"))
PAIR = Row(PROMPT, "8611 m", "Very tall.", "a.jsonl:1")
UP = Row(PROMPT, "8611 m", "", "a.jsonl:2", "desirable")
DOWN = Row(PROMPT, "", "Very tall.", "a.jsonl:3", "undesirable")
SHOWN = Row(PROMPT, "8611 m", "", "a.jsonl:4", "demonstration")


def test_import_is_light():
    code = (
        "import sys, lifealign.data.tasks, lifealign.data.cleaning, lifealign.data.check, lifealign.data.recipes;"
        "print(sorted({'torch', 'datasets', 'pandas', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_lines_and_json():
    report = DataReport(
        "f.jsonl", 40, 24, {"equal answers": (4, 17, 220), "duplicate row": tuple(range(1, 14))}, {"mended": (9,)}
    )
    assert report.lines() == [
        "f.jsonl: read 40 rows, kept 24",
        "dropped 3 rows: equal answers (rows 4, 17, 220)",
        "dropped 13 rows: duplicate row (rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more)",
        "repaired 1 row: mended (row 9)",
    ]
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_plain_pair_keeps_the_digest_and_the_form_that_memories_have():
    turns = [["system", "Be brief."], ["user", "How tall is K2?"]]
    assert PAIR.digest == hashlib.sha256(json.dumps([turns, "8611 m", "Very tall."]).encode()).hexdigest()
    assert list(PAIR.to_json()) == ["prompt", "chosen", "rejected", "source"]


def test_rows_of_all_kinds_are_read_back():
    for row in (PAIR, replace(PAIR, margin=2.5), UP, DOWN, SHOWN):
        again = Row.from_json(json.loads(json.dumps(row.to_json())))
        assert again == row
        assert again.source == row.source


def test_one_answer_has_the_columns_of_trl():
    completion = [{"role": "assistant", "content": "8611 m"}]
    assert UP.to_json()["completion"] == completion
    assert UP.to_json()["label"] is True
    assert DOWN.to_json()["label"] is False
    assert SHOWN.to_json()["completion"] == completion
    assert "label" not in SHOWN.to_json()
    assert "chosen" not in SHOWN.to_json()


def test_the_one_answer_of_a_row():
    assert [row.answer for row in (UP, DOWN, SHOWN)] == ["8611 m", "Very tall.", "8611 m"]
    with pytest.raises(ValueError, match="two answers"):
        _ = PAIR.answer


def test_kind_and_margin_are_part_of_the_digest():
    rows = (PAIR, replace(PAIR, margin=1.0), replace(PAIR, margin=2.0), UP, DOWN, SHOWN)
    assert len({row.digest for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rejected": ""}, "'pair' has a rejected answer, got ''"),
        ({"chosen": ""}, "'pair' has a chosen answer, got ''"),
        ({"kind": "desirable"}, "'desirable' has no rejected answer, got 'Very tall.'"),
        ({"kind": "undesirable"}, "'undesirable' has no chosen answer, got '8611 m'"),
        ({"kind": "demonstration", "chosen": "", "rejected": ""}, "'demonstration' has a chosen answer"),
        ({"kind": "thumbs"}, "unknown. Use one of pair, desirable, undesirable, demonstration"),
        ({"margin": float("nan")}, "finite number"),
        ({"kind": "desirable", "rejected": "", "margin": 1.0}, "of a pair, got 1.0"),
    ],
)
def test_a_row_that_breaks_its_kind_is_refused(changes: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        replace(PAIR, **changes)
