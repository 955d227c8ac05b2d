"""What a record of any tool gives for one answer, and the parts that all tools share: prompt, answer, votes, edit. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.core.json_text import parse_json
from lifealign.data.collecting.verdicts import Votes
from lifealign.data.tasks import Message
from lifealign.data.turns import (
    TOOL_CALLS,
    TOOL_FIELDS,
    UnusableRowError,
    as_list,
    decode,
    is_empty,
    is_message,
    is_none_given,
    parse_prompt,
    turns_or_text,
)
from lifealign.data.unread import unsupported

Record = Mapping[str, Any]

FEEDBACK = (
    *("feedback", "user_feedback", "userFeedback", "user-feedback", "thumbs", "thumb", "thumbs_up", "thumbs_down"),
    *("vote", "liked", "disliked", "reaction", "label", "rating", "user_rating", "stars", "score"),
)
"""Names of fields with a verdict, the first one that holds something counts."""
EDITED = (
    *("correction", "corrected", "corrected_output", "corrected_response", "corrected_answer", "corrected_completion"),
    *("edited", "edited_response", "edited_output", "edited_answer", "edit", "edited_text", "revised", "revision"),
    *("rewrite", "rewritten", "expected_output", "expectedOutput", "ideal", "ideal_response", "suggested_response"),
)
"""Names of fields with the answer as a person wants it."""
INSIDE = (
    "value",
    "label",
    "thumb",
    "thumbs",
    "thumbs_up",
    "thumbs_down",
    "rating",
    "score",
    "vote",
    "type",
    "sentiment",
    "reaction",
)
"""Names of the verdict in an object of feedback."""
PROMPTS = ("messages", "prompt", "conversation", "conversations", "input", "query", "question", "instruction")
ANSWERS = ("response", "completion", "answer", "output", "reply", "generation", "text", "content", "result")
CUT_OFF = "the answer was cut off at the longest length"


@dataclass(frozen=True)
class Given:
    """One answer and what a person said of it, as a record holds it.

    Attributes:
        prompt: the conversation before the answer.
        answer: the model's; empty if a person wrote the only answer.
        better: what a person wants in its place, or prefers to it; empty if none.
        votes: the verdicts, as found.
        models: names of the model that answered.
        time: when, as found; None if unknown.
        id: of the answer, so that a later verdict on it replaces an earlier one; empty if unknown.
        read: names of the record's fields that were read.
        unread: what else the record says of the answer.
        doubt: why the answer may teach the wrong thing, although it is kept.
    """

    prompt: tuple[Message, ...] = ()
    answer: str = ""
    better: str = ""
    votes: Votes = ()
    models: tuple[str, ...] = ()
    time: Any = None
    id: str = ""
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    doubt: str | None = None


def mapping_of(value: Any) -> Record | None:
    """An object, also as JSON text; None for any other value."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value)
        except ValueError:
            return None
    return value if isinstance(value, Mapping) else None


def first_of(record: Record, names: Sequence[str]) -> str | None:
    """The first of the names under which a record holds something."""
    return next((name for name in names if not is_empty(record.get(name))), None)


def prompt_of(value: Any, system: Any = None) -> tuple[Message, ...]:
    """The conversation before an answer, from messages, a text, or an object that has one of them.

    Args:
        value: as found; JSON text of messages is read as messages.
        system: text of a system turn that is kept apart, as in `instructions` of OpenAI's Responses API.

    Raises:
        UnusableRowError: it cannot be used; gives the reason.
    """
    inner = mapping_of(value)
    if inner is not None and not is_message(inner):
        if reason := unsupported(inner):
            raise UnusableRowError(reason)
        name = first_of(inner, PROMPTS)
        if name is None:
            raise UnusableRowError("the input has neither messages nor a text that is known as the prompt")
        value, system = inner[name], inner.get("system", inner.get("instructions", system))
    turns, _ = parse_prompt(value)
    if isinstance(system, str) and system.strip() and not any(turn.role == "system" for turn in turns):
        turns = (Message("system", system), *turns)
    return turns


def answer_of(value: Any, prompt: Sequence[Message] = ()) -> str:
    """The text of an answer: a text, a message, OpenAI's choices or output, or an object that has one of them.

    Args:
        value: as found.
        prompt: the conversation before it; a whole conversation that begins with it is read as its last turn.

    Raises:
        UnusableRowError: it is not one answer of text.
    """
    value = decode(value)
    inner = mapping_of(value)
    if inner is not None and not is_message(inner):
        return _of_object(inner, prompt)
    chunks = as_list(value)
    if chunks and all(isinstance(chunk, Mapping) and "choices" in chunk for chunk in chunks):
        return "".join(map(_of_chunk, chunks))
    found = turns_or_text(value)
    if isinstance(found, str):
        return found
    if isinstance(found, tuple) and found and found[-1].role == "assistant":
        before = found[:-1]
        if not before or before == tuple(prompt)[-len(before) :]:
            return str(found[-1].content)
        raise UnusableRowError("the output is a conversation of several turns that does not begin with the input")
    raise UnusableRowError("the answer is not a text or a message of the assistant")


