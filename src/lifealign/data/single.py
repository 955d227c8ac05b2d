"""Rows with one answer: an answer with a label, and demonstrations; the last turn of a conversation is its answer. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lifealign.data.comparisons import Columns, Record, prompt_of
from lifealign.data.formats import Triple
from lifealign.data.labels import is_bad_word
from lifealign.data.turns import UnusableRowError, decode, is_empty, is_message, parse_dialogue, turns_or_text
from lifealign.data.unread import ANOTHER_ANSWER, is_metadata, meaning_of

ANSWER = "completion|response|answer|output|generation|reply"
"""Columns of one answer."""
ANSWERS = frozenset(ANSWER.split("|"))
BAD_IF_TRUE = ("toxic", "harmful", "unsafe", "flagged", "hallucination", "hallucinated", "offensive", "refusal", "spam")
BAD_IF_FALSE = ("safe", "harmless", "passed", "valid", "approved", "accepted", "correct")
"""Columns of flags, also with "is_": an answer that is marked as bad is no demonstration."""


def explicit(record: Record, columns: Columns) -> Triple:
    """A demonstration whose columns are named for it: the prompt, and the answer.

    Raises:
        UnusableRowError: another column marks the answer as bad.
    """
    return _unless_bad(_answer(record, columns), record)


def _answer(record: Record, columns: Columns) -> Triple:
    (column,), (answer,) = columns[:2]
    prompt, read = prompt_of(record, column)
    return Triple(prompt, record.get(answer), None, read=read, kind="demonstration")


def with_context(record: Record, columns: Columns) -> Triple:
    """Dolly: `context` follows the instruction in a line of its own, as Alpaca's `input` does."""
    (column,), (context,), answer = columns
    found = answered(record, ((column,), answer))
    text = record.get(context)
    prompt = f"{found.prompt}\n{text}" if isinstance(text, str) and not is_empty(text) else found.prompt
    return replace(found, prompt=prompt, read=(*(found.read or ()), context))


def answered(record: Record, columns: Columns) -> Triple:
    """A prompt and the only column that may hold its answer.

    Raises:
        UnusableRowError: another column may be the answer, or a better or a worse one.
    """
    _refuse_other_answers(record, columns[1][0], ANOTHER_ANSWER)
    return explicit(record, columns)


def conversation(record: Record, columns: Columns) -> Triple:
    """A whole conversation: its last turn is the answer, the turns before are the prompt.

    Raises:
        UnusableRowError: the last turn is not the assistant's, is not to be learnt (OpenAI's weight 0), or is marked as bad.
    """
    return _unless_bad(_last_turn(record, columns), record)


def _last_turn(record: Record, columns: Columns) -> Triple:
    (column,) = columns[0]
    found = turns_or_text(record.get(column))
    if isinstance(found, str) and not is_empty(found):
        dialogue = parse_dialogue(found)
        if dialogue is None:
            raise UnusableRowError(f"`{column}` is a text, not a conversation")
        last = dialogue.turns[-1].role
    elif isinstance(found, tuple) and found:
        last = found[-1].role
    else:
        raise UnusableRowError(f"`{column}` is not a conversation")
    if last != "assistant":
        raise UnusableRowError("the conversation does not end with an answer of the assistant")
    if _last_weight(record[column]) == 0:
        raise UnusableRowError("the last turn has weight 0")
    return Triple(None, record[column], None, read=(column,), kind="demonstration")


def labelled(record: Record, columns: Columns) -> Triple:
    """A prompt, an answer and its label; `labels` reads the label."""
    return replace(_answer(record, columns), label=columns[-1])


def labelled_answer(record: Record, columns: Columns) -> Triple:
    """Like `labelled`, with the only column that may hold the answer.

    Raises:
        UnusableRowError: another column may be the answer.
    """
    _refuse_other_answers(record, columns[1][0], None)
    return labelled(record, columns)


def labelled_conversation(record: Record, columns: Columns) -> Triple:
    """A conversation and the label of its last turn.

    Raises:
        UnusableRowError: the last turn is not the assistant's.
    """
    return replace(_last_turn(record, columns), label=columns[-1])


def _unless_bad(triple: Triple, record: Record) -> Triple:
    """A demonstration with its columns of flags, none of which marks the answer as bad.

    Raises:
        UnusableRowError: one does, or another column holds a word such as "bad".
    """
    flags = []
    for name, value in record.items():
        plain = str(name).casefold().removeprefix("is_")
        text = str(value).strip().casefold()
        flag = {"true": True, "1": True, "false": False, "0": False}.get(text) if not is_empty(value) else None
        against = plain in BAD_IF_TRUE
        if flag is not None and (against or plain in BAD_IF_FALSE):
            flags.append(str(name))
            if flag == against:
                raise UnusableRowError(f"`{name}` marks the answer as bad; it is no demonstration")
        elif is_bad_word(value) and name not in ANSWERS and not is_metadata(str(name)):
            raise UnusableRowError(
                f"`{name}` may mark the answer as bad; if it is a label, --map label={name}, else --map unused={name}"
            )
    return replace(triple, read=(*(triple.read or ()), *flags))


def _refuse_other_answers(record: Record, column: str, meaning: str | None) -> None:
    for name, value in record.items() if column != "completion" else ():
        other = name in ANSWERS or (meaning is not None and meaning_of(str(name)) == meaning)
        if name != column and other and isinstance(value, str | list) and not is_empty(value):
            raise UnusableRowError(
                f"`{column}` or `{name}` may be the answer; name the right one: --map completion={column}, or, if one is "
                f"better than the other, --map chosen={name} --map rejected={column}"
            )


def _last_weight(value: Any) -> Any:
    turns = decode(value)
    if isinstance(turns, Mapping) and not is_message(turns):
        turns = next((items for items in turns.values() if isinstance(items, list) and items), ())
    last = turns[-1] if isinstance(turns, list | tuple) and turns else turns
    return last.get("weight") if isinstance(last, Mapping) else None
