"""Ratings by people, without a page: which questions are asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lifealign.core.errors import DataError
from lifealign.judging.people.batch import deal, group_of, make_batch
from lifealign.judging.rubrics import load_rubric
from support.people_batch import record, two_methods


def test_pairs_meet_at_the_same_prompt_and_equal_texts_are_asked_of_nobody() -> None:
    records = [*two_methods(3), record(8, "ours", "same"), record(8, "theirs", "same"), record(9, "ours")]
    batch = make_batch(records, mode="pairwise")
    assert {(q.a.source, q.b.source) for q in batch.questions if q.b} == {("ours", "theirs")}
    assert all(q.b and q.a.item == q.b.item for q in batch.questions)
    assert len(batch.questions) == 3 and [q.a.answer for q in batch.equal] == ["same"]
    assert {q.rubric for q in batch.questions} == {"truthfulness"}


def test_three_groups_meet_in_three_pairs_when_they_are_named() -> None:
    records = [*two_methods(2), *(record(i, "third") for i in range(2))]
    with pytest.raises(DataError, match="got 3: ours@last, theirs@last, third@last; name each with --compare"):
        make_batch(records, mode="pairwise")
    batch = make_batch(records, mode="pairwise", groups=["ours", "theirs", "third@last"])
    pairs = Counter((group_of(q.a), group_of(q.b)) for q in batch.questions if q.b)
    assert pairs == {
        ("ours@last", "theirs@last"): 2,
        ("ours@last", "third@last"): 2,
        ("theirs@last", "third@last"): 2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ["ours", "nobody"]}, "'nobody' matches no answers; choose one of: ours@last, theirs@last"),
        ({"groups": ["@last", "ours"]}, "'@last' matches answers of 2 sources or points"),
        ({"gold": 5}, "--gold 5: only 4 prompts have"),
        ({"gold": 1, "mode": "absolute"}, "--gold needs --mode pairwise"),
        ({"task_rubrics": {"poems": load_rubric("helpful")}}, "no answers for task 'poems'"),
    ],
)
def test_what_cannot_be_asked_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_batch(two_methods(4), **{"mode": "pairwise", **change})


def test_a_task_without_a_rubric_needs_one() -> None:
    records = two_methods(1, ["poems"])
    with pytest.raises(DataError, match="'poems': no built-in rubric"):
        make_batch(records, mode="pairwise")
    assert make_batch(records, mode="pairwise", rubric=load_rubric("helpful")).questions[0].rubric == "helpful"
    with pytest.raises(DataError, match="two different rubrics are named 'helpful'"):
        other = load_rubric("helpful").model_copy(update={"question": "Another one?"})
        make_batch(
            [*records, *two_methods(1)],
            mode="pairwise",
            rubric=load_rubric("helpful"),
            task_rubrics={"poems": other},
        )


def test_a_small_batch_is_even_over_the_tasks() -> None:
    tasks = ["myths", "short-facts", "data-json"]
    batch = make_batch(two_methods(10, tasks), mode="pairwise", count=7)
    assert sorted(Counter(q.a.task for q in batch.questions).values()) == [2, 2, 3]


def test_the_same_seed_asks_the_same_and_another_one_does_not() -> None:
    def asked(seed: int) -> tuple[str, dict[str, Any]]:
        batch = make_batch(two_methods(30), mode="pairwise", count=20, seed=seed)
        return batch.digest, deal(batch, ["ada", "ben"], 0.5)

    assert asked(1) == asked(1)
    assert asked(1)[0] != asked(2)[0]


def test_sides_are_even_and_differ_between_people() -> None:
    turns = deal(make_batch(two_methods(40), mode="pairwise"), ["ada", "ben"], 1.0)
    for own in turns.values():
        assert sum(t.swapped for t in own) == 20
        assert [t.question for t in own] != sorted(t.question for t in own)
    sides = [{t.question: t.swapped for t in own} for own in turns.values()]
    assert 0 < sum(sides[0][q] != sides[1][q] for q in range(40)) < 40


def test_overlap_is_shared_and_the_rest_goes_to_one() -> None:
    batch = make_batch(two_methods(42), mode="pairwise", gold=2)
    turns = deal(batch, ["ada", "ben", "cem"], 0.25)
    shared = Counter(t.question for own in turns.values() for t in own)
    # ceil(0.25 * 42) = 11 and two gold questions are everybody's; 31 are dealt out: 11, 10, 10.
    assert Counter(shared.values()) == {3: 13, 1: 31}
    assert [len(own) for own in turns.values()] == [24, 23, 23]
    gold = [i for i, q in enumerate(batch.questions) if q.gold]
    assert len(gold) == 2 and all(shared[i] == 3 for i in gold)


def test_gold_of_held_out_rows_and_of_the_answers() -> None:
    made = [q for q in make_batch(two_methods(4), mode="pairwise", gold=2).questions if q.gold]
    assert {(q.a.answer.split()[0], q.b.answer.split()[0], q.gold) for q in made if q.b} == {
        ("reference", "rejected", "a")
    }
    given = [record(9, "x", "bad", gold="lose"), record(9, "y", "good", gold="win")]
    found = [q for q in make_batch([*two_methods(2), *given], mode="pairwise").questions if q.gold]
    assert [(q.a.answer, q.gold) for q in found] == [("bad", "b")]
    with pytest.raises(DataError, match="or `tie` twice, got lose, lose"):
        make_batch([*two_methods(2), given[0], record(9, "y", "good", gold="lose")], mode="pairwise")
    scored = make_batch([record(1, "x", gold="8-10")], mode="absolute").questions
    assert [q.gold for q in scored] == ["8-10"]
    with pytest.raises(DataError, match="gold '11'; expected LOW-HIGH or one number, from 1 to 10"):
        make_batch([record(1, "x", gold="11")], mode="absolute")
