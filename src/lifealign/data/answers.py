"""Answer records in JSONL or Parquet: prompt, answer, source, and point in a memory's life. Imports no torch.

The judge scores these records, people rate them and the transcript browser shows them. Their ids depend on the content
alone, so judgements and ratings match their answer in any copy of the file, and a later edit of the answer is detected.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lifealign.core.documents import Count, Document, Name, Stored, Text, check, shown
from lifealign.core.errors import DataError, UserError
from lifealign.core.files import replace_file, writing
from lifealign.data.parquet import read_parquet
from lifealign.data.sources import Record, read_file
from lifealign.data.tasks import Message
from lifealign.data.turns import UnusableRowError, parse_prompt

BASE = "base"
"""Point of the answers given before the first task."""
EXTENSIONS = (".jsonl", ".json", ".parquet")
REQUIRED = ("task", "prompt", "answer", "source", "point")
OPTIONAL = ("id", "item", "stage", "reference", "rejected", "scores", "gold", "rule", "finish", "decoding")
TEXTS = ("reference", "rejected", "gold", "rule", "finish")
"""Optional columns of text."""
ID_DIGITS = 16
"""Hex digits of an id: 64 bits, so the chance that any two of a million answers share an id is below 1e-7."""


@dataclass(frozen=True)
class AnswerRecord:
    """One answer; create it with `AnswerRecord.of`, which computes the ids.

    Attributes:
        id: of the answer, 16 hex digits of the SHA-256 of (task, prompt, source, point, answer).
        item: of the prompt, 16 hex digits of the SHA-256 of (task, prompt): the same for all answers to it.
        task: name of the task that the prompt belongs to.
        prompt: the whole conversation; its last turn is the user's.
        answer: text.
        source: who answered, e.g. the name of a method or of a memory.
        point: the last task learnt before this answer; `BASE` before any.
        stage: number of tasks learnt at that point, from 0.
        reference: the preferred answer of the held-out row, or its one good answer, if any.
        rejected: the other answer of that row, or its one bad answer, if any.
        scores: metric -> value of this answer, rates from 0 to 1; None: not measured.
        gold: set on items whose rating is known beforehand.
        rule: the task's rule in words, if it has one.
        finish: `length` if the answer was cut at its longest length; `stop` or None: it ended, or nothing is known.
        decoding: how a decoder chose the answer, as plain values; None: it is the model's own.
    """

    id: str
    item: str
    task: str
    prompt: tuple[Message, ...]
    answer: str
    source: str
    point: str
    stage: int
    reference: str | None = None
    rejected: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    gold: str | None = None
    rule: str | None = None
    finish: str | None = None
    decoding: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        task: str,
        prompt: Sequence[Message],
        answer: str,
        *,
        source: str,
        point: str,
        stage: int,
        reference: str | None = None,
        rejected: str | None = None,
        scores: Mapping[str, float | None] | None = None,
        gold: str | None = None,
        rule: str | None = None,
        finish: str | None = None,
        decoding: Mapping[str, Any] | None = None,
    ) -> AnswerRecord:
        """Build a record and compute its ids; the arguments are the fields of the class."""
        turns = [[m.role, m.content] for m in prompt]
        return cls(
            digest(task, turns, source, point, answer),
            digest(task, turns),
            task,
            tuple(prompt),
            answer,
            source,
            point,
            stage,
            reference,
            rejected,
            {name: _number(value) for name, value in (scores or {}).items()},
            gold,
            rule,
            finish,
            decoding,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the order of the fields; `decoding` only where there is one."""
        found = {
            **vars(self),
            "prompt": [{"role": m.role, "content": m.content} for m in self.prompt],
            "scores": dict(self.scores),
        }
        return found if self.decoding is not None else {k: v for k, v in found.items() if k != "decoding"}


