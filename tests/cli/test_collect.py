"""`lifealign collect`: options, output, exit codes, and pairs that `check-data` reads with the report beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import lifealign
from support.logs import exchange, write_jsonl

RECORDS = [
    exchange("q0", "a", feedback="down", edited="b", consent=True, timestamp="2026-03-01"),
    exchange("q1", "a", feedback="up", consent=False, timestamp="2026-03-02"),
    exchange("q2", "a", feedback="down", edited="c", consent=True, timestamp="2026-04-01"),
]


@pytest.fixture
def log(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "log.jsonl", RECORDS)


def test_output_and_files(log: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    result = lifealign("collect", log, "--out", out, "--consent", "consent")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:4] == [
        f"{log}: read 3 records, kept 2 rows",
        "records of requests and responses (OpenAI): 3",
        "kept 2 pairs (edits and preferences)",
        "not taken 1 record: no consent: `consent` is not given",
    ]
    assert result.stdout.splitlines()[-2:] == [f"written: {out}", f"report: {out}.report.json"]
    checked = lifealign("check-data", out)
    assert f"collected from {log}: only records with consent, personal data not removed" in checked.stdout


def test_json_is_the_report(log: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    document = json.loads(lifealign("collect", log, "--out", out, "--since", "2026-03-02", "--json").stdout)
    assert document.pop("out") == str(out)
    assert document == json.loads(Path(f"{out}.report.json").read_text("utf-8"))
    assert document["kinds"] == {"desirable": 1, "pair": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--redact", "scrubber"], "--redact scrubber: allowed: presidio"),
        (["--entities", "PERSON"], "--entities PERSON: it belongs to --redact presidio, which is not given"),
        (["--spacy-model", "x"], "--spacy-model x: it belongs to --redact presidio, which is not given"),
        (["--consent", "agreed"], "--consent agreed: no record has the field 'agreed'"),
        (["--consent", "="], "--consent '=': expected FIELD or FIELD=VALUE"),
        (["--until", "soon"], "--until 'soon': expected a date such as 2026-03-31"),
        (["--good-from", 1, "--bad-to", 3], "--bad-to 3 must be below --good-from, which is 1"),
        (["--model", "other"], "no row to collect from 3 records:\n  not taken 3 records: of another model than other"),
        (["--feedback", "nothing.here", "--until", "2025-01-01"], "not taken 3 records: after --until"),
    ],
)
def test_mistakes_end_with_one_message_and_leave_nothing(
    options: list[str], message: str, log: str, tmp_path: Path
) -> None:
    result = lifealign("collect", log, "--out", tmp_path / "rows.jsonl", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_rows_are_overwritten_only_with_force(log: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")
    result = lifealign("collect", log, "--out", out)
    assert result.exit_code == 2 and "is there already" in result.stderr and out.read_text() == "mine"
    assert lifealign("collect", log, "--out", out, "--force").exit_code == 0
    assert len(out.read_text("utf-8").splitlines()) == 3
