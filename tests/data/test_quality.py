"""Doubtful rows: reversed and equal scores, contradictions, near-duplicates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lifealign.data.check import check_data
from lifealign.data.cleaning import clean
from lifealign.data.load import task_from_rows
from lifealign.data.quality import CONTRADICTION, REVERSED, TIED, scores_of
from lifealign.data.tasks import DataReport
from support.records import assistant, numbered, user, write_jsonl

LONG = "The parcel left our warehouse on Monday and should be with you before the weekend"


def pair(
    prompt: str = "Coast or hills?", chosen: str = "Coast.", rejected: str = "Hills.", **more: Any
) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({"score_chosen": 2, "score_rejected": 4.5}, (2.0, 4.5)),
        ({"chosen-rating": "3", "rejected-rating": "1"}, (3.0, 1.0)),
        ({"chosen_avg_rating": 3, "rejected_avg_rating": 3}, (3.0, 3.0)),
        ({"Reward_Rejected": 0.5, "Reward_Chosen": -0.5}, (-0.5, 0.5)),
        ({"preferred_score": 1, "non_preferred_score": 2}, (1.0, 2.0)),
        ({"score_j": 4, "score_k": 5}, (4.0, 5.0)),
        ({"chosen_rank": 2, "rejected_rank": 1}, (-2.0, -1.0)),
        ({"margin": -1.5}, (-1.5, 0.0)),
        ({"score_chosen": 1, "score_rejected": None, "score_diff": 0}, (0.0, 0.0)),
        ({"score_chosen": 1}, None),
        ({"chosen_model": 1, "rejected_model": 2}, None),
        ({"score": 3}, None),
    ],
)
def test_scores_of_both_sides_are_found_by_their_names(columns, scores):
    found = scores_of(pair(**columns))
    assert (found and found[0]) == scores


def test_reversed_and_tied_scores_are_named_and_kept():
    records = [
        pair("a", score_chosen=9, score_rejected=1),
        pair("b", score_chosen=1, score_rejected=9),
        pair("c", score_chosen=5, score_rejected=5.0),
        pair("d"),
        pair("e", "x", "x", score_chosen=1, score_rejected=2),
    ]
    found = clean(records, "f")
    assert found.report.kept == 4
    assert found.report.doubtful == {REVERSED: (2,), TIED: (3,)}
    assert found.report.unread == {}
    assert f"doubtful, but kept: {REVERSED} (row 2)" in found.report.lines()
    stored = json.loads(json.dumps(found.report.to_json()))
    assert DataReport.from_json(stored).doubtful == found.report.doubtful
    assert "doubtful" not in clean([pair()], "f").report.to_json()


def test_a_swapped_pair_is_a_contradiction_in_any_layout_and_a_ranking_is_none():
    records = [
        pair(),
        pair("Left or right?"),
        {"prompt": [user(" coast or  hills? ")], "chosen": [assistant("Hills. ")], "rejected": [assistant("Coast.")]},
        pair("A, b or c?", "a", "b"),
        pair("A, b or c?", "b", "c"),
        pair("Letters?", "Yes", "yes"),
        pair("Another?", "Hills.", "Coast."),
    ]
    assert clean(records, "f").report.doubtful == {CONTRADICTION: (1, 3)}
    assert clean([pair(), pair(chosen="Hills.", rejected="Assistant: Coast.")], "f").report.doubtful != {}


def test_learn_names_them_but_for_rows_that_it_drops():
    rows = [*numbered(10), pair(), pair(chosen="Hills.", rejected="Coast."), pair("x", margin=-1)]
    task = task_from_rows("t", rows, numbered(2, 50))
    assert task.reports[0].doubtful == {REVERSED: (13,), CONTRADICTION: (11, 12)}
    assert len(task.train) == 13
    assert task_from_rows("t", rows, [pair()]).reports[0].doubtful == {REVERSED: (13,)}


def test_check_data_lists_near_duplicates_of_test_rows(tmp_path):
    train = [
        pair(LONG + "."),
        pair("Something else entirely, about the colour of the sea?"),
        pair("How do I reset it?", LONG, LONG + " or so."),
        pair("Exactly the same prompt"),
        pair("question 12"),
        pair("What is the capital of France?"),
    ]
    test = [
        pair(f"{LONG.upper()} , please!", "Other.", "Answers."),
        pair("How can I reset it?", LONG, LONG + " or so."),
        pair("exactly the same  prompt"),
        pair("question 13", "One.", "Two."),
        pair("What is the capital of Spain?", "Madrid.", "Rome."),
    ]
    paths = write_jsonl(tmp_path / "train.jsonl", train), write_jsonl(tmp_path / "test.jsonl", test)
    found = check_data(paths[0], test=paths[1])
    assert found.near_duplicates == ((1, 1), (3, 2))
    assert found.prompts_on_both_sides == (4,)
    assert "near-duplicate: row 1 of test row 1, row 3 of test row 2" in found.lines()
    assert found.to_json()["near_duplicates"] == [[1, 1], [3, 2]]
    assert check_data(paths[0]).near_duplicates == ()


def test_without_test_rows_check_data_compares_the_rows_of_the_file(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [pair(LONG), pair("Short?"), pair(LONG + "!", "New.", "Old.")])
    found = check_data(path)
    assert found.near_duplicates == ((3, 1),)
    assert "near-duplicate: row 3 of row 1" in found.lines()
    swapped = check_data(write_jsonl(tmp_path / "swapped.jsonl", [pair(), pair(chosen="Hills.", rejected="Coast.")]))
    assert swapped.contradictions == ((2, 1),) and swapped.near_duplicates == ()
    assert "chosen and rejected swapped: row 2 against row 1" in swapped.lines()