def _of_object(value: Record, prompt: Sequence[Message]) -> str:
    choices = as_list(value.get("choices"))
    if choices is not None:
        if len(choices) != 1:
            raise UnusableRowError(f"{len(choices)} choices, and the feedback names none of them")
        choice = choices[0]
        if not isinstance(choice, Mapping):
            raise UnusableRowError("a choice is not an object")
        message = choice.get("message") or choice.get("text") or ""
        silent = isinstance(message, Mapping) and all(is_empty(message.get(name)) for name in ("content", *TOOL_FIELDS))
        return "" if silent else answer_of(message, prompt)
    items = as_list(value.get("output"))
    if items is not None and all(isinstance(item, Mapping) and "type" in item for item in items):
        return _of_items(items)
    name = first_of(value, ("message", "messages", "output_text", *ANSWERS))
    if name is None:
        raise UnusableRowError("the response holds no answer")
    return answer_of(value[name], prompt)


def _of_chunk(chunk: Record) -> str:
    """The piece of the answer in one event of a stream."""
    choices = as_list(chunk["choices"]) or ()
    pieces = [mapping_of(choice.get("delta")) or {} for choice in choices if isinstance(choice, Mapping)]
    if any(not is_empty(piece.get(name)) for piece in pieces for name in TOOL_FIELDS):
        raise UnusableRowError(TOOL_CALLS)
    if any(isinstance(choice, Mapping) and choice.get("index") for choice in choices):
        raise UnusableRowError("several choices, and the feedback names none of them")
    return "".join(str(piece.get("content") or "") for piece in pieces)


def _of_items(items: Sequence[Record]) -> str:
    """The answer of OpenAI's Responses API, a list of items such as reasoning, calls and messages."""
    others = {str(item["type"]) for item in items} - {"message", "reasoning"}
    if others:
        raise UnusableRowError(f"output of type {', '.join(sorted(others))} is not read: only text is")
    return "".join(answer_of([dict(item, role="assistant")]) for item in items if item["type"] == "message")


def cut_off(response: Any) -> bool:
    """Whether a response of OpenAI's form says that its answer was cut off."""
    value = mapping_of(response) or {}
    choices = as_list(value.get("choices")) or ()
    reasons = [choice.get("finish_reason") for choice in choices if isinstance(choice, Mapping)]
    return "length" in reasons or value.get("status") == "incomplete"


def at(record: Record, path: str) -> Any:
    """What a record holds at a dotted path, also under a name that has the dots itself; None if nothing."""
    if path in record:
        return record[path]
    name, _, rest = path.partition(".")
    inner = mapping_of(record.get(name))
    return at(inner, rest) if rest and inner is not None else None


def votes_of(record: Record, feedback: str | None) -> tuple[Votes, tuple[str, ...]]:
    """The verdicts of a record and the fields that were read.

    Args:
        record: as read.
        feedback: path of the field with the verdict; None: the first of the known names, also below `metadata`.
    """
    if feedback is not None:
        return tuple(_inside(feedback, at(record, feedback))), (feedback.partition(".")[0], feedback)
    if "thumbs_up" in record and "thumbs_down" in record:
        names = ("thumbs_up", "thumbs_down")
        return tuple((name, record[name]) for name in names if not is_empty(record[name])), names
    for prefix, place in _places(record):
        for name in FEEDBACK:
            found = tuple(_inside(name, place.get(name)))
            if found:
                return found, (prefix or name, *((f"{prefix}.{name}",) if prefix else ()))
    return (), ()


def _places(record: Record) -> Iterator[tuple[str, Record]]:
    yield "", record
    for name in ("metadata", "response"):
        inner = mapping_of(record.get(name))
        if inner is not None:
            yield name, inner


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Verdicts of a field, which may be an object of feedback or a list of them."""
    if is_empty(value):
        return
    inner = mapping_of(value)
    items = as_list(value)
    if items is not None:
        for item in items:
            yield from _inside(name, item)
    elif inner is not None:
        key = first_of(inner, INSIDE)
        if key is not None:
            yield f"{name}.{key}", inner[key]
    else:
        yield name, value


def edit_of(record: Record) -> tuple[Any, tuple[str, ...]]:
    """The answer as a person wants it, as found, and the fields that were read; None if there is none."""
    inner = ((name, mapping_of(record.get(name))) for name in ("feedback", "metadata"))
    places = [("", record), *((name, place) for name, place in inner if place is not None)]
    for prefix, place in places:
        for name in EDITED:
            value = place.get(name)
            if not is_none_given(value) and not isinstance(value, bool):
                return value, (prefix or name, *((f"{prefix}.{name}",) if prefix else ()))
    return None, ()


def names_of_model(*values: Any) -> tuple[str, ...]:
    """The different names among some values."""
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))
