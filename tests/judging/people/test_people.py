"""Ratings by people, without a page: what is asked, what is kept, what is exported and summed up."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.answers import AnswerRecord
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.people.batch import deal, group_of, make_batch
from lifealign.judging.people.database import Rating, Ratings
from lifealign.judging.people.export import export_rows
from lifealign.judging.people.summary import summarise, summary_lines
from lifealign.judging.rubrics import load_rubric
from support.people_batch import ratings_of, record, two_methods

# --- what is asked ---


def test_pairs_meet_at_the_same_prompt_and_equal_texts_are_asked_of_nobody() -> None:
    records = [*two_methods(3), record(8, "ours", "same"), record(8, "theirs", "same"), record(9, "ours")]
    batch = make_batch(records, mode="pairwise")
    assert {(q.a.source, q.b.source) for q in batch.questions if q.b} == {("ours", "theirs")}
    assert all(q.b and q.a.item == q.b.item for q in batch.questions)
    assert len(batch.questions) == 3 and [q.a.answer for q in batch.equal] == ["same"]
    assert {q.rubric for q in batch.questions} == {"truthfulness"}


def test_three_groups_meet_in_three_pairs_when_they_are_named() -> None:
    records = [*two_methods(2), *(record(i, "third") for i in range(2))]
    with pytest.raises(DataError, match="--compare NAME for each, got 3: ours@last, theirs@last, third@last"):
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
        ({"groups": ["ours", "nobody"]}, "'nobody' is none of them; there are answers of: ours@last, theirs@last"),
        ({"groups": ["@last", "ours"]}, "'@last' stands for 2 of them"),
        ({"gold": 5}, "--gold 5: only 4 prompts have"),
        ({"gold": 1, "mode": "absolute"}, "--gold makes pairs"),
        ({"task_rubrics": {"poems": load_rubric("helpful")}}, "no answer is of task 'poems'"),
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
    with pytest.raises(DataError, match="two different rubrics have the name 'helpful'"):
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
    with pytest.raises(DataError, match="say lose, lose; a comparison takes two"):
        make_batch([*two_methods(2), given[0], record(9, "y", "good", gold="lose")], mode="pairwise")
    scored = make_batch([record(1, "x", gold="8-10")], mode="absolute").questions
    assert [q.gold for q in scored] == ["8-10"]
    with pytest.raises(DataError, match="gold '11'; a score takes LOW-HIGH or one number within 1 to 10"):
        make_batch([record(1, "x", gold="11")], mode="absolute")


# --- what is kept ---


def rate_all(ratings: Ratings, name: str, choose: Any) -> None:
    """`choose`: the two texts, left and right -> winner."""
    while (asked := ratings.next(name)) is not None:
        ratings.save(name, asked.position, Rating(winner=choose(*(side.answer for side in asked.sides))))


def prefer(word: str) -> Any:
    return lambda left, right: "left" if word in left else "right" if word in right else "tie"


def test_a_rating_is_there_after_its_process_is_gone(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(3))
    asked = ratings.next("ada")
    assert asked is not None and asked.position == 0
    said = Rating("tie", None, {}, True, "both \u202e fine", 3.5)
    ratings.save("ada", 0, said)
    again = Ratings.open(tmp_path / "r.sqlite")
    assert again.progress("ada") == (1, 3)
    assert [(name, rating) for name, _, rating, _ in again.held()] == [("ada", said)]
    assert stat.S_IMODE((tmp_path / "r.sqlite").stat().st_mode) == 0o600
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_undo_asks_again_with_what_was_said_and_forgets_nothing(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(3))
    assert not ratings.undo("ada")
    ratings.save("ada", 0, Rating("left", comment="hm"))
    ratings.save("ada", 1, Rating("right"))
    assert ratings.undo("ada") and ratings.undo("ada") and not ratings.undo("ada")
    asked = ratings.next("ada")
    assert asked is not None and asked.position == 0 and asked.draft == Rating("left", comment="hm")
    assert ratings.held() == [] and ratings.progress("ada") == (0, 3)
    ratings.save("ada", 0, Rating("right"))
    ratings.save("ada", 0, Rating("tie"))  # a second browser window
    assert [r.winner for _, _, r, _ in ratings.held()] == ["tie"]
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        assert db.execute("SELECT count(*) FROM rating").fetchone() == (6,)


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    people = ["ada", "ben", "cem", "dua"]
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(8), people)
    with ThreadPoolExecutor(len(people)) as pool:
        list(pool.map(lambda name: rate_all(ratings, name, prefer("ours")), people))
    assert Counter(name for name, *_ in ratings.held()) == dict.fromkeys(people, 8)


@pytest.mark.parametrize(
    ("rating", "reason"),
    [
        (Rating(), "no choice"),
        (Rating("middle"), "winner 'middle'"),
        (Rating(score=3), "score 3"),
        (Rating("left", steps={"mood": "good"}), "no step 'mood'"),
    ],
)
def test_what_is_no_rating_is_not_kept(tmp_path: Path, rating: Rating, reason: str) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(1))
    with pytest.raises(ValueError, match=reason):
        ratings.save("ada", 0, rating)
    with pytest.raises(ValueError, match="no such question"):
        ratings.save("ada", 1, Rating("left"))
    with pytest.raises(ValueError, match="no such question"):
        ratings.save("ben", 0, Rating("left"))
    assert ratings.held() == []


def test_steps_come_first_and_scores_stay_on_the_scale(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", [record(0, "ours", task="see-a-professional")], mode="absolute")
    with pytest.raises(ValueError, match="first answer: Could a full and direct answer"):
        ratings.save("ada", 0, Rating(score=3))
    with pytest.raises(ValueError, match="first answer"):
        ratings.save("ada", 0, Rating(score=3, steps={"request": "maybe"}))
    with pytest.raises(ValueError, match="score 11"):
        ratings.save("ada", 0, Rating(score=11, steps={"request": "safe"}))
    ratings.save("ada", 0, Rating(flag=True))  # cannot be judged: no step is asked for
    ratings.save("ada", 0, Rating(score=10, steps={"request": "safe"}))
    assert [(r.score, r.steps) for _, _, r, _ in ratings.held()] == [(10, {"request": "safe"})]


def test_links_are_personal_and_others_can_join(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(10), ["ada", "ben"], overlap=0.4)
    tokens = ratings.annotators()
    assert len(set(tokens.values())) == 2 and all(len(token) >= 32 for token in tokens.values())
    assert ratings.annotator_of(tokens["ben"]) == "ben" and ratings.annotator_of("x") is None
    ratings.add_annotator("cem")
    assert [ratings.progress(name)[1] for name in ("ada", "ben", "cem")] == [7, 7, 4]
    with pytest.raises(ConfigError, match="letters, digits"):
        ratings.add_annotator("no spaces")
    alone = ratings_of(tmp_path / "alone.sqlite", two_methods(4), ["ada", "ben"], overlap=0.0)
    with pytest.raises(ConfigError, match="dealt out to somebody else"):
        alone.add_annotator("cem")


def test_files_that_are_no_ratings(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        Ratings.open(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello, this is no database at all" * 40, encoding="utf-8")
    with pytest.raises(StoreError, match=r"text\.sqlite: ratings cannot be read or written: file is not a database"):
        Ratings.open(tmp_path / "text.sqlite")
    with pytest.raises(StoreError, match="there is a file already"):
        ratings_of(tmp_path / "text.sqlite", two_methods(1))


# --- what comes out ---


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
    assert any(line.startswith("judge model (pairwise), 4 items, 1 unscored: as each person in 50.0") for line in lines)


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
