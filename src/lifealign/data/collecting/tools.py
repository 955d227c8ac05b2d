"""The table of tools whose records are read: each is recognised by its fields and named in the report. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from lifealign.data.collecting import argilla, langfuse
from lifealign.data.collecting.parts import (
    ANSWERS,
    CUT_OFF,
    EDITED,
    FEEDBACK,
    PROMPTS,
    Given,
    Record,
    answer_of,
    cut_off,
    edit_of,
    first_of,
    mapping_of,
    names_of_model,
    prompt_of,
    votes_of,
)
from lifealign.data.turns import ROLES, UnusableRowError, as_list, decode, is_empty, is_message
from lifealign.data.unread import unsupported

ABOUT = ("id", "model", "point", "time", "timestamp", "created", "created_at", "consent")
SERVED = frozenset({"id", "choice", "model", "point", "answered", "voted"})
"""What `lifealign serve` writes of a vote."""
ANSWERERS = frozenset(name for name, role in ROLES.items() if role == "assistant")
TIMES = ("time", "timestamp", "created_at", "created", "date", "datetime")


@dataclass(frozen=True)
class Tool:
    """One kind of record.

    Attributes:
        title: its name in reports.
        knows: record -> whether it is of this kind.
        read: record, name of the feedback -> the judged answers in it.
    """

    title: str
    knows: Callable[[Record], bool]
    read: Callable[[Record, str | None], Iterator[Given]]


def _read_exchange(record: Record, feedback: str | None) -> Iterator[Given]:
    """A request with its response, in the forms of OpenAI's API."""
    request, response = mapping_of(record["request"]), record["response"]
    if request is None:
        raise UnusableRowError("`request` is not an object")
    request, inner = mapping_of(request.get("body")) or request, mapping_of(response)
    if inner is not None:
        response = mapping_of(inner.get("body")) or inner
    about = _about(record, response, feedback, request, ("request", "response"))
    yield _filled(about, record, request, response)


def _read_chat(record: Record, feedback: str | None) -> Iterator[Given]:
    """A conversation and an answer in one record, such as those that `lifealign serve` writes."""
    names = (first_of(record, PROMPTS), first_of(record, ANSWERS))
    turns = as_list(decode(record[names[0]])) if names[0] is not None else None
    if turns and all(map(is_message, turns)) and names[1] is None:
        yield from _read_turns(record, turns, str(names[0]), feedback)
        return
    answer = record[names[1]] if names[1] is not None else None
    about = _about(record, answer, feedback, record, tuple(name for name in (*names, "system") if name))
    if names[0] is None:
        raise UnusableRowError("prompt is missing")
    if reason := unsupported(record):
        raise UnusableRowError(reason)
    yield _filled(about, record, {"messages": record[names[0]], "system": record.get("system")}, answer)


def _read_turns(record: Record, turns: Sequence[Any], name: str, feedback: str | None) -> Iterator[Given]:
    """A whole conversation, with what people said of its turns, or of the last one in the record itself."""
    about = _about(record, None, feedback, record, (name, "system"))
    judged = False
    for place, turn in enumerate(turns):
        said = turn if _is_answer(turn) else None
        votes, edit = (votes_of(said, None)[0], edit_of(said)[0]) if said is not None else ((), None)
        whole = place == len(turns) - 1 and said is not None and bool(about.votes or edit_of(record)[0] is not None)
        if not (votes or edit is not None or whole):
            continue
        judged = True
        if reason := unsupported(record):
            raise UnusableRowError(reason)
        one = replace(about, votes=votes or about.votes if whole else votes)
        source = said if edit is not None and said is not None else record if whole else {}
        yield _filled(one, source, {"messages": turns[:place], "system": record.get("system")}, [turn])
    if not judged:
        if about.votes or edit_of(record)[0] is not None:
            yield _filled(about, record, {"messages": turns, "system": record.get("system")}, None)
        else:
            yield about


def _is_answer(turn: Any) -> TypeGuard[Record]:
    name = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
    return isinstance(name, str) and name in ANSWERERS


def _about(record: Record, answer: Any, feedback: str | None, request: Record, read: tuple[str, ...]) -> Given:
    """Everything but the texts."""
    response, metadata = mapping_of(answer) or {}, mapping_of(record.get("metadata")) or {}
    votes, voted = votes_of(record, feedback)
    names = (
        record.get("model"),
        response.get("model"),
        request.get("model"),
        record.get("point"),
        metadata.get("model"),
        metadata.get("point"),
    )
    times = (
        *(record.get(name) for name in TIMES),
        response.get("created"),
        response.get("created_at"),
        *(metadata.get(name) for name in ("time", "voted", "answered")),
    )
    ids = (record.get("id"), response.get("id"), record.get("request_id"), metadata.get("id"))
    return Given(
        votes=votes,
        models=names_of_model(*names),
        time=next((time for time in times if time is not None), None),
        id=str(next((one for one in ids if one is not None), "")),
        read=(
            *read,
            *voted,
            *edit_of(record)[1],
            *ABOUT,
            *TIMES,
        ),
        doubt=CUT_OFF if cut_off(response) else None,
    )


def _filled(about: Given, record: Record, request: Any, answer: Any) -> Given:
    """With the texts, where somebody said something of the answer."""
    edit, _ = edit_of(record)
    if not about.votes and edit is None:
        return about
    prompt = prompt_of(request)
    text = "" if is_empty(answer) else answer_of(answer, prompt)
    return replace(about, prompt=prompt, answer=text, better=answer_of(edit, prompt) if edit is not None else "")


def _is_exchange(record: Record) -> bool:
    return "request" in record and "response" in record


def _is_served(record: Record) -> bool:
    """Whether a record is one of the file that `lifealign serve --feedback` writes."""
    about = mapping_of(record.get("metadata")) or record
    return {"prompt", "completion", "label"} <= set(record) and "point" in about


def _is_chat(record: Record) -> bool:
    judged = any(name in record for name in (*ANSWERS, *FEEDBACK, *EDITED))
    turns = next((as_list(record[name]) for name in PROMPTS if name in record), None)
    return any(name in record for name in PROMPTS) and (judged or bool(turns and all(map(is_message, turns))))


TOOLS = (
    Tool("requests and responses (OpenAI)", _is_exchange, _read_exchange),
    Tool("Argilla", argilla.knows, argilla.read),
    Tool("Langfuse", langfuse.knows, langfuse.read),
    Tool("feedback of lifealign serve", _is_served, _read_chat),
    Tool("conversations with an answer", _is_chat, _read_chat),
)
"""In the order in which they are tried."""


def tool_of(record: Record) -> Tool | None:
    """The kind of a record; None if its fields are not known."""
    return next((tool for tool in TOOLS if tool.knows(record)), None)
