"""What is dropped and repaired, and how it is counted."""

from __future__ import annotations

import json

import pytest

from lifealign.data.cleaning import clean
from lifealign.data.tasks import Message
from support.records import RESPLIT, assistant, numbered, read, user


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "empty chosen answer"),
        ({"prompt": "a", "chosen": "b", "rejected": " \n"}, "empty rejected answer"),
        ({"prompt": "a", "chosen": "Assistant: ", "rejected": "b"}, "empty chosen answer"),
        ({"prompt": "a", "chosen": "b ", "rejected": "\nb"}, "equal answers"),
        ({"prompt": "a", "chosen": "Assistant: b", "rejected": "b"}, "equal answers"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]}, "equal answers"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "chosen is missing"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "prompt is missing"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is neither a string nor a list of messages"),
        (
            {"prompt": "a", "chosen": 1, "rejected": 2},
            "chosen and rejected are not both strings or both lists of messages",
        ),
        (
            {"prompt": "Human: a\nAssistant: b", "chosen": "c", "rejected": "d"},
            "prompt does not end with a user turn",
        ),
        (
            {"prompt": [user("a"), assistant("b")], "chosen": [assistant("c")], "rejected": [assistant("d")]},
            "prompt does not end with a user turn",
        ),
        (
            {"prompt": [user("a")], "chosen": [assistant("b"), assistant("c")], "rejected": [assistant("d")]},
            "chosen is not exactly one assistant message after the prompt",
        ),
        (
            {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [user("d")]},
            "rejected is not exactly one assistant message after the prompt",
        ),
        (
            {
                "prompt": [{"role": "narrator", "content": "a"}],
                "chosen": [assistant("b")],
                "rejected": [assistant("c")],
            },
            "a message has a role other than system, user, assistant",
        ),
        (
            {"prompt": [{"role": "user"}], "chosen": [assistant("b")], "rejected": [assistant("c")]},
            "a message is not {role, content} with text content",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: z\n\nAssistant: c"},
            "chosen and rejected do not share a prompt",
        ),
        (
            {"prompt": "a", "chosen": "\ud800", "rejected": "b"},
            "text is not valid Unicode (a lone surrogate)",
        ),
    ],
)
def test_unusable_rows_are_counted_with_their_reason(record, reason):
    found = clean([numbered(1)[0], record], "f")
    assert found.report.dropped == {reason: (2,)}
    assert (found.report.read, found.report.kept, len(found.rows)) == (2, 1, 1)


def test_duplicates_are_dropped_after_cleaning():
    records = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "d"},
        {"prompt": "a", "chosen": "Assistant: b", "rejected": "c"},
    ]
    found = clean(records, "f")
    assert found.report.dropped == {"duplicate row": (3,)}
    assert found.one_sided == (3,)
    assert [r.rejected for r in found.rows] == ["c", "d"]
    assert found.numbers == (1, 2)


def test_repairs_are_counted():
    record = {"query": "Human: a\nAssistant: b\nmore\nHuman: c\nHuman: d", "chosen": "Assistant: e", "rejected": "f"}
    found = clean([*numbered(2), record], "f")
    assert found.report.repaired == {
        "dialogue parsed into turns": (3,),
        "consecutive turns of one role joined": (3,),
        "'Assistant: ' prefix stripped": (3,),
    }
    assert found.rows[2].prompt == (Message("user", "a"), Message("assistant", "b\nmore"), Message("user", "c\nd"))
    assert found.rows[2].chosen == "e"


FAULTS = {
    # recipe: (train, test): rows that are empty or equal
    "hc3": ({"empty rejected answer": (3, 5)}, {"empty rejected answer": (2,)}),
    "hh-harmless": (
        {"empty chosen answer": (5, 6), "empty rejected answer": (7,)},
        {"empty chosen answer": (3,)},
    ),
    "hh-helpful": (
        {"empty rejected answer": (6,), "equal answers": (4, 5)},
        {"empty rejected answer": (1,), "equal answers": (2,)},
    ),
    "safe-rlhf": ({"empty chosen answer": (4,)}, {"empty chosen answer": (3,)}),
    "truthfulqa": ({}, {}),
}


@pytest.mark.parametrize("recipe", FAULTS)
def test_resplit_rows_drop_numbers(recipe):
    for name, expected in zip(("train.json", "test.json"), FAULTS[recipe], strict=True):
        _, report = read(RESPLIT / recipe / name, recipe=recipe)
        assert report.dropped == expected
        assert report.read == report.kept + sum(len(n) for n in report.dropped.values())


def test_resplit_rows_are_also_empty_or_equal_behind_their_prefix():
    """Nine rows are empty or equal as they stand in the files; five more are once "Assistant: " is taken off."""
    count = 0
    for recipe in FAULTS:
        for name in ("train.json", "test.json"):
            for r in json.loads((RESPLIT / recipe / name).read_text(encoding="utf-8")):
                chosen, rejected = r["chosen"].strip(), r["rejected"].strip()
                count += not chosen or not rejected or chosen == rejected
    assert count == 9
    dropped = [numbers for splits in FAULTS.values() for split in splits for numbers in split.values()]
    assert sum(map(len, dropped)) == 9 + 5


def test_conversational_rows():
    rows, report = read(RESPLIT / "conversations.jsonl")
    assert (report.read, report.kept) == (4, 3)
    assert report.dropped == {"duplicate row": (4,)}
    assert [[m.role for m in r.prompt] for r in rows] == [
        ["user"],
        ["user", "assistant", "user"],
        ["system", "user"],
    ]
