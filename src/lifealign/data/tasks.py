"""Rows of preference or feedback, tasks and streams of tasks, and the report of rows read, dropped and repaired.

Reading is in `sources`, cleaning in `cleaning`, drawing in `splits`. This module imports neither torch nor `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from lifealign.core.origin import described

SHOWN_ROW_NUMBERS = 10
PLAIN_LAYOUTS = frozenset(
    {
        "TRL preference (prompt, chosen, rejected)",
        "the paper's names (query, chosen, rejected)",
        "TRL preference, implicit prompt (chosen, rejected)",
    }
)
"""Layouts that a stored report does not name, as it did not before there were others."""

Role = Literal["system", "user", "assistant"]
RowKind = Literal["pair", "desirable", "undesirable", "demonstration"]
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
FEEDBACK_KINDS: tuple[RowKind, ...] = ("desirable", "undesirable")
"""Kinds of rows with a verdict, up or down, on one answer."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


def turns_of(prompt: str | Sequence[Message]) -> Sequence[Message]:
    """A prompt as a conversation; a string is one user turn."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def in_context(prompt: Sequence[Message], text: str) -> tuple[Message, ...]:
    """A conversation behind a system text, which comes before the system turn that it has, if any."""
    if prompt and prompt[0].role == "system":
        return (Message("system", f"{text}\n\n{prompt[0].content}"), *prompt[1:])
    return (Message("system", text), *prompt)


@dataclass(frozen=True)
class Row:
    """What people said about an answer to a prompt: a preference triple (x, y_chosen, y_rejected), or one answer alone.

    An answer that a kind lacks is the empty string: ``desirable`` and ``demonstration`` have ``chosen`` alone,
    ``undesirable`` has ``rejected`` alone.

    Attributes:
        prompt: the conversation so far; its last turn is a user turn. A plain string prompt is one user turn.
        chosen: text of the preferred answer (the final assistant turn), of the good one, or of the one to imitate.
        rejected: text of the other answer, or of the bad one.
        source: origin of the row, as ``file:row`` (1-based); for messages only, not part of the digest.
        kind: ``pair``, feedback on one answer (``desirable``, ``undesirable``), or ``demonstration``.
        margin: by how much chosen is better, in the file's own units of score; pairs alone.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str = field(default="", compare=False)
    kind: RowKind = "pair"
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ROW_KINDS:
            raise ValueError(f"kind {self.kind!r} of a row is unknown. Use one of {', '.join(ROW_KINDS)}")
        for name, answer, has in (
            ("chosen", self.chosen, self.kind != "undesirable"),
            ("rejected", self.rejected, self.kind in ("pair", "undesirable")),
        ):
            if bool(answer) != has:
                raise ValueError(
                    f"a row of kind {self.kind!r} has {'a' if has else 'no'} {name} answer, got {answer!r}"
                )
        if self.margin is not None and (self.kind != "pair" or not math.isfinite(self.margin)):
            raise ValueError(
                f"a margin is a finite number of a pair, got {self.margin!r} in a row of kind {self.kind!r}"
            )

    @property
    def answer(self) -> str:
        """The one answer of a row that is no pair.

        Raises:
            ValueError: for a pair.
        """
        if self.kind == "pair":
            raise ValueError("a pair has two answers; read chosen or rejected")
        return self.chosen or self.rejected

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content: equal rows have equal digests wherever they came from."""
        turns = [[m.role, m.content] for m in self.prompt]
        content: list[Any] = [turns, self.chosen, self.rejected]
        if self.kind != "pair" or self.margin is not None:
            content += [self.kind, self.margin]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The row in TRL's conversational format of its kind (preference, unpaired, prompt-completion), with its source."""
        row: dict[str, Any] = {"prompt": [{"role": m.role, "content": m.content} for m in self.prompt]}
        if self.kind == "pair":
            row |= {"chosen": _assistant(self.chosen), "rejected": _assistant(self.rejected)}
        else:
            row["completion"] = _assistant(self.answer)
        if self.kind in FEEDBACK_KINDS:
            row["label"] = self.kind == "desirable"
        if self.margin is not None:
            row["margin"] = self.margin
        return {**row, "source": self.source}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        kind: RowKind = "pair"
        if "completion" in value:
            kind = ("desirable" if value["label"] else "undesirable") if "label" in value else "demonstration"
            answer = value["completion"][0]["content"]
            chosen, rejected = ("", answer) if kind == "undesirable" else (answer, "")
        else:
            chosen, rejected = value["chosen"][0]["content"], value["rejected"][0]["content"]
        return cls(
            prompt=tuple(Message(m["role"], m["content"]) for m in value["prompt"]),
            chosen=chosen,
            rejected=rejected,
            source=value.get("source", ""),
            kind=kind,
            margin=value.get("margin"),
        )


