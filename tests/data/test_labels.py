"""Labels of one answer: what is wanted, what is not, and what is left out until the user gives a rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifealign.core.errors import ConfigError
from lifealign.data.cleaning import Cleaned, clean
from lifealign.data.load import task_from_rows
from lifealign.data.tasks import DataReport
from lifealign.data.verdicts import Rules, source_of
from support.records import assistant, numbered, user, write_jsonl


def rated(*labels: Any, column: str = "label") -> list[dict[str, Any]]:
    return [{"question": f"Question {i}?", "answer": f"Answer {i}.", column: one} for i, one in enumerate(labels)]


def kinds(found: Cleaned) -> list[str]:
    """The kind of each record: its row's, or "-" for a record that is left out."""
    by_number = dict(zip(found.numbers, (row.kind for row in found.rows), strict=True))
    return [by_number.get(number, "-") for number in range(1, found.report.read + 1)]


UP, DOWN, OUT = "desirable", "undesirable", "-"


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        *(
            (label, UP)
            for label in (True, "true", "True", 1, "1", "+1", 1.0, "up", " Good ", "thumbs up", "👍", "👍🏽")
        ),
        *((label, UP) for label in ({"value": 1}, {"rating": "up"}, ["good"], '["good", "up"]', "accepted")),
        *((label, DOWN) for label in (False, "false", 0, "0", "0.0", -1, "-1", "down", "BAD", "👎", ":thumbsdown:")),
        *((label, DOWN) for label in ({"score": "👎", "type": "thumbs"}, [-1, "bad"], "Rejected")),
        *(
            (label, OUT)
            for label in (None, "", float("nan"), "neutral", "None", [], {}, [True, False], "blue", "yes", 4)
        ),
    ],
)
def test_a_label_has_one_meaning_or_none(label: Any, kind: str) -> None:
    assert kinds(clean(rated(label), "f")) == [kind]
    assert kinds(clean([{"prompt": "a", "completion": "b", "label": label}], "f")) == [kind]
    assert kinds(clean([{"messages": [user("a"), assistant("b")], "label": label}], "f")) == [kind]


@pytest.mark.parametrize(
    ("column", "labels", "expected"),
    [
        ("label", (1, 0, 1), (UP, DOWN, UP)),
        ("label", (1, 0, -1), (UP, OUT, DOWN)),
        ("label", (1, 1), (UP, UP)),
        ("rating", (1, 0), (UP, DOWN)),
        ("rating", (1, 1), (OUT, OUT)),
        ("rating", (1, 5), (OUT, OUT)),
        ("rating", ("good", 5), (UP, OUT)),
        ("score", (0.2, 0.9), (OUT, OUT)),
        ("liked", ("yes", "no"), (UP, DOWN)),
        ("is_bad", (True, 0), (DOWN, UP)),
        ("undesirable", ("no", "yes"), (UP, DOWN)),
        ("thumbs_down", (True, False), (DOWN, OUT)),
    ],
)
def test_a_number_is_read_as_its_column_is_used(
    column: str, labels: tuple[Any, ...], expected: tuple[str, ...]
) -> None:
    found = clean(rated(*labels, column=column), "f")
    assert tuple(kinds(found)) == expected
    assert column not in found.report.unread


def test_a_column_without_any_label_has_a_way_out() -> None:
    records = rated(None, "", column="score")
    ((reason, numbers),) = clean(records, "f").report.dropped.items()
    assert numbers == (1, 2)
    assert reason == "no label: `score` is empty in every row; to read them as demonstrations, --map unused=score"
    assert clean(rated(None, True), "f").report.dropped == {"no label: `label` is empty": (1,)}


def test_counts_for_and_against() -> None:
    counts = ((3, 1), (0, 1), (2, 2), (None, 1), ("1", ""), (True, False), ("False", "True"), ("many", 1))
    records = [
        {"question": f"q{i}?", "answer": "a", "thumbs_up": up, "thumbs_down": down}
        for i, (up, down) in enumerate(counts)
    ]
    found = clean(records, "f")
    assert kinds(found) == [UP, DOWN, OUT, DOWN, UP, UP, DOWN, OUT]
    assert found.report.dropped["no label: as much in `thumbs_up` as in `thumbs_down`"] == (3,)
    assert found.report.dropped["`thumbs_up` is neither a count nor true or false"] == (8,)


def test_stars_need_a_rule_and_the_reason_tells_how_to_give_it(tmp_path) -> None:
    path = write_jsonl(tmp_path / "stars.jsonl", rated(5, 4, 3, 2, 1, "good", column="stars"))
    without = task_from_rows("t", [*rated(5, 3, column="stars"), *numbered(3)], test_rows=1)
    ((reason, numbers),) = without.reports[0].dropped.items()
    assert numbers == (1, 2) and "`stars` holds numbers such as 3 and 5" in reason
    assert "--good-from NUMBER" in reason and "--map unused=stars" in reason
    for rules, expected in (
        ({"good_from": 4}, [UP, UP, DOWN, DOWN, DOWN, UP]),
        ({"good_from": 4, "bad_to": 2}, [UP, UP, OUT, DOWN, DOWN, UP]),
    ):
        task = task_from_rows("t", path, test_rows=1, **rules)
        found = clean(rated(5, 4, 3, 2, 1, "good", column="stars"), "f", rules=Rules.of(source_of("f", **rules)))
        assert kinds(found) == expected
        report = task.reports[0]
        assert report.rules == found.report.rules and report.rules[0].startswith("labels: good from 4, bad ")
        assert f"rule for {report.rules[0]}" in report.lines()
        assert DataReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_rule_for_stars_leaves_thumbs_as_they_are() -> None:
    records = [*rated(1, 0, column="thumbs_up"), *rated(1, 0, column="rating")]
    found = clean(records, "f", rules=Rules(good_from=4))
    assert kinds(found) == [UP, DOWN, DOWN, OUT]  # the last is a duplicate of row 2
    assert found.report.dropped == {"duplicate row": (4,)}


