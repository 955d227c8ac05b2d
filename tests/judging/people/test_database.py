"""What the database of ratings keeps, and what it refuses."""

from __future__ import annotations

import sqlite3
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lifealign.core.errors import ConfigError, StoreError
from lifealign.judging.people.database import Rating, Ratings
from support.people import prefer, rate_all
from support.people_batch import ratings_of, record, two_methods


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
        (Rating("left", steps={"mood": "good"}), "unknown step 'mood'"),
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
    with pytest.raises(ConfigError, match="each belongs to somebody else"):
        alone.add_annotator("cem")


def test_files_that_are_no_ratings(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        Ratings.open(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello, this is no database at all" * 40, encoding="utf-8")
    with pytest.raises(StoreError, match=r"text\.sqlite: cannot read or write the ratings: file is not a database"):
        Ratings.open(tmp_path / "text.sqlite")
    with pytest.raises(StoreError, match="file already exists"):
        ratings_of(tmp_path / "text.sqlite", two_methods(1))
