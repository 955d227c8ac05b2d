"""Tables of a study's report, to be printed as HTML, LaTeX, Markdown and on the terminal. See `tables`.

A missing number is None from here on and is shown as such; nothing is filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from lifealign.evaluation.metrics import seeds_interval
from lifealign.evaluation.numbers import number
from lifealign.report.render import interval

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: for people; None if nothing was measured.
        value: the number behind the text; None for words.
        low: lower end of the interval, for people; "" without one.
        high: its upper end.
        rank: 1 if it is better than every other of its column, else 0; see `ranked`.
        spread: standard deviation over seeds, for people; "" if the table shows intervals.
        note: what a reader must know, such as how many cells a mean lacks.
        values: the single values behind a mean, for people.
        tint: how good a change is, from -1 (the worst of its table) to 1; None for a cell without colour.
    """

    text: str | None
    value: float | None = None
    low: str = ""
    high: str = ""
    rank: int = 0
    spread: str = ""
    note: str = ""
    values: str = ""
    tint: float | None = None


@dataclass(frozen=True)
class Column:
    """One column: its heading, the heading above it (shared by neighbours), its explanation, whether it holds words."""

    label: str
    above: str = ""
    text: str = ""
    words: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file, letters, digits and hyphens.
        title: heading.
        note: what its numbers are.
        first: heading of the first column.
        columns: the others.
        rows: (name, cells) each.
        show: choices in the page's menus under which it is shown: score, order, model.
        apart: number of last rows that are shown apart from the others, because they are no competitors.
        remarks: row name -> what a reader must know of its runs; a remark that several rows share is one footnote.
    """

    name: str
    title: str
    note: str
    first: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    show: Mapping[str, str]
    apart: int = 0
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def footnotes(self) -> dict[str, str]:
        """Remark -> its letter, in the order of the rows."""
        every = dict.fromkeys(r for name, _ in self.rows for r in self.remarks.get(name, ()))
        return {remark: _letters(i) for i, remark in enumerate(every)}

    def marks(self, name: str) -> str:
        """Letters of a row's footnotes, such as ``a, c``."""
        letters = self.footnotes()
        return ", ".join(letters[remark] for remark in self.remarks.get(name, ()))

    def starts_apart(self, name: str) -> bool:
        """Whether a row is the first of those shown apart."""
        return bool(self.apart) and self.rows[len(self.rows) - self.apart][0] == name

    def above(self) -> list[tuple[str, int]]:
        """Headings above the columns with the number of columns of each; empty if there are none."""
        spans = [(label, len(list(group))) for label, group in groupby(c.above for c in self.columns)]
        return spans if any(label for label, _ in spans) else []


def _letters(position: int) -> str:
    """A to z, then aa, ab ..."""
    more, last = divmod(position, 26)
    return (_letters(more - 1) if more else "") + chr(ord("a") + last)


def slug(*parts: str) -> str:
    """A file name's stem: letters, digits and hyphens."""
    return "-".join(filter(None, (re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-") for part in parts)))


def unused(name: str, seen: set[str]) -> str:
    """The name, with a number if it differs from a seen one only in signs or case, which file names ignore."""
    full, count = name, 1
    while full.lower() in seen:
        count += 1
        full = f"{name}-{count}"
    seen.add(full.lower())
    return full


def order_label(order: str) -> str:
    """An order's name for people: "order given", "order2"."""
    return order if order.startswith("order") else f"order {order}"


def setting(value: Any) -> str:
    """A setting's value as a user would write it."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')


def settings_text(settings: Json | None) -> str:
    """Settings on one line; "" if there are none."""
    return ", ".join(f"{key}={setting(value)}" for key, value in (settings or {}).items())


def number_cell(value: Any, score: str = "") -> Cell:
    """A cell with a number and no interval."""
    return Cell(None) if value is None else Cell(number(value, score), value)


def mean_cell(stored: Json, score: str) -> Cell:
    """A cell with a mean and its interval."""
    found = interval({**stored, "value": stored.get("mean")})
    if found["value"] is None:
        return Cell(None)
    low, high = number(found["low"], score), number(found["high"], score)
    if not low or not high or found["low"] == found["high"]:
        low, high = "", ""  # seeds that agree do not make a mean certain
    return Cell(number(found["value"], score), found["value"], low, high)


def signed(cell: Cell) -> str:
    """A number's text, with a plus sign if it is positive."""
    text = cell.text or ""
    return f"+{text}" if float(text) > 0 else text


def ranked(cells: Sequence[Cell], values: Sequence[Mapping[Any, float]], higher: bool) -> list[Cell]:
    """Mark the one cell that is better than every other: the 95% interval of each paired difference excludes zero.

    Two methods that print the same, or whose difference may be zero, are not told apart, so that none of them is marked.
    Cells with a note are not ranked.

    Args:
        cells: of one column.
        values: of each cell, seed -> value.
        higher: whether more is better.
    """
    held = [i for i, cell in enumerate(cells) if cell.text is not None and not cell.note]
    if len(held) < 2:
        return list(cells)
    found = list(cells)
    top = max(held, key=lambda i: (cells[i].value or 0.0) * (1 if higher else -1))
    if all(_ahead(values[top], values[i], 1 if higher else -1) for i in held if i != top):
        found[top] = replace(found[top], rank=1)
    return found


def _ahead(one: Mapping[Any, float], other: Mapping[Any, float], sign: int) -> bool:
    """Whether one method is better than another by a paired interval over the seeds that both have."""
    differences = [sign * (one[seed] - other[seed]) for seed in one if seed in other]
    return len(differences) > 1 and seeds_interval(differences).low > 0


def words(text: str) -> Cell:
    """A cell of words; an empty text counts as missing."""
    return Cell(text or None)


def word_columns(*labels: str) -> tuple[Column, ...]:
    """Columns of words."""
    return tuple(Column(label, words=True) for label in labels)
