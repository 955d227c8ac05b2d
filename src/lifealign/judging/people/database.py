"""Ratings on disk: one SQLite file in WAL mode. A confirmed rating is on the disk. No torch.

Nothing is ever changed or deleted: a rating is a row, undoing it is another row, and the newest row of an assignment is
the valid one. Each call opens its own connection, so threads and processes may share a file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifealign.core.documents import check, shown
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import TEMPORARY, writing
from lifealign.data.answers import AnswerRecord
from lifealign.judging.people import stored
from lifealign.judging.people.batch import Batch, Mode, Question, Turn, deal, order, shared
from lifealign.judging.rubrics import Rubric


@dataclass(frozen=True)
class Rating:
    """One person's reply to one question.

    Attributes:
        winner: `left`, `right` or `tie`; None: scored, or not judged.
        score: score on the rubric's scale; None: compared, or not judged.
        steps: replies to the rubric's preliminary questions: step -> option.
        flag: whether something is wrong with this question; always set if it was not judged.
        comment: free text.
        seconds: time for which the question was visible; None: not known.
    """

    winner: str | None = None
    score: int | None = None
    steps: Mapping[str, str] = field(default_factory=dict)
    flag: bool = False
    comment: str = ""
    seconds: float | None = None

    @property
    def judged(self) -> bool:
        """Whether there is a result."""
        return self.winner is not None or self.score is not None


@dataclass(frozen=True)
class Assignment:
    """A question in an annotator's order.

    Attributes:
        position: position in that order, from 0.
        question: the question.
        swapped: whether `question.b` is on the left.
        draft: the rating that was undone, if any.
    """

    position: int
    question: Question
    swapped: bool
    draft: Rating | None = None

    @property
    def sides(self) -> tuple[AnswerRecord, ...]:
        """The answers, as shown from left to right."""
        both = tuple(record for record in (self.question.a, self.question.b) if record is not None)
        return both[::-1] if self.swapped else both


class Ratings:
    """A batch and its ratings; made by `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connect() as db:
            stored.check_tables(db, path)
            meta = stored.read_meta(dict(db.execute("SELECT name, value FROM meta")), path)
        self.mode: Mode = meta.mode
        self.seed = int(meta.seed)
        self.name: str = meta.name
        self.digest = meta.digest
        self.overlap = stored.read_overlap(meta, path)
        self.rubrics = stored.read_rubrics(meta, path)

    # --- making and opening ---

    @classmethod
    def create(cls, path: str | Path, batch: Batch, annotators: Sequence[str], overlap: float = 1.0) -> Ratings:
        """Create a file; only its owner can read it, because it holds the personal links.

        Raises:
            ConfigError: a name that cannot be used, or the same name twice.
            StoreError: the file already exists or cannot be written.
        """
        target = Path(path)
        _check_names(annotators)
        if target.exists():
            raise StoreError(f"{target}: file already exists; give another --db")
        temporary = target.with_name(f"{TEMPORARY}{target.name}")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with _connected(temporary) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript("BEGIN IMMEDIATE;" + stored.TABLES)
            _write_batch(db, batch, shared(batch, overlap))
            db.execute("INSERT INTO meta VALUES ('overlap', ?)", (str(overlap),))
            for name, turns in deal(batch, annotators, overlap).items():
                _write_annotator(db, name, turns)
            db.execute("COMMIT")
        # Closing the last connection moved the log into the file, so it is complete under its final name.
        with writing(target):
            temporary.rename(target)
        return cls(target)

    @classmethod
    def open(cls, path: str | Path) -> Ratings:
        """Open an existing file.

        Raises:
            StoreError: no such file, or it holds no ratings.
        """
        if not Path(path).is_file():
            raise StoreError(f"{path}: no such file; create it with `lifealign annotate ANSWERS --db {path}`")
        return cls(Path(path))

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return _connected(self.path)

    # --- annotators ---

    def annotators(self) -> dict[str, str]:
        """Name -> token of the personal link."""
        with self._connect() as db:
            found = dict(db.execute("SELECT name, token FROM annotator ORDER BY rowid"))
        return check(stored.Annotators, found, f"{self.path}: annotators")

    def annotator_of(self, token: str) -> str | None:
        """Name of the annotator with this link; None if there is none."""
        # Compared here in constant time, not by an index.
        known = self.annotators()
        found = [name for name, own in known.items() if secrets.compare_digest(own.encode(), token.encode())]
        return found[0] if found else None

    def add_annotator(self, name: str) -> None:
        """Add an annotator, who gets the shared questions.

        Raises:
            ConfigError: the name cannot be used, or no question is shared, so none is left for them.
        """
        _check_names([name])
        with self._connect() as db:
            questions = [row[0] for row in db.execute("SELECT id FROM question WHERE shared ORDER BY id")]
            if not questions:
                raise ConfigError(
                    f"--annotator {name!r}: no questions left, because each belongs to somebody else; make a new batch "
                    "with all names or with a larger --overlap"
                )
            db.execute("BEGIN IMMEDIATE")
            _write_annotator(db, name, order(questions, name, self.seed))
            db.execute("COMMIT")

    # --- rating ---

    def progress(self, annotator: str) -> tuple[int, int]:
        """Numbers of questions: (rated, assigned)."""
        with self._connect() as db:
            row = db.execute(
                "SELECT count(h.id), count(*) FROM assignment s LEFT JOIN held h ON h.assignment = s.id "
                "WHERE s.annotator = ?",
                (annotator,),
            ).fetchone()
        return int(row[0]), int(row[1])

    def next(self, annotator: str) -> Assignment | None:
        """The first question without a rating; None if all are rated."""
        with self._connect() as db:
            row = db.execute(
                "SELECT s.id, s.position, s.question, s.swapped FROM assignment s LEFT JOIN held h "
                "ON h.assignment = s.id WHERE s.annotator = ? AND h.id IS NULL ORDER BY s.position LIMIT 1",
                (annotator,),
            ).fetchone()
            if row is None:
                return None
            draft = db.execute(
                "SELECT winner, score, steps, flag, comment, seconds FROM newest WHERE assignment = ?", (row[0],)
            ).fetchone()
            place = self._assignment(row)
            asked = self._read_question(db, place.question)
            return Assignment(place.position, asked, bool(place.swapped), self._rating(draft) if draft else None)

    def save(self, annotator: str, position: int, rating: Rating) -> None:
        """Save a rating; it is on the disk when this returns. A second one for the same question replaces it.

        Raises:
            ValueError: no such question, or the rating does not answer it; the message gives the reason.
        """
        with self._connect() as db:
            row = db.execute(
                "SELECT s.id, q.rubric FROM assignment s JOIN question q ON q.id = s.question "
                "WHERE s.annotator = ? AND s.position = ?",
                (annotator, position),
            ).fetchone()
            if row is None:
                raise ValueError("no such question")
            check_rating(rating, self.mode, self.rubrics[row[1]])
            _write_rating(db, row[0], rating, withdrawn=False)

    def undo(self, annotator: str) -> bool:
        """Withdraw the newest rating, so that its question is asked again; False if there is no rating."""
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute(
                "SELECT h.assignment, h.winner, h.score, h.steps, h.flag, h.comment, h.seconds FROM held h "
                "JOIN assignment s ON s.id = h.assignment WHERE s.annotator = ? ORDER BY h.id DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if row is not None:
                _write_rating(db, row[0], self._rating(row[1:]), withdrawn=True)
            db.execute("COMMIT")
        return row is not None

    # --- reading ---

    def questions(self) -> list[Question]:
        """Questions to show, in the batch's order."""
        with self._connect() as db:
            return [
                self._read_question(db, row[0]) for row in db.execute("SELECT id FROM question WHERE shown ORDER BY id")
            ]

    def equal(self) -> list[Question]:
        """Pairs of the same text, which are never shown."""
        with self._connect() as db:
            rows = db.execute("SELECT id FROM question WHERE NOT shown ORDER BY id").fetchall()
            return [self._read_question(db, row[0]) for row in rows]

    def held(self) -> list[tuple[str, Assignment, Rating, str]]:
        """All valid ratings, oldest first: annotator, assignment, rating, time (UTC, ISO 8601)."""
        with self._connect() as db:
            rows = db.execute(
                "SELECT s.annotator, h.created, s.id, s.position, s.question, s.swapped, h.winner, h.score, h.steps, h.flag, "
                "h.comment, h.seconds FROM held h JOIN assignment s ON s.id = h.assignment ORDER BY h.id"
            ).fetchall()
            places = [self._assignment(row[2:6]) for row in rows]
            asked = {number: self._read_question(db, number) for number in {place.question for place in places}}
        found = []
        for row, place in zip(rows, places, strict=True):
            who: tuple[str, str] = check(stored.Held, (row[0], row[1]), f"{self.path}: rating")
            rating = self._rating(row[6:])
            self._check(rating, asked[place.question], place)
            found.append(
                (who[0], Assignment(place.position, asked[place.question], bool(place.swapped)), rating, who[1])
            )
        return found

    # --- rows ---

    def _check(self, rating: Rating, question: Question, place: stored.AssignmentRow) -> None:
        try:
            check_rating(rating, self.mode, self.rubrics[question.rubric])
        except ValueError as reason:
            raise StoreError(f"{self.path}: rating of assignment {place.id}: {reason}") from None

    def _assignment(self, row: Sequence[Any]) -> stored.AssignmentRow:
        return stored.read_row(stored.AssignmentRow, row, f"{self.path}: assignment {shown(row[0])}")

    def _rating(self, row: Sequence[Any]) -> Rating:
        one = stored.read_row(stored.RatingRow, row, f"{self.path}: rating")
        steps = stored.read_steps(one.steps, f"{self.path}: rating: steps")
        return Rating(one.winner, one.score, steps, bool(one.flag), one.comment, one.seconds)

    def _read_question(self, db: sqlite3.Connection, number: int) -> Question:
        where = f"{self.path}: question {shown(number)}"
        row = db.execute("SELECT rubric, a, b, gold FROM question WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise StoreError(f"{where}: missing")
        one = stored.read_row(stored.QuestionRow, row, where)
        stored.check_question(one, self.mode, self.rubrics, where)
        return Question(
            one.rubric,
            self._read_answer(db, one.a),
            self._read_answer(db, one.b) if one.b is not None else None,
            one.gold,
        )

    def _read_answer(self, db: sqlite3.Connection, key: str) -> AnswerRecord:
        row = db.execute("SELECT record FROM answer WHERE id = ?", (key,)).fetchone()
        if row is None:
            raise StoreError(f"{self.path}: answer {shown(key)}: missing")
        return stored.read_record(row[0], key, self.path)


def check_rating(rating: Rating, mode: Mode, rubric: Rubric) -> None:
    """Refuse a rating that does not answer the question.

    Raises:
        ValueError: the rating does not fit the question; the message gives the reason.
    """
    if rating.winner is not None and (mode != "pairwise" or rating.winner not in ("left", "right", "tie")):
        raise ValueError(f"winner {rating.winner!r} does not fit this question")
    if rating.score is not None and (mode != "absolute" or not rubric.scale.low <= rating.score <= rubric.scale.high):
        raise ValueError(f"score {rating.score} does not fit this question")
    if not rating.judged and not rating.flag:
        raise ValueError("no choice was made")
    for step in rubric.steps:
        allowed = [option.name for option in step.options]
        if (rating.judged or step.name in rating.steps) and rating.steps.get(step.name) not in allowed:
            raise ValueError(f"first answer: {step.question}")
    if unknown := sorted(set(rating.steps) - {step.name for step in rubric.steps}):
        raise ValueError(f"unknown step {unknown[0]!r}")


# --- rows ---


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that puts each change on the disk at once; errors of SQLite become a StoreError."""
    try:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA trusted_schema = OFF")
            yield db
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot read or write the ratings: {error}") from error


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(stored.ANNOTATOR, name):
            raise ConfigError(f"--annotator {name!r}: expected up to 40 letters, digits, `.`, `-` and `_`")
    if len(set(names)) != len(names):
        raise ConfigError(f"--annotator: names must be unique, got {', '.join(names)}")


def _write_batch(db: sqlite3.Connection, batch: Batch, everybody: Sequence[int]) -> None:
    rubrics = {name: rubric.model_dump(mode="json") for name, rubric in batch.rubrics.items()}
    meta = {
        "format": stored.FORMAT,
        "name": secrets.token_hex(4),
        "mode": batch.mode,
        "seed": batch.seed,
        "digest": batch.digest,
        "rubrics": json.dumps(rubrics),
    }
    db.executemany("INSERT INTO meta VALUES (?, ?)", [(name, str(value)) for name, value in meta.items()])
    together = set(everybody)
    for number, q in enumerate((*batch.questions, *batch.equal)):
        for record in (q.a, q.b):
            if record is not None:
                text = json.dumps(record.to_json(), ensure_ascii=False)
                db.execute("INSERT OR IGNORE INTO answer VALUES (?, ?)", (record.id, text))
        shown = number < len(batch.questions)
        row = (number, q.rubric, q.a.id, q.b.id if q.b else None, q.gold, shown, number in together)
        db.execute("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _write_annotator(db: sqlite3.Connection, name: str, turns: Sequence[Turn]) -> None:
    db.execute("INSERT INTO annotator VALUES (?, ?)", (name, secrets.token_urlsafe(24)))
    db.executemany(
        "INSERT INTO assignment (annotator, position, question, swapped) VALUES (?, ?, ?, ?)",
        [(name, position, turn.question, turn.swapped) for position, turn in enumerate(turns)],
    )


def _write_rating(db: sqlite3.Connection, assignment: int, rating: Rating, *, withdrawn: bool) -> None:
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    db.execute(
        "INSERT INTO rating (assignment, withdrawn, winner, score, steps, flag, comment, seconds, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            assignment,
            withdrawn,
            rating.winner,
            rating.score,
            json.dumps(dict(rating.steps)),
            rating.flag,
            rating.comment,
            rating.seconds,
            created,
        ),
    )
