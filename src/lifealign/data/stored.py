"""Schemas of rows and reports as a memory keeps them; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lifealign.core.documents import Count, Document, Name, Number, StoredText, Text, check
from lifealign.core.errors import StoreError
from lifealign.data.tasks import Role, Row


class Turn(Document):
    """One turn of a conversation."""

    role: Role
    content: StoredText


class Reply(Document):
    """The one turn of an answer."""

    role: Literal["assistant"] = "assistant"
    content: StoredText


Turns = Annotated[list[Turn], Field(min_length=1)]
Answer = Annotated[list[Reply], Field(min_length=1, max_length=1)]


class Pair(Document):
    """A row with two answers."""

    prompt: Turns
    chosen: Answer
    rejected: Answer
    source: Text = ""
    margin: Number | None = None


class Single(Document):
    """A row with one answer."""

    prompt: Turns
    completion: Answer
    label: bool = True
    source: Text = ""


class ReportRecord(Document):
    """A `DataReport`; older memories lack some of it."""

    source: Text
    read: Count
    kept: Count
    dropped: dict[Text, list[Count]]
    repaired: dict[Text, list[Count]]
    doubtful: dict[Text, list[Count]] = Field(default_factory=dict)
    layouts: dict[Text, Count] = Field(default_factory=dict)
    kinds: dict[Name, Count] = Field(default_factory=dict)
    unread: dict[Text, Text] = Field(default_factory=dict)
    renamed: dict[Text, Text] = Field(default_factory=dict)
    rules: list[Text] = Field(default_factory=list)
    formats: dict[Name, Mapping[str, Any]] = Field(default_factory=dict)
    collected: dict[str, Any] = Field(default_factory=dict)


def stored_row(value: Any, where: str) -> Row:
    """The row that `Row.to_json` made this of.

    Raises:
        StoreError: it is none; names `where` and the field.
    """
    check(Single if isinstance(value, Mapping) and "completion" in value else Pair, value, where)
    try:
        return Row.from_json(value)
    except ValueError as error:
        raise StoreError(f"{where}: {error}") from None
