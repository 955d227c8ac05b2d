"""Read prompts to answer from a file: one per row, as `prompt` (text or messages) or `messages`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.errors import DataError
from lifealign.core.json_text import NOT_UNICODE, is_unicode
from lifealign.data.sources import Record, read_file
from lifealign.data.tasks import Message
from lifealign.data.turns import UnusableRowError, parse_prompt

COLUMNS = ("prompt", "messages")


class CutAnswer(str):
    """An answer that ended because it was as long as it may be, not because the model ended it."""


class Decoded(str):
    """An answer that a decoder chose.

    Attributes:
        decoding: how it was chosen, as plain values; kept with the answer.
    """

    decoding: Mapping[str, Any]


class CutDecoded(CutAnswer, Decoded):
    """An answer that a decoder chose, and that ended because it was as long as it may be."""


def decoded(answer: str, decoding: Mapping[str, Any]) -> Decoded:
    """The answer with how it was chosen; one that was cut stays cut."""
    found = CutDecoded(answer) if isinstance(answer, CutAnswer) else Decoded(answer)
    found.decoding = decoding
    return found


def decoding_of(answer: str) -> dict[str, Any]:
    """``{"decoding": ...}`` for an answer that a decoder chose; {} for another one."""
    return {"decoding": dict(answer.decoding)} if isinstance(answer, Decoded) else {}


def finish_of(answer: str) -> dict[str, str]:
    """``{"finish": "length"}`` for an answer that was cut; {} for one that ended."""
    return {"finish": "length"} if isinstance(answer, CutAnswer) else {}


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        turns: the conversation; the last turn is the user's.
        given: the column and value it was read from, copied to the output beside the answer.
    """

    turns: tuple[Message, ...]
    given: tuple[str, Any]

    @classmethod
    def of_text(cls, text: str) -> Prompt:
        """One user turn.

        Raises:
            DataError: the text is not valid Unicode; a shell may pass on such bytes.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"prompt {text!r} is not valid Unicode") from None
        return cls((Message("user", text),), ("prompt", text))

    def with_answer(self, answer: str) -> dict[str, Any]:
        """The prompt as given, with its answer, `finish` if that was cut, and `decoding` if a decoder chose it."""
        found = {self.given[0]: self.given[1], "answer": answer, **finish_of(answer), **decoding_of(answer)}
        how = found.get("decoding", {})
        if "responses" in how:  # a row of several scored answers, which `learn` can read
            found |= {name: how.pop(name) for name in ("responses", "scores")}
        return found


def read_prompts(path: str) -> list[Prompt]:
    """Read the prompts of a json, jsonl, parquet or csv file, in order; other columns are ignored.

    Raises:
        DataError: the file has no rows, or a row has no usable prompt; names the file and the row.
    """
    records = read_file(path)
    if not records:
        raise DataError(
            f"{path}: contains no rows; expected one prompt per row, e.g. {{'prompt': 'Where is my parcel?'}}"
        )
    return [_prompt(record, f"{path}: row {number}") for number, record in enumerate(records, 1)]


def _prompt(record: Record, where: str) -> Prompt:
    found = [name for name in COLUMNS if record.get(name) is not None]
    if len(found) != 1:
        raise DataError(f"{where}: expected exactly one of `prompt` and `messages`, got columns {sorted(record)}")
    value = record[found[0]]
    try:
        turns: Sequence[Message] = parse_prompt(value)[0]
    except UnusableRowError as reason:
        raise DataError(f"{where}: {found[0]}: {reason}") from None
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise DataError(f"{where}: {found[0]} must end with a non-empty user turn")
    if not is_unicode([m.content for m in turns]):  # JSON inside of a cell
        raise DataError(f"{where}: {NOT_UNICODE}")
    return Prompt(tuple(turns), (found[0], value))
