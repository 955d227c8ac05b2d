"""Column formats: which records give which row."""

from __future__ import annotations

import pytest

from lifealign.core.errors import ConfigError, DataError
from lifealign.data.cleaning import clean
from lifealign.data.formats import FORMATS, NO_PROMPT_END, SHARED_BEGINNING, Triple, UnusableRowError, register_format
from lifealign.data.tasks import DataReport, Message, Row
from lifealign.data.turns import parse_dialogue
from support.records import assistant, user


def test_explicit_formats_give_the_same_row():
    turn = (Message("user", "Hi"),)
    for record in (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"query": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("Go")]},
        {"prompt": "Hi", "chosen": [assistant("Hello")], "rejected": [assistant("Go")]},
        {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "Go"},
        {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
        {"prompt": [user("Hi")], "chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
        {"prompt": "Human: Hi", "chosen": "Assistant: Hello", "rejected": "Assistant: Go"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello", "rejected": "Go"},
    ):
        (row,) = clean([record], "here").rows
        assert row == Row(turn, "Hello", "Go"), record
        assert row.source == "here:1"


def test_implicit_prompt_is_the_common_prefix():
    shared = [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c")]
    (row,) = clean([{"chosen": [*shared, assistant("d")], "rejected": [*shared, assistant("e")]}], "x").rows
    assert [m.content for m in row.prompt] == ["Be brief.", "a", "b", "c"]
    assert (row.chosen, row.rejected) == ("d", "e")


@pytest.mark.parametrize(
    ("chosen", "rejected", "wanted"),
    [
        (
            "What is the sky? It's blue.",
            "What is the sky? Green, perhaps.",
            ("What is the sky?", "It's blue.", "Green, perhaps."),
        ),
        ("Name one colour\nBlue", "Name one colour\nNo", ("Name one colour", "Blue", "No")),
        ("Is it so?\nAnswer: yes", "Is it so?\nAnswer: no", ("Is it so?\nAnswer:", "yes", "no")),
        ("The sky is blue.", "The sky is green.", None),  # the beginning of two answers, or half a question
        ("The correct answer is: B", "The correct answer is: C", None),
        ("Sure. It is B", "Sure. It is C", None),
        ("Sure. Here you are", "Sure. No", None),  # too short for a question
        ("1. Take a pan", "1. Buy a pan", None),
        ("Blue.", "Black.", None),  # no whole word in common
        ("Go on", "Go on and on", None),  # nothing is left to prefer
    ],
)
def test_strings_without_a_prompt_column_begin_with_their_prompt(
    chosen: str, rejected: str, wanted: tuple[str, str, str] | None
) -> None:
    record = {"chosen": chosen, "rejected": rejected}
    if wanted is None:
        with pytest.raises(DataError, match="x: no prompt: the columns are chosen, rejected, and in 1 of 1 rows"):
            clean([record], "x")
    else:
        found = clean([record], "x")
        prompt, *answers = wanted
        assert [(r.prompt[0].content, r.chosen, r.rejected) for r in found.rows] == [(prompt, *answers)]
        assert found.report.repaired == {SHARED_BEGINNING: (1,)}
    # In a file that has the column, a prompt that is not there is missing.
    others = clean([record, {"prompt": "a", "chosen": "b", "rejected": "c"}], "x")
    assert others.report.dropped == {"prompt is missing": (1,)}


def test_a_beginning_is_no_prompt_where_a_column_may_hold_it() -> None:
    record = {"chosen": "What is it? A cat.", "rejected": "What is it? No idea."}
    for beside in ({}, {"id": "a7"}, {"note": None}, {"system": "Be brief, please."}):
        assert clean([{**record, **beside}], "x").rows, beside
    with pytest.raises(DataError, match=r"x: no prompt: .* \(passage, chosen, rejected\).* rename .* to `prompt`"):
        clean([{"passage": "A text of some words", **record}], "x")
    for beside in ({"country": "France"}, {"source": "A text of some words"}):
        with pytest.raises(DataError, match="x: no prompt"):
            clean([{**beside, **record}], "x")


def test_rows_without_a_beginning_are_left_out_among_rows_with_one() -> None:
    good = [{"chosen": f"What is {i} and {i}? Good", "rejected": f"What is {i} and {i}? Bad"} for i in range(3)]
    found = clean([*good, {"chosen": "The sky is blue.", "rejected": "The sky is green."}], "x")
    assert found.report.dropped == {NO_PROMPT_END: (4,)}
    assert len(found.rows) == 3


def test_dialogue_with_empty_lines_keeps_single_breaks_inside_turns():
    found = parse_dialogue("\n\nHuman: write this:\nHuman: hello\n\nAssistant: done")
    assert found is not None
    assert [m.content for m in found.turns] == ["write this:\nHuman: hello", "done"]
    assert parse_dialogue("Humans: a") is None
    assert parse_dialogue("I said\nHuman: a") is None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers lasts as long as the test."""
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))


def test_a_report_names_the_formats_from_outside_that_were_used(registered: None) -> None:
    register_format("qab", lambda r: Triple(r["q"], r["a"], r["b"]) if "q" in r else None)
    register_format("unused", lambda r: None)

    @register_format("no_jokes")
    def no_jokes(record):
        if record.get("joke"):
            raise UnusableRowError("a joke")

    rows = [{"q": "Hi", "a": "Hello", "b": "Go"}, {"prompt": "Ho", "chosen": "Hello", "rejected": "Go"}]
    report = clean(rows, "here").report
    assert list(report.formats) == ["qab"] and report.formats["qab"]["path"] == __file__
    assert report.lines()[-1].startswith(f"read by format 'qab' of {__file__} (sha256 ")
    assert DataReport.from_json(report.to_json()) == report
    joking = clean([*rows, {**rows[1], "joke": True}], "here").report
    assert list(joking.formats) == ["no_jokes", "qab"] and joking.dropped == {"a joke": (3,)}
    plain = clean(rows[1:], "here").report
    assert "formats" not in plain.to_json() and not any("read by format" in line for line in plain.lines())


def test_a_format_that_fails_ends_in_one_sentence(registered: None) -> None:
    record = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}
    register_format("broken", lambda r: r["nowhere"])
    with pytest.raises(
        ConfigError, match=r"format 'broken' \(.*test_formats\.py\) failed on a record: KeyError: 'nowh"
    ):
        clean([record], "here")
    register_format("a_list", lambda r: [r])
    with pytest.raises(ConfigError, match=r"format 'a_list' \(.*\): expected Triple, Parsed or None, got \[\{"):
        clean([record], "here")
