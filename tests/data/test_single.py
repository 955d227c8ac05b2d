"""Rows with one answer beside pairs: nothing becomes a demonstration by mistake, and a mix is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifealign.data.check import check_data
from lifealign.data.cleaning import clean
from lifealign.data.fixing import write_rows
from lifealign.data.load import task_from_rows
from lifealign.data.quality import BOTH_LABELS
from lifealign.data.tasks import DataReport, Message, Row
from support.records import assistant, numbered, read, user, write_jsonl

PAIR = {"prompt": "a?", "chosen": "b", "rejected": "c"}
SHOWN = {"prompt": "d?", "completion": "e"}
LIKED = {"prompt": "f?", "completion": "g", "label": True}
DISLIKED = {"prompt": "h?", "completion": "i", "label": False}


def test_a_mixed_file_is_read_counted_and_named() -> None:
    report = clean([PAIR, SHOWN, LIKED, DISLIKED, {**PAIR, "prompt": "j?"}, {**PAIR, "prompt": "k?"}], "f").report
    assert report.kinds == {"pair": 3, "desirable": 1, "undesirable": 1, "demonstration": 1}
    assert report.lines()[1] == "kinds of rows: 3 pairs, 1 desirable answer, 1 undesirable answer, 1 demonstration"
    assert report.doubtful == {
        "demonstrations in a file of mostly pairs": (2,),
        "labelled answers in a file of mostly pairs": (3, 4),
    }
    assert DataReport.from_json(json.loads(json.dumps(report.to_json()))).kinds == report.kinds
    assert clean([LIKED, DISLIKED], "f").report.doubtful == {}
    assert clean([PAIR], "f").report.kinds == {}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({**PAIR, "rejected": ""}, "empty rejected answer"),
        ({**PAIR, "rejected": None}, "rejected is missing"),
        ({"prompt": "a?", "chosen": "b"}, "rejected is missing"),
        ({**PAIR, "rejected": None, "response": "b"}, "rejected is missing"),
        ({**PAIR, "rejected": None, "completion": "b", "label": True}, "rejected is missing"),
        ({**LIKED, "label": None}, "no label: `label` is empty"),
        ({**LIKED, "completion": ""}, "empty answer"),
        ({**SHOWN, "completion": ""}, "empty answer"),
        ({**SHOWN, "completion": None}, "the answer is missing"),
        ({**SHOWN, "prompt": ""}, "prompt is missing"),
        ({"prompt": "a?", "response": "b", "answer": "c"}, "`response` or `answer` may be the answer"),
        ({"prompt": "a?", "response": "b", "better_response": "c"}, "`response` or `better_response` may be"),
        ({"prompt": "a?", "response": "b", "answer": "c", "label": 1}, "`response` or `answer` may be"),
        ({"prompt": "a?", "response": "b", "rating": 4}, "`rating` holds numbers such as 4"),
        ({"prompt": "a?", "response": "b", "thumbs_down": None}, "no label: `thumbs_down` is empty"),
        ({"prompt": "a?", "response": "b", "correction": "c"}, "`response` or `correction` may be"),
        ({"prompt": "a?", "response": "b", "is_safe": False}, "`is_safe` marks the answer as bad"),
        ({**SHOWN, "toxic": 1}, "`toxic` marks the answer as bad"),
        ({**SHOWN, "sentiment": "Negative"}, "`sentiment` may mark the answer as bad"),
        ({"messages": [user("a?"), assistant("b")], "quality": "bad"}, "`quality` may mark the answer as bad"),
    ],
)
def test_a_broken_row_never_becomes_a_demonstration(broken: dict[str, Any], reason: str) -> None:
    found = clean([*({**PAIR, "prompt": f"{i}?"} for i in range(3)), broken, LIKED, SHOWN], "f")
    assert 4 not in found.numbers
    ((given_reason, numbers),) = found.report.dropped.items()
    assert given_reason.startswith(reason) and numbers == (4,)


def test_flags_that_tell_nothing_bad_are_read() -> None:
    found = clean(
        [{**SHOWN, "toxic": False, "is_safe": "true", "language": "bad", "helpfulness": 1, "other": "f"}], "f"
    )
    assert [row.kind for row in found.rows] == ["demonstration"]
    assert list(found.report.unread) == ["language", "helpfulness", "other"]
    assert clean([{**LIKED, "toxic": True}], "f").report.kinds == {"desirable": 1}


def test_the_right_answer_can_be_named(tmp_path) -> None:
    path = write_jsonl(tmp_path / "f.jsonl", [{"question": "a?", "response": "b", "answer": "c"}])
    assert [row.answer for row in read(path, map={"completion": "answer"})[0]] == ["c"]
    pairs, _ = read(path, map={"chosen": "answer", "rejected": "response"})
    assert [(row.kind, row.chosen, row.rejected) for row in pairs] == [("pair", "c", "b")]
    stars = write_jsonl(tmp_path / "stars.jsonl", [{"question": "a?", "answer": "c", "stars": 4}])
    shown, report = read(stars, map={"unused": "stars"})
    assert [row.kind for row in shown] == ["demonstration"] and report.unread == {"unused": "numbers"}


def test_the_last_turn_of_a_conversation_is_its_answer() -> None:
    turns = [user("One?"), assistant("1"), user("Two?"), assistant("2")]
    weighted = [*turns[:3], {**turns[3], "weight": 0}]
    records = [
        {"messages": turns},
        {"conversations": [{"from": "human", "value": "Three?"}, {"from": "gpt", "value": "3"}], "kto_tag": "bad"},
        {"messages": json.dumps([{"role": "system", "content": "Be brief."}, *turns])},
        {"messages": turns[:3]},
        {"messages": weighted},
        {"messages": [assistant("Hello!")]},
        {"messages": [*turns[:3], {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}]},
        {"messages": turns, "tools": [{"type": "function"}]},
        {"messages": "Human: Four? Assistant: 4"},
        {"messages": "Human: Four?\n\nAssistant: 4"},
    ]
    found = clean(records, "f")
    assert [(row.kind, len(row.prompt), row.answer) for row in found.rows] == [
        ("demonstration", 3, "2"),
        ("undesirable", 1, "3"),
        ("demonstration", 4, "2"),
        ("demonstration", 1, "4"),
    ]
    assert found.report.dropped == {
        "the conversation does not end with an answer of the assistant": (4, 9),
        "the last turn has weight 0": (5,),
        "prompt is missing": (6,),
        "tool calls are not supported": (7,),
        "`tools` is not read: tool calls are not supported": (8,),
    }


def test_answers_that_are_wanted_and_unwanted_are_named(tmp_path) -> None:
    records = [
        LIKED,
        {**LIKED, "label": 0, "prompt": " F? "},
        DISLIKED,
        {**DISLIKED, "completion": "other", "label": 1},
    ]
    path = write_jsonl(tmp_path / "f.jsonl", [*records, LIKED, {"prompt": "h?", "completion": "i"}])
    found = check_data(path)
    assert found.report.doubtful[BOTH_LABELS] == (1, 2, 3, 6)
    assert found.report.dropped == {"duplicate row": (5,)}
    assert found.both_labels == ((2, 1), (6, 3))
    assert "wanted and unwanted: row 2 against row 1, row 6 against row 3" in found.lines()
    assert found.contradictions == ()
    assert list(found.lengths) == ["prompt", "answer"] and found.longer_chosen is None


def test_near_duplicates_of_single_answers(tmp_path) -> None:
    text = "The parcel left our warehouse on Monday and should be with you before the weekend"
    path = write_jsonl(
        tmp_path / "f.jsonl",
        [{"prompt": "Where is it?", "completion": text}, {"prompt": "Where?", "completion": text + "!"}],
    )
    assert check_data(path).near_duplicates == ((2, 1),)


def test_fixed_rows_of_every_kind_are_read_back(tmp_path) -> None:
    records = [{**PAIR, "score_chosen": 2, "score_rejected": 1}, SHOWN, LIKED, {**DISLIKED, "label": "👎"}]
    records.append({"messages": [user("One?"), assistant("1"), user("Two?"), assistant("2")]})
    found = clean([*records, {**LIKED, "label": None}], "f")
    path = tmp_path / "clean.jsonl"
    fixed = write_rows(path, found)
    assert (fixed.rows, fixed.not_written) == (5, ())
    again, report = read(path)
    assert again == found.rows and report.dropped == {}
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [sorted(record) for record in written] == [
        ["chosen", "prompt", "rejected", "score_chosen", "score_rejected"],
        ["completion", "prompt"],
        ["completion", "label", "prompt"],
        ["completion", "label", "prompt"],
        ["completion", "prompt"],
    ]


def test_rows_of_every_kind_make_a_task() -> None:
    prompt = (Message("user", "Zero?"),)
    given_rows = [
        *(Row((Message("user", f"{i}?"),), "a", "b", margin=float(i)) for i in range(5)),
        Row(prompt, "a", "", kind="desirable"),
        Row(prompt, "", "b", kind="undesirable"),
        Row(prompt, "c", "", kind="demonstration"),
    ]
    task = task_from_rows("t", given_rows, numbered(2))
    assert sorted(task.train, key=given_rows.index) == given_rows
    assert task.reports[0].kinds == {"pair": 5, "desirable": 1, "undesirable": 1, "demonstration": 1}
    fewer = task_from_rows("t", given_rows, [{**PAIR, "prompt": "zero?"}])
    assert fewer.reports[0].kinds == {} and len(fewer.train) == 5


CELLS = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "one", "two", "Human: a\n\nAssistant: b"]),
    st.just([user("q"), assistant("a")]),
)
COLUMNS = ("prompt", "chosen", "rejected", "completion", "response", "messages", "label")
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), CELLS, min_size=1)


@given(st.lists(st.one_of(RECORDS, st.sampled_from([PAIR, SHOWN, LIKED, DISLIKED])), max_size=6))
def test_every_record_is_a_row_or_has_a_reason(records: list[dict[str, Any]]) -> None:
    given_records = [*records, PAIR, SHOWN, LIKED]
    found = clean(given_records, "f")
    left_out = [number for numbers in found.report.dropped.values() for number in numbers]
    assert sorted([*found.numbers, *left_out]) == list(range(1, len(given_records) + 1))
    for number, row in zip(found.numbers, found.rows, strict=True):
        record = given_records[number - 1]
        if row.kind == "pair":
            assert record.get("chosen") and record.get("rejected")
        if row.kind == "demonstration":  # never of an answer with a label, nor a half of a pair
            assert "label" not in record and not (record.get("prompt") and record.get("chosen"))
