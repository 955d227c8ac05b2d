"""Schemas of a database of ratings: its tables, and the values in their cells."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from lifealign.core.documents import Count, Document, Name, Number, Rate, Text, check, shown
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import decode_json
from lifealign.data.answers import AnswerRecord, read_answer
from lifealign.judging.rubrics import Rubric

FORMAT = 1
ANNOTATOR = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$"
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE answer (id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE question (
  id INTEGER PRIMARY KEY, rubric TEXT NOT NULL, a TEXT NOT NULL REFERENCES answer, b TEXT REFERENCES answer,
  gold TEXT, shown INTEGER NOT NULL, shared INTEGER NOT NULL);
CREATE TABLE annotator (name TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);
CREATE TABLE assignment (
  id INTEGER PRIMARY KEY, annotator TEXT NOT NULL REFERENCES annotator, position INTEGER NOT NULL,
  question INTEGER NOT NULL REFERENCES question, swapped INTEGER NOT NULL, UNIQUE (annotator, position));
CREATE TABLE rating (
  id INTEGER PRIMARY KEY AUTOINCREMENT, assignment INTEGER NOT NULL REFERENCES assignment, withdrawn INTEGER NOT NULL,
  winner TEXT, score INTEGER, steps TEXT NOT NULL, flag INTEGER NOT NULL, comment TEXT NOT NULL, seconds REAL,
  created TEXT NOT NULL);
CREATE INDEX rating_of ON rating (assignment, id);
CREATE VIEW newest AS SELECT * FROM rating r WHERE id = (SELECT max(id) FROM rating WHERE assignment = r.assignment);
CREATE VIEW held AS SELECT * FROM newest WHERE NOT withdrawn;
"""

Switch = Annotated[int, Field(ge=0, le=1)]
"""SQLite's truth value."""


class Meta(Document):
    """The table `meta`, whose values are texts."""

    format: Name
    name: Name
    mode: Literal["pairwise", "absolute"]
    seed: Annotated[str, Field(pattern=r"^[0-9]{1,16}$")]
    digest: Name
    overlap: Annotated[str, Field(pattern=r"^(0|1|[01]?\.[0-9]{1,20}|[0-9.]{1,20}e-[0-9]{1,3})$")]
    rubrics: Text


@dataclass(frozen=True)
class QuestionRow:
    """A row of `question`."""

    rubric: Name
    a: Name
    b: Name | None
    gold: Name | None


@dataclass(frozen=True)
class AssignmentRow:
    """An assignment's columns."""

    id: Count
    position: Count
    question: Count
    swapped: Switch


@dataclass(frozen=True)
class RatingRow:
    """The columns of a rating."""

    winner: Literal["left", "right", "tie"] | None
    score: Annotated[int, Field(ge=-(10**9), le=10**9)] | None
    steps: Text
    flag: Switch
    comment: Text
    seconds: Annotated[Number, Field(ge=0)] | None


Held: Any = tuple[Name, Name]
"""Annotator and time of a rating."""
Steps = dict[Name, Name]
Annotators = dict[Annotated[str, Field(pattern=ANNOTATOR)], Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")]]


R = TypeVar("R", QuestionRow, AssignmentRow, RatingRow)


def read_row(shape: type[R], row: Sequence[Any], where: str) -> R:
    """The cells of a row, in the order of its fields."""
    return check(shape, {one.name: cell for one, cell in zip(fields(shape), row, strict=True)}, where)


def check_tables(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file whose tables, views and triggers are not those of ratings: none of another's would be safe to run.

    Raises:
        StoreError: names the first that differs.
    """
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(TABLES)
        expected = _objects(empty)
    found = _objects(db)
    if "meta" not in found:
        raise StoreError(f"{path}: not a database of ratings: it has no table `meta`")
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            wrong = "missing" if name not in found else "unknown" if name not in expected else "of another form"
            raise StoreError(f"{path}: not a database of ratings: {name!r} is {wrong}")


def _objects(db: sqlite3.Connection) -> dict[str, str]:
    """Name -> definition of tables, indices, views and triggers; without SQLite's own."""
    rows = db.execute("SELECT name, sql FROM sqlite_master").fetchall()
    return {str(name): " ".join(str(sql).split()) for name, sql in rows if not str(name).startswith("sqlite_")}


def read_meta(rows: Mapping[Any, Any], path: Path) -> Meta:
    """The table `meta`; StoreError names the entry of another form."""
    if rows.get("format") != str(FORMAT):
        shown = str(rows.get("format"))[:40]
        raise StoreError(f"{path}: unknown format {shown} of ratings; this lifealign reads {FORMAT}")
    return check(Meta, dict(rows), f"{path}: meta")


def read_overlap(meta: Meta, path: Path) -> float:
    """The share of questions for everybody."""
    return check(Rate, float(meta.overlap), f"{path}: meta: overlap")


def read_rubrics(meta: Meta, path: Path) -> dict[str, Rubric]:
    """The rubrics by name."""
    where = f"{path}: meta: rubrics"
    plain = check(dict[Name, dict[str, Any]], decode_json(where, meta.rubrics), where)
    return {name: _rubric(value, f"{where}.{name}") for name, value in plain.items()}


def _rubric(value: Mapping[str, Any], where: str) -> Rubric:
    scale = value.get("scale")
    anchors = scale.get("anchors") if isinstance(scale, Mapping) else None
    if isinstance(scale, Mapping) and isinstance(anchors, Mapping):  # JSON has no numbers as keys
        numbered = {int(k) if re.fullmatch(r"-?[0-9]{1,9}", k) else k: v for k, v in anchors.items()}
        value = {**value, "scale": {**scale, "anchors": numbered}}
    return check(Rubric, value, where)


def check_question(row: QuestionRow, mode: str, rubrics: Mapping[str, Rubric], where: str) -> None:
    """Refuse a question that does not fit the batch: its rubric, its answers, its known result."""
    if row.rubric not in rubrics:
        raise StoreError(f"{where}: rubric: no such rubric, got {shown(row.rubric)}")
    if (row.b is None) != (mode == "absolute"):
        raise StoreError(f"{where}: b: not as many answers as a question of mode {mode} has")
    form = r"a|b|tie" if mode == "pairwise" else r"-?[0-9]{1,9}-[0-9]{1,9}"
    if row.gold is not None and not re.fullmatch(form, row.gold):
        raise StoreError(f"{where}: gold: not a known result, got {shown(row.gold)}")


def read_record(text: Any, key: str, path: Path) -> AnswerRecord:
    """An answer, whose id must be that of its content."""
    where = f"{path}: answer {key}"
    record = read_answer(decode_json(where, check(Text, text, where)), where, StoreError)
    if record.id != key:
        raise StoreError(f"{where}: damaged: its content gives {record.id}")
    return record


def read_steps(text: str, where: str) -> dict[str, str]:
    """Replies to a rubric's preliminary questions."""
    return check(Steps, decode_json(where, text), where)
