"""Personal data in rows: replaced by placeholders, counted by kind, or only looked for. Imports no torch.

What counts as personal is the redactor's business (`presidio.py`); here its finds are replaced. One text has one placeholder in
all turns and answers of a row, so that a row still makes sense: `<PERSON_1>` asks, and the answer greets `<PERSON_1>`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lifealign.data.tasks import Message, Row, shorten_numbers

Replace = Callable[[str, str], str]
"""Kind and text of a find -> what stands in its place."""


class Redactor(Protocol):
    """Finds personal data in texts.

    Attributes:
        about: name, versions and options, kept with the rows.
        not_found: kinds that it does not look for, in words.
    """

    about: Mapping[str, Any]
    not_found: Sequence[str]

    def replace(self, text: str, replacement: Replace) -> str:
        """The text with every find replaced; finds do not overlap."""
        ...


@dataclass
class Redacted:
    """What was removed, or seen, in the rows of a file; never the text itself.

    Attributes:
        counts: kind -> how many times.
        numbers: of the records in which there was something.
    """

    counts: Counter[str] = field(default_factory=Counter)
    numbers: list[int] = field(default_factory=list)

    def line(self, done: str) -> str | None:
        """The counts as one line of text; None if there is nothing."""
        if not self.counts:
            return None
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{done}: {kinds} ({shorten_numbers(self.numbers)})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"counts": dict(sorted(self.counts.items())), "rows": list(self.numbers)}


def redact(row: Row, number: int, redactor: Redactor, found: Redacted) -> Row:
    """A row with placeholders for what the redactor finds in its turns and answers; `found` takes the counts."""
    texts = [*(turn.content for turn in row.prompt), row.chosen, row.rejected]
    placeholders: dict[tuple[str, str], str] = {}
    per_kind: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    marks: list[tuple[str, str]] = []

    def mark(kind: str, text: str) -> str:
        marks.append((kind, text))
        return f"\x00{len(marks) - 1}\x00"

    def name(match: re.Match[str]) -> str:
        kind, text = marks[int(match[1])]
        key = kind, " ".join(text.split()).casefold()
        counts[kind] += 1
        if key not in placeholders:
            per_kind[kind] += 1
            placeholders[key] = f"<{kind}_{per_kind[kind]}>"
        return placeholders[key]

    # A library may replace from the end of a text; numbers are given in the order of reading.
    done = [
        re.sub("\x00(\\d+)\x00", name, redactor.replace(text.replace("\x00", ""), mark)) if text else ""
        for text in texts
    ]
    if not counts:
        return row
    found.counts += counts
    found.numbers.append(number)
    turns = tuple(Message(turn.role, text) for turn, text in zip(row.prompt, done, strict=False))
    return replace(row, prompt=turns, chosen=done[-2], rejected=done[-1])
