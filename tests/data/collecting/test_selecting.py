"""Consent, times and models: who is left out, and how that is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.collecting.selecting import Consent, parse_bound, time_of
from support.logs import collected, exchange, served


def prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["prompt"][-1]["content"] for row in rows]


def test_only_a_yes_is_consent(tmp_path: Path) -> None:
    values = [
        True,
        "yes",
        "Granted",
        1,
        False,
        "no",
        0,
        "",
        None,
        "perhaps",
        "yes, but not for training",
        {"a": 1},
        ["yes"],
    ]
    records = [exchange(f"q{i}", "a", vote=1, consent=value) for i, value in enumerate(values)]
    rows, report = collected(
        tmp_path, [*records, exchange("without", "a", vote=1)], {"consent": Consent.parse("consent")}
    )
    assert prompts(rows) == ["q0", "q1", "q2", "q3"]
    assert report.not_taken == {
        "no consent: `consent` is not given": 8,
        "no consent: `consent` is missing": 2,
    }
    assert "consent: only records with consent" in report.lines()


def test_consent_may_be_a_value_or_one_of_several(tmp_path: Path) -> None:
    values = ["training", "Training", ["support", "training"], "support", "no training", True]
    records = [exchange(f"q{i}", "a", vote=1, user={"purpose": value}) for i, value in enumerate(values)]
    rows, _ = collected(tmp_path, records, {"consent": Consent.parse("user.purpose=training")})
    assert prompts(rows) == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    "place",
    [
        {"consent": True},
        {"metadata": {"consent": "yes"}},
        {"request": {"messages": [{"role": "user", "content": "q"}], "metadata": {"consent": "true"}}},
    ],
)
def test_consent_is_found_where_tools_keep_it(place: dict[str, Any], tmp_path: Path) -> None:
    rows, _ = collected(tmp_path, [{**exchange("q", "a", vote=1), **place}], {"consent": Consent.parse("consent")})
    assert prompts(rows) == ["q"]


def test_field_of_consent_that_no_record_has_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--consent agreed: no record has the field 'agreed'; fields found: request, "
    ):
        collected(tmp_path, [exchange("q", "a", vote=1)], {"consent": Consent.parse("agreed")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]


def test_without_consent_the_report_says_so(tmp_path: Path) -> None:
    _, report = collected(tmp_path, [exchange("q", "a", vote=1)])
    assert [line for line in report.lines() if line.startswith("consent")] == [
        "consent: not checked; --consent FIELD takes only the records in which a person agreed"
    ]


def test_consent_that_is_taken_back_counts(tmp_path: Path) -> None:
    """A later vote on the same answer replaces the earlier one, whatever it says of consent."""
    records = [served("q", "a", True, consent=True), served("other", "b", True, consent=True)]
    later = served("q", "a", True, consent=False)
    rows, report = collected(tmp_path, [*records, later], {"consent": Consent.parse("consent")})
    assert prompts(rows) == ["other"]
    assert report.left_out == {"replaced by a later verdict on the same answer": [1]}


def test_later_vote_replaces_an_earlier_one_on_the_same_answer_alone(tmp_path: Path) -> None:
    records = [served("q", "a", True), served("q", "b", True), served("q", "a", False)]
    rows, report = collected(tmp_path, records)
    assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [("b", True), ("a", False)]
    assert report.left_out == {"replaced by a later verdict on the same answer": [1]}


@pytest.mark.parametrize("text", ["", "=yes", "consent="])
def test_consent_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected FIELD or FIELD=VALUE"):
        Consent.parse(text)


def test_times(tmp_path: Path) -> None:
    times = [
        "2026-02-28T23:59:59Z",
        "2026-03-01",
        "2026-03-31T23:59:59+00:00",
        "2026-04-01T01:00:00+02:00",
        1775088000,
        "soon",
    ]
    records = [exchange(f"q{i}", "a", vote=1, timestamp=time) for i, time in enumerate(times)]
    bounds = {"since": parse_bound("2026-03-01", "--since"), "until": parse_bound("2026-03-31", "--until")}
    rows, report = collected(tmp_path, records, bounds)
    assert prompts(rows) == ["q1", "q2", "q3"]
    assert report.not_taken == {"before --since": 1, "after --until": 1, "without a time that can be read": 1}
    assert report.selection == {"since": "2026-03-01T00:00:00+00:00", "until": "2026-04-01T00:00:00+00:00"}


def test_time_of_the_response_counts_where_there_is_no_other(tmp_path: Path) -> None:
    day = datetime.fromtimestamp(1772000000, UTC).date().isoformat()
    bounds = {"since": parse_bound(day, "--since"), "until": parse_bound(day, "--until")}
    rows, _ = collected(tmp_path, [exchange("q", "a", vote=1)], bounds)
    assert prompts(rows) == ["q"]


def test_times_of_several_forms() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert [
        time_of(v)
        for v in ("2026-03-01T12:00", "2026-03-01T14:00+02:00", noon.timestamp(), str(noon.timestamp() * 1000))
    ] == 4 * [noon]
    assert [time_of(v) for v in (None, "", True, [], 1e30)] == 5 * [None]


@pytest.mark.parametrize("text", ["March", "2026-13-01", "31.03.2026"])
def test_bound_that_is_no_date(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--since '{text}': expected a date such as 2026-03-31"):
        parse_bound(text, "--since")


def test_models(tmp_path: Path) -> None:
    records = [exchange("q0", "a", vote=1), exchange("q1", "a", vote=1, model="m-2"), served("q2", "a", True)]
    assert [prompts(collected(tmp_path, records, {"model": name})[0]) for name in ("m-2", "m-1-2026", "0001-tone")] == [
        ["q1"],
        ["q0", "q1"],
        ["q2"],
    ]
    with pytest.raises(
        DataError, match="no row to collect from 3 records:\n  not taken 3 records: of another model than x"
    ):
        collected(tmp_path, records, {"model": "x"})