def test_rules_that_contradict_each_other_are_refused() -> None:
    for rules in ({"bad_to": 2}, {"good_from": 2, "bad_to": 2}, {"good_from": float("nan")}, {"pairs": "all-above"}):
        with pytest.raises(ConfigError, match=r"bad_to must be below|finite|expected best-worst"):
            source_of("f", **rules)


def argilla(*values: Any, **more: Any) -> dict[str, Any]:
    responses = [{"status": "submitted", "values": {"quality": {"value": value}}} for value in values]
    return {"fields": {"instruction": "Question?", "response": "Answer.", **more}, "responses": responses}


def label_studio(*results: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"result": [{"from_name": "verdict", "to_name": "response", "value": value}]} for value in results]
    return {"data": {"prompt": "Question?", "response": "Answer."}, "annotations": annotations}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (argilla("good", "good", "bad"), UP),
        (argilla(["bad"]), DOWN),
        (argilla("good", "bad"), "no label: as many votes for the answer as against it in `quality`"),
        (argilla(5, 1), "`quality` holds numbers such as 5"),
        (argilla(1), "`quality` holds numbers such as 1"),
        (argilla("too long, and wrong"), "nobody labelled the answer"),
        (argilla(), "nobody labelled the answer"),
        (argilla("good", answer="Another."), "neither exactly two answers"),
        (
            {
                "prompt": "Question?",
                "response": "Answer.",
                "quality.responses": ["bad", "good"],
                "quality.responses.status": ["submitted", "discarded"],
            },
            DOWN,
        ),
        (label_studio({"choices": ["Good"]}, {"choices": ["Good"]}), UP),
        (label_studio({"choices": ["Bad"]}), DOWN),
        (label_studio({"rating": 4}), "`verdict` holds numbers such as 4"),
        (label_studio({"text": ["Answer."]}), "nobody labelled the answer"),
    ],
)
def test_exports_with_one_answer(record: dict[str, Any], kind: str) -> None:
    found = clean([record], "f")
    if kind in (UP, DOWN):
        (row,) = found.rows
        assert (row.kind, row.prompt[0].content, row.answer) == (kind, "Question?", "Answer.")
    else:
        ((reason, _),) = found.report.dropped.items()
        assert reason.startswith(kind)


def test_ratings_of_several_people_by_a_rule() -> None:
    rules = Rules(good_from=4, bad_to=2)
    assert kinds(clean([argilla(5, 4, 1)], "f", rules=rules)) == [UP]
    assert kinds(clean([argilla(1)], "f", rules=rules)) == [DOWN]
    assert kinds(clean([argilla(5, 3)], "f", rules=rules)) == [OUT]


LABELS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["up", "down", "👍", "good", "bad", "1", "0", "-1"]),
    st.lists(st.booleans(), max_size=2),
    st.dictionaries(st.sampled_from(["value", "rating", "x"]), st.booleans(), max_size=1),
)


@given(st.lists(LABELS, max_size=8), st.sampled_from(["label", "rating", "thumbs_up", "is_bad", "thumbs_down"]))
def test_any_label_gives_a_kind_or_a_reason_with_the_row_number(labels: list[Any], column: str) -> None:
    found = clean(rated(*labels, column=column), "f")
    left_out = sorted(number for numbers in found.report.dropped.values() for number in numbers)
    assert sorted([*found.numbers, *left_out]) == list(range(1, len(labels) + 1))
    assert {row.kind for row in found.rows} <= {UP, DOWN}
    for number, row in zip(found.numbers, found.rows, strict=True):
        if isinstance(labels[number - 1], bool):
            assert (row.kind == UP) == (labels[number - 1] != (column in ("is_bad", "thumbs_down")))


@given(st.lists(st.sampled_from([0, 1, "0", "1", "+1"]), min_size=1))
def test_ones_and_zeros_of_a_label_are_never_left_out(labels: list[Any]) -> None:
    assert kinds(clean(rated(*labels), "f")) == [UP if float(label) == 1 else DOWN for label in labels]


def test_rows_and_logs_know_the_same_words_of_votes() -> None:
    from lifealign.data.collecting.verdicts import verdict_of
    from lifealign.data.labels import is_label
    from lifealign.data.vote_words import AGAINST, FOR, NEITHER

    for words, verdict in ((FOR, "up"), (AGAINST, "down"), (NEITHER, None)):
        for word in words:
            written = word.upper().replace("UPVOTED", "Up-voted")
            assert is_label(written), word
            assert verdict_of([("vote", written)], {}) == verdict, word
