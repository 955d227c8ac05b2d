"""People's votes as rows that `learn` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lifealign.cli.app import app
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.answers import AnswerRecord
from lifealign.data.cleaning import clean
from lifealign.judging.people.database import Rating, Ratings
from lifealign.judging.people.pairs import ALONE, EQUAL, FLAGGED, NO_MAJORITY, TOO_FEW, UNRATED, pair_rows
from support.people import prefer, rate_all
from support.people_batch import ratings_of, record, two_methods
from support.records import read


def vote(ratings: Ratings, name: str, wanted: list[str], flags: tuple[int, ...] = ()) -> None:
    """Vote on each question by its number: for the answers of `ours`, of `theirs`, "tie", or "" for none."""
    while (asked := ratings.next(name)) is not None:
        number = int(asked.question.a.answer.split()[1]) if asked.question.gold is None else 0
        choice = wanted[number]
        sides = dict(zip((side.source for side in asked.sides), ("left", "right"), strict=True))
        winner = sides.get(choice, "tie" if choice else None)
        ratings.save(name, asked.position, Rating(winner=winner, flag=not winner or number in flags))


def test_the_majority_is_chosen_and_ties_make_no_row(tmp_path: Path) -> None:
    records = [*two_methods(6), *(record(9, source, "same") for source in ("ours", "theirs"))]
    ratings = ratings_of(tmp_path / "r.sqlite", records, ["ada", "ben", "cem"])
    vote(ratings, "ada", ["ours", "ours", "theirs", "ours", "tie", "ours"])
    vote(ratings, "ben", ["ours", "ours", "theirs", "theirs", "tie", "ours"], flags=(5,))
    vote(ratings, "cem", ["ours", "theirs", "theirs", "tie", "ours", "ours"])
    found = pair_rows(ratings)
    texts = {
        row["prompt"][0]["content"]: (row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.rows
    }
    assert texts == {
        "myths question 0?": ("answer 0 of ours", "answer 0 of theirs"),
        "myths question 1?": ("answer 1 of ours", "answer 1 of theirs"),
        "myths question 2?": ("answer 2 of theirs", "answer 2 of ours"),
    }
    assert found.left_out == {EQUAL: 1, FLAGGED: 1, NO_MAJORITY: 2}
    assert found.held_out == ("myths",) and "no longer on unseen prompts" in found.lines()[-1]
    strict = pair_rows(ratings, 0.9)
    assert len(strict.rows) == 2 and strict.left_out[TOO_FEW] == 1
    assert len(pair_rows(ratings, 2 / 3).rows) == 3
    rows = clean(found.rows, "f")
    assert [(row.kind, row.chosen) for row in rows.rows] == [("pair", chosen) for chosen, _ in texts.values()]
    assert rows.report.unread == {"task": "a subject; rows may be of several tasks"}


def test_gold_makes_no_row_and_leaves_people_out(tmp_path: Path) -> None:
    ratings = ratings_of(tmp_path / "r.sqlite", two_methods(3), ["ada", "ben"], gold=2)
    rate_all(ratings, "ada", lambda left, right: "left" if "ours" in left or "reference" in left else "right")
    rate_all(ratings, "ben", prefer("theirs"))
    with pytest.raises(DataError, match=f"no rating makes a row:\n  3: {NO_MAJORITY}"):
        pair_rows(ratings)
    found = pair_rows(ratings, 1.0, min_gold=0.5)
    assert found.people == ("ben",) and len(found.rows) == 3
    assert all("ours" in row["chosen"][0]["content"] for row in found.rows)


def test_questions_that_nobody_could_judge(tmp_path: Path) -> None:
    own = [AnswerRecord.of("myths", r.prompt, r.answer, source=r.source, point="now", stage=0) for r in two_methods(3)]
    ratings = ratings_of(tmp_path / "r.sqlite", own)
    first = ratings.next("ada")
    assert first is not None
    ratings.save("ada", first.position, Rating(winner="left"))
    found = pair_rows(ratings)
    assert (len(found.rows), found.left_out, found.held_out) == (1, {UNRATED: 2}, ())


def test_scores_make_rows_with_all_answers(tmp_path: Path) -> None:
    records = [*two_methods(2), record(5, "ours")]
    ratings = ratings_of(tmp_path / "r.sqlite", records, ["ada", "ben"], mode="absolute")
    for name, low in (("ada", 3), ("ben", 4)):
        while (asked := ratings.next(name)) is not None:
            source = asked.question.a.source
            steps = {step.name: step.options[0].name for step in ratings.rubrics[asked.question.rubric].steps}
            ratings.save(name, asked.position, Rating(score=low + 4 * (source == "ours"), steps=steps))
    found = pair_rows(ratings)
    assert found.left_out == {ALONE: 1}
    rows = clean(found.rows, "f").rows
    assert {(row.chosen, row.rejected) for row in rows} == {
        (f"answer {i} of ours", f"answer {i} of theirs") for i in (0, 1)
    }
    assert all(sorted(row["scores"]) == [3.5, 7.5] for row in found.rows)
    with pytest.raises(ConfigError, match="no effect on scores"):
        pair_rows(ratings, 0.5)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_writes_rows_that_are_read(tmp_path: Path) -> None:
    db, out = tmp_path / "r.sqlite", tmp_path / "rows.jsonl"
    ratings = ratings_of(db, two_methods(4))
    refused = call("ratings", "export", "--db", db, "--out", out, "--as", "pairs")
    assert refused.exit_code == 2 and f"4: {UNRATED}" in refused.stderr and not out.exists()
    rate_all(ratings, "ada", prefer("ours"))
    done = call("ratings", "export", "--db", db, "--out", out, "--as", "pairs", "--json")
    assert json.loads(done.stdout)["rows"] == 4 and json.loads(done.stdout)["held_out"] == ["myths"]
    assert {row.chosen for row in read(out)[0]} == {f"answer {i} of ours" for i in range(4)}
    for arguments, message in (
        (("--as", "rows"), "--as 'rows': expected ratings or pairs"),
        (("--min-agreement", "0.8"), "--min-agreement has no effect on single ratings"),
        (("--min-gold", "0.8"), "--min-gold has no effect on single ratings"),
    ):
        wrong = call("ratings", "export", "--db", db, "--out", tmp_path / "x", *arguments)
        assert wrong.exit_code == 2 and message in wrong.stderr and not (tmp_path / "x").exists()