def digest(*parts: Any) -> str:
    """The first `ID_DIGITS` hex digits of the SHA-256 of plain values, as JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:ID_DIGITS]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# --- reading ---


def read_answers(path: str | Path) -> list[AnswerRecord]:
    """Read the records of a jsonl, json or parquet file, in order; `id` and `item` are optional and checked if given.

    Raises:
        DataError: the file is missing or empty, a row is not an answer, an id does not match the content, or an
            answer is repeated; names the file and the row.
    """
    extension = Path(path).suffix.lower()
    if not Path(path).exists():
        raise DataError(f"{path}: no such file")
    if extension not in EXTENSIONS:
        raise DataError(f"{path}: unknown extension {extension!r}; allowed: {', '.join(EXTENSIONS)}")
    rows = _read_parquet(Path(path)) if extension == ".parquet" else read_file(str(path))
    if not rows:
        raise DataError(f"{path}: contains no answers; write some with `lifealign answers MEMORY --out {path}`")
    records = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        record = read_answer(row, f"{path}: row {number}")
        if record.id in seen:
            raise DataError(f"{path}: row {number}: same answer as row {seen[record.id]} (id {record.id}); remove one")
        seen[record.id] = number
        records.append(record)
    return records


class AnswerRow(Document):
    """A row of a file of answers."""

    id: Name | None = None
    item: Name | None = None
    task: Name
    prompt: Any
    answer: Text
    source: Name
    point: Name
    stage: Count | None = None
    reference: Text | None = None
    rejected: Text | None = None
    scores: dict[Name, Stored | None] | None = None
    gold: Name | None = None
    rule: Text | None = None
    finish: Literal["stop", "length"] | None = None
    decoding: dict[str, Any] | None = None


def read_answer(row: Any, where: str, error: type[UserError] = DataError) -> AnswerRecord:
    """The answer in plain values.

    Raises:
        UserError: `error`; it is none, or an id does not match the content; names the field.
    """
    if not isinstance(row, Mapping):
        raise error(f"{where}: an answer is an object, got {shown(row)}")
    if missing := [name for name in REQUIRED if row.get(name) is None]:
        names = ", ".join(sorted(map(shown, row)))
        raise error(f"{where}: {missing[0]!r} is missing; required: {', '.join(REQUIRED)}; got {names}")
    if unknown := sorted(set(row) - {*REQUIRED, *OPTIONAL}):
        raise error(f"{where}: unknown column {shown(unknown[0])}; allowed: {', '.join((*REQUIRED, *OPTIONAL))}")
    found = check(AnswerRow, row, where, error)
    record = AnswerRecord.of(
        found.task,
        _prompt(found.prompt, where, error),
        found.answer,
        source=found.source,
        point=found.point,
        stage=found.stage or 0,
        reference=found.reference,
        rejected=found.rejected,
        scores=found.scores,
        gold=found.gold,
        rule=found.rule,
        finish=found.finish,
        decoding=found.decoding,
    )
    for name in ("id", "item"):
        if getattr(found, name) not in (None, getattr(record, name)):
            raise error(
                f"{where}: {name} {getattr(found, name)!r} does not match the content, which gives {getattr(record, name)}; "
                "if you edited the row, remove its id and item"
            )
    return record


def _prompt(value: Any, where: str, error: type[UserError]) -> tuple[Message, ...]:
    try:
        turns = tuple(parse_prompt(value)[0])
    except UnusableRowError as reason:
        raise error(f"{where}: prompt: {reason}") from None
    if not turns or turns[-1].role != "user":
        raise error(f"{where}: prompt must end with a user turn")
    check(list[Text], [turn.content for turn in turns], f"{where}: prompt", error)
    return turns


def _read_parquet(path: Path) -> list[Record]:
    rows = read_parquet(str(path))
    for row in rows:
        scores = row.get("scores")
        if isinstance(scores, list) and all(isinstance(one, tuple) and isinstance(one[0], str) for one in scores):
            row["scores"] = dict(scores)  # the entries of a map; any other list is refused below
        if isinstance(row.get("decoding"), str):
            with contextlib.suppress(ValueError):  # text that is no JSON is refused below
                row["decoding"] = json.loads(row["decoding"])
    return list(rows)


# --- writing ---


def write_answers(path: str | Path, records: Iterable[AnswerRecord]) -> None:
    """Write records as jsonl or parquet, depending on the extension; an existing file is replaced as a whole.

    Raises:
        DataError: the extension is neither .jsonl nor .parquet.
        StoreError: the operating system refused a write.
    """
    target = Path(path)
    check_extension(target)
    rows = [record.to_json() for record in records]
    if target.suffix.lower() == ".parquet":
        data = _parquet(rows)
    else:
        data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, data)


def check_extension(path: Path) -> None:
    """Check that answers can be written to a file of this name, before any are generated.

    Raises:
        DataError: the extension is neither .jsonl nor .parquet.
    """
    if path.suffix.lower() not in (".jsonl", ".parquet"):
        raise DataError(f"{path}: unknown extension {path.suffix!r}; answers are written as .jsonl or .parquet")


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    kinds = {
        "prompt": pyarrow.list_(pyarrow.struct([("role", text), ("content", text)])),
        "stage": pyarrow.int64(),
        # Metrics differ from task to task, so a struct cannot hold them.
        "scores": pyarrow.map_(text, pyarrow.float64()),
    }
    names = [name for name in AnswerRecord.__dataclass_fields__ if any(name in row for row in rows) or not rows]
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in names])
    plain = [{**row, "scores": list(row["scores"].items())} for row in rows]
    for row in plain:
        if "decoding" in row:
            row["decoding"] = json.dumps(row["decoding"])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())
