"""What comes out of ratings: exports and summaries."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lifealign.data.answers import AnswerRecord
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.people.database import Rating
from lifealign.judging.people.export import export_rows
from lifealign.judging.people.summary import summarise, summary_lines
from support.people import prefer, rate_all
from support.people_batch import ratings_of, record, two_methods


def test_export_says_what_was_seen(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(4), ["ada", "ben"], gold=1)
    rate_all(ratings, "ada", prefer("ours"))
    rows = export_rows(ratings)
    assert len(rows) == 5 == len({row["item"] + str(row["left"]) for row in rows})
    for row in rows:
        assert json.loads(json.dumps(row)) == row and row["annotator"] == "ada" and row["mode"] == "pairwise"
        if row["gold_ok"] is None:
            assert row[f"{row['winner']}_by"] == "ours@last"
            by = {r.id: r.source for r in two_methods(4)}
            assert by[row[row["winner"]]] == "ours"
        else:
            assert row["winner"] == "tie" and row["gold_ok"] is False


def test_win_rates_by_hand(tmp_path: Path) -> None:
    """Eight pairs: ada prefers ours in all, ben in those of even number; two more pairs have equal texts.

    Of ours: even items (1 + 1) / 2 = 1, odd ones (1 + 0) / 2 = 0.5, equal ones 0.5: (4 + 2 + 1) / 10 = 70%.
    """
    records = [*two_methods(8), *(record(i, s, "same") for i in (8, 9) for s in ("ours", "theirs"))]
    ratings = ratings_of(tmp_path / "r.sqlite", records, ["ada", "ben"], gold=2)
    rate_all(ratings, "ada", lambda left, right: "left" if "ours" in left or "reference" in left else "right")
    even = ("0 of ours", "2 of ours", "4 of ours", "6 of ours", *(f"{i} of theirs" for i in (1, 3, 5, 7)), "rejected")
    rate_all(ratings, "ben", lambda left, right: "left" if any(text in left for text in even) else "right")
    found = summarise(ratings)
    (row,) = found["results"]
    assert (row["a"], row["b"], row["task"]) == ("ours@last", "theirs@last", "all")
    assert (row["items"], row["wins"], row["ties"], row["losses"]) == (10, 4, 6, 0)
    assert row["win_rate"]["value"] == pytest.approx(70) and row["win_rate"]["low"] < 70 < row["win_rate"]["high"]
    # Two systems, 7 wins to 3 and 0.1 each way.
    strength = {row["who"]: row["strength"]["value"] for row in found["strengths"]}
    assert strength["ours@last"] == pytest.approx(math.log(7.1 / 3.1) / 2)
    people = {one["name"]: one for one in found["annotators"]}
    assert (people["ada"]["gold_right"], people["ben"]["gold_right"], people["ben"]["gold"]) == (2, 0, 2)
    assert people["ada"]["left"] == pytest.approx(50)
    agreement = found["agreement"]
    assert agreement["items"] == 8 and agreement["same"] == pytest.approx(50)
    # Sixteen values, 12 of ours and 4 of theirs, apart in four items: 1 - 15 * 4 / (12 * 4).
    assert agreement["alpha"]["value"] == pytest.approx(1 - 60 / 48)
    # Without ben, who got no gold question right, ours wins all eight: (8 + 1) / 10.
    strict = summarise(ratings, min_gold=0.5)
    assert strict["left_out"] == ["ben"] and strict["results"][0]["win_rate"]["value"] == pytest.approx(90)
    assert any("70.0" in line and "4 won, 6 even, 0 lost" in line for line in summary_lines(found))


def judged(a: AnswerRecord, b: AnswerRecord | None = None, **verdict: Any) -> Judgement:
    mode: Any = "absolute" if b is None else "pairwise"
    return Judgement(
        a.id, a.item, a.task, a.source, a.point, "model", "truthfulness", mode, other=b and b.id, **verdict
    )


def test_agreement_of_a_judge_with_people_by_hand(tmp_path: Path) -> None:
    """People prefer ours in all five. The judge: ours in both orders, twice; theirs; each order another; unscored."""
    records = two_methods(5)
    ratings = ratings_of(tmp_path / "r.sqlite", records, ["ada", "ben"])
    for name in ("ada", "ben"):
        rate_all(ratings, name, prefer("ours"))
    pairs = list(zip(records[::2], records[1::2], strict=True))
    said = [("a", "a"), ("a", "a"), ("b", "b"), ("a", "b"), ("a", None)]
    judgements = [
        judged(*pair, winner=winner, swapped=swapped, unscored=None if winner else "timeout")
        for pair, both in zip(pairs, said, strict=True)
        for swapped, winner in zip((False, True), both, strict=True)
    ]
    (row,) = summarise(ratings, judgements)["judges"]
    assert (row["judge"], row["mode"], row["items"], row["unscored"]) == ("model", "pairwise", 4, 1)
    assert row["same_as_most"]["value"] == row["same_as_each"]["value"] == pytest.approx(50)
    # The same, with the answers named the other way round.
    turned = [
        judged(b, a, winner={"a": "b", "b": "a"}[w], swapped=s)
        for (a, b), both in zip(pairs[:4], said[:4], strict=True)
        for s, w in zip((False, True), both, strict=True)
    ]
    assert summarise(ratings, turned)["judges"][0]["same_as_most"]["value"] == pytest.approx(50)
    # Scores say which one is better, too: ours, theirs, equal, nothing.
    scores = [
        judged(r, score=s)
        for pair, both in zip(pairs, [(9, 2), (3, 4), (5, 5)], strict=False)
        for r, s in zip(pair, both, strict=True)
    ]
    (row,) = summarise(ratings, scores)["judges"]
    assert (row["mode"], row["items"], row["unscored"]) == ("absolute", 3, 2)
    assert row["same_as_most"]["value"] == pytest.approx(100 / 3)
    lines = summary_lines(summarise(ratings, judgements))
    assert any(
        line.startswith("judge model (pairwise), 4 items, 1 unscored: agrees with each person in 50.0")
        for line in lines
    )


def test_scores_of_people_and_judge_by_hand(tmp_path: Path) -> None:
    """Means of two people 2, 5, 8; the judge 4, 5, 9: the same order, above them by (2 + 0 + 1) / 3 = 1."""
    records = [record(i, "ours") for i in range(3)]
    ratings = ratings_of(tmp_path / "r.sqlite", records, ["ada", "ben"], mode="absolute")
    for name, shift in (("ada", -1), ("ben", 1)):
        while (asked := ratings.next(name)) is not None:
            middle = {r.id: 2 + 3 * i for i, r in enumerate(records)}[asked.question.a.id]
            ratings.save(name, asked.position, Rating(score=middle + shift))
    found = summarise(ratings, [judged(r, score=s) for r, s in zip(records, (4, 5, 9), strict=True)])
    assert [(row["who"], row["items"], row["score"]["value"]) for row in found["results"]] == [("ours@last", 3, 5.0)]
    (row,) = found["judges"]
    assert row["rank_correlation"] == pytest.approx(1) and row["above_people"]["value"] == pytest.approx(1)
    # 1 3 | 4 6 | 7 9: D_o = mean of 4; D_e over the 30 ordered pairs of 1 3 4 6 7 9: 2 (6 * 192 - 30 ** 2) / 30.
    assert found["agreement"]["alpha"]["value"] == pytest.approx(1 - 4 / (2 * (6 * 192 - 900) / 30))
    assert found["agreement"]["level"] == "interval" and found["agreement"]["same"] == 0
    assert any("mean scores" in line for line in summary_lines(found))


def test_a_summary_of_nothing_says_so(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(2))
    found = summarise(ratings)
    assert found["results"] == [] and found["agreement"]["items"] == 0
    assert "ada: 0 of 2 rated" in summary_lines(found)