def _assistant(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


def as_feedback(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Pairs as rows of feedback: of each pair its chosen answer as desirable, and then its rejected one as undesirable."""
    return tuple(
        replace(row, **{other: ""}, kind=kind, margin=None)  # type: ignore[arg-type]
        for row in rows
        for other, kind in (("rejected", "desirable"), ("chosen", "undesirable"))
    )


def rows_sha256(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of the rows' content, in order."""
    return hashlib.sha256("".join(row.digest for row in rows).encode()).hexdigest()


def prompt_key(row: Row) -> str:
    """The prompt with case and white space normalised: rows with equal keys ask the same thing."""
    return "\n".join(f"{m.role}: {' '.join(m.content.split()).casefold()}" for m in row.prompt)


@dataclass(frozen=True)
class DataReport:
    """Rows read, dropped and repaired in one source.

    Attributes:
        source: file, hub id or suite name.
        read: number of rows read.
        kept: number of rows kept.
        collected: what the report of `lifealign collect` beside the file says of its rows; empty: there is none.
        dropped: reason -> 1-based row numbers that were left out.
        repaired: repair -> 1-based row numbers that were changed and kept.
        formats: row format from outside that read rows -> its origin, as a record keeps it.
        layouts: layout and the columns read -> rows that had it; not compared, as plain ones are not stored.
        unread: column that holds something and was not read -> what it may mean.
        doubtful: reason -> 1-based row numbers that were kept and may teach the wrong thing.
        renamed: new name -> column that was read under it.
        rules: rules for scores and labels that the user chose, as text.
        kinds: kind -> rows kept of it; empty if all are pairs.
    """

    source: str
    read: int
    kept: int
    collected: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    repaired: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layouts: Mapping[str, int] = field(default_factory=dict, compare=False)
    unread: Mapping[str, str] = field(default_factory=dict)
    doubtful: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as lines of text: a summary, then one line per reason and per repair; long lists are shortened."""
        lines = [f"{self.source}: read {_rows(self.read)}, kept {self.kept}"]
        if self.kinds:
            lines.append("kinds of rows: " + ", ".join(f"{count} {_noun(k, count)}" for k, count in self.kinds.items()))
        lines += [f"rule for {rule}" for rule in self.rules]
        for done, what in (("dropped", self.dropped), ("repaired", self.repaired)):
            lines += [f"{done} {_rows(len(n))}: {reason} ({shorten_numbers(n)})" for reason, n in what.items()]
        lines += [f"doubtful, but kept: {reason} ({shorten_numbers(n)})" for reason, n in self.doubtful.items()]
        if self.collected:
            lines.append(_collected(self.collected))
        if self.renamed:
            lines.append("columns renamed: " + ", ".join(f"{old} to {new}" for new, old in self.renamed.items()))
        lines += [f"layout: {layout}, {_rows(count)}" for layout, count in self.layouts.items()]
        if self.unread:
            lines.append("columns not read: " + ", ".join(f"{name} ({what})" for name, what in self.unread.items()))
        return lines + [f"read by format {name!r} of {described(origin)}" for name, origin in self.formats.items()]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, row numbers in full; without what tells nothing."""
        plain = all(name in PLAIN_LAYOUTS or name.startswith("recipe ") for name in self.layouts)
        return {
            "source": self.source,
            "read": self.read,
            "kept": self.kept,
            "dropped": {reason: list(numbers) for reason, numbers in self.dropped.items()},
            "repaired": {repair: list(numbers) for repair, numbers in self.repaired.items()},
            **({"collected": dict(self.collected)} if self.collected else {}),
            **({"formats": dict(self.formats)} if self.formats else {}),
            **({} if plain else {"layouts": dict(self.layouts)}),
            **({"unread": dict(self.unread)} if self.unread else {}),
            **({"doubtful": {reason: list(n) for reason, n in self.doubtful.items()}} if self.doubtful else {}),
            **({"renamed": dict(self.renamed)} if self.renamed else {}),
            **({"rules": list(self.rules)} if self.rules else {}),
            **({"kinds": dict(self.kinds)} if self.kinds else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataReport:
        """The inverse of `to_json`."""
        return cls(
            value["source"],
            value["read"],
            value["kept"],
            {reason: tuple(numbers) for reason, numbers in value["dropped"].items()},
            {repair: tuple(numbers) for repair, numbers in value["repaired"].items()},
            value.get("formats", {}),
            value.get("layouts", {}),
            value.get("unread", {}),
            {reason: tuple(numbers) for reason, numbers in value.get("doubtful", {}).items()},
            value.get("renamed", {}),
            tuple(value.get("rules", ())),
            value.get("kinds", {}),
            collected=value.get("collected", {}),
        )


def kinds_of(rows: Iterable[Row]) -> dict[str, int]:
    """Kind -> number of rows of it, in the order of `ROW_KINDS`; empty if all are pairs."""
    counts = Counter(row.kind for row in rows)
    return {kind: counts[kind] for kind in ROW_KINDS if counts[kind]} if set(counts) - {"pair"} else {}


def _noun(kind: str, count: int) -> str:
    noun = {"desirable": "desirable answer", "undesirable": "undesirable answer"}.get(kind, kind)
    return noun if count == 1 else f"{noun}s"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _collected(held: Mapping[str, Any]) -> str:
    if held.get("other_rows"):
        return "the report of `lifealign collect` beside the file is of other rows, so none of it is kept"
    consent, redaction = held["selection"].get("consent"), held["redaction"]
    agreed = f"only records with {consent}" if consent else "consent not checked"
    removed = f"personal data removed by {redaction['redactor']}" if redaction else "personal data not removed"
    return f"collected from {held['source']}: {agreed}, {removed}"


def shorten_numbers(numbers: Sequence[int]) -> str:
    """Row numbers as readable text, e.g. "rows 4, 17, 220" or "rows 1, ..., 10 and 25 more"."""
    shown = ", ".join(str(n) for n in numbers[:SHOWN_ROW_NUMBERS])
    more = len(numbers) - SHOWN_ROW_NUMBERS
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Task:
    """One task of the stream.

    Attributes:
        name: unique in its stream; see `stream_config.TASK_NAME`.
        train: rows to learn from.
        validation: rows to choose hyper-parameters on; taken from train with the seed.
        test: rows to report on; none of them is in train.
        checker: rule that scores generated answers, by name (a key of `data.suites.rules.CHECKERS`) or reference, or None.
        reports: one data report for each source read.
        requirement: description of what the task asks for, if given.
        supersedes: earlier task that this one replaces, if any.
    """

    name: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()
    checker: str | None = None
    reports: tuple[DataReport, ...] = ()
    requirement: str | None = None
    supersedes: str | None = None

    @property
    def requirement_text(self) -> str:
        """The task's requirement if given, else its name with hyphens as spaces."""
        return self.requirement or self.name.replace("-", " ")


@dataclass(frozen=True)
class TaskStream:
    """Tasks in the order in which they arrive."""

    name: str
    tasks: tuple[Task, ...]
