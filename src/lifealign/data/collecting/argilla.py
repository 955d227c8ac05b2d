"""Argilla's exports: records with `fields` and `responses`, or flat with a column for each question. Imports no torch.

A record with two answers and a preference is read as `data/exports.py` reads it; one with a single answer by the verdicts and texts
that people gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lifealign.data import exports
from lifealign.data.collecting.parts import (
    EDITED,
    FEEDBACK,
    PROMPTS,
    Given,
    Record,
    answer_of,
    first_of,
    mapping_of,
    names_of_model,
    prompt_of,
)
from lifealign.data.collecting.verdicts import field_of
from lifealign.data.formats import parse
from lifealign.data.turns import UnusableRowError, as_list, is_empty, turns_or_text

ANSWERS = ("response", "answer", "completion", "output", "generation", "reply", "response1", "model_response")
CHATS = ("chat", "messages", "conversation", "conversations")
SUFFIX = ".responses"


def knows(record: Record) -> bool:
    """Whether a record is of an export of Argilla."""
    return {"fields", "responses"} <= set(record) or any(str(name).endswith(SUFFIX) for name in record)


def read(record: Record, feedback: str | None) -> Iterator[Given]:
    """The judged answer of a record.

    Args:
        record: as read.
        feedback: name of the question that is the verdict; None: by its name.

    Raises:
        UnusableRowError: the record cannot be used; gives the reason.
    """
    nested = record if "fields" in record else _nested(record)
    fields, responses = nested.get("fields"), nested.get("responses")
    if not isinstance(fields, Mapping):
        raise UnusableRowError("`fields` is not an object")
    metadata = nested.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    about = Given(
        models=names_of_model(metadata.get("model"), record.get("model")),
        time=next((one for one in (record.get("inserted_at"), metadata.get("time")) if one is not None), None),
        id=str(record.get("id") or ""),
        read=("fields", "responses", "id", "status", "_server_id", "model", *(n for n in record if SUFFIX in n)),
    )
    if sum(exports.ANSWER.fullmatch(name) is not None for name in fields) > 1:
        parsed = parse(exports.argilla({**nested, "responses": _whole(responses)}, ()))
        read = (*about.read, *(name for name in fields if name in PROMPTS or exports.ANSWER.fullmatch(name)))
        yield replace(about, prompt=parsed.prompt, answer=parsed.rejected, better=parsed.chosen, read=read)
        return
    votes, edits = _said(responses, feedback, first_of(fields, ANSWERS) is None)
    about = replace(about, votes=tuple(votes), read=(*about.read, *PROMPTS, *CHATS, *ANSWERS))
    if not votes and not edits:
        yield about
        return
    prompt, answer = _conversation(fields)
    wanted = {answer_of(edit, prompt) for edit in edits}
    if len(wanted) > 1:
        raise UnusableRowError(f"{len(wanted)} people wrote different answers")
    yield replace(about, prompt=prompt, answer=answer, better=next(iter(wanted), ""))


def _said(responses: Any, feedback: str | None, alone: bool) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Verdicts and texts in the responses; `alone`: the fields hold no answer, so that one may be among the responses."""
    votes, edits = [], []
    known = {field_of(name) for name in FEEDBACK}
    for question, value in _values(responses):
        name = field_of(question)
        if question == feedback or (feedback is None and name in known):
            votes.append((question, value))
        elif name in EDITED or (alone and name in ANSWERS):
            edits.append(value)
    return votes, edits


def _conversation(fields: Record) -> tuple[Any, str]:
    chat = first_of(fields, CHATS)
    name = first_of(fields, ANSWERS)
    if chat is not None and name is None:
        turns = turns_or_text(fields[chat])
        if isinstance(turns, tuple) and turns and turns[-1].role == "assistant":
            return turns[:-1], turns[-1].content
        return prompt_of(fields[chat]), ""
    prompt = chat or first_of(fields, PROMPTS)
    if prompt is None:
        raise UnusableRowError("prompt is missing")
    turns = prompt_of(fields[prompt])
    return turns, answer_of(fields[name], turns) if name is not None else ""


def _whole(responses: Any) -> Any:
    """Responses without those of version 1 that hold no values."""
    if not isinstance(responses, list):
        return responses
    return [one for one in responses if isinstance(one, Mapping) and isinstance(one.get("values"), Mapping)]


def _values(responses: Any) -> Iterator[tuple[str, Any]]:
    """Question and value of every response, of both forms: question -> [{value}], and [{status, values}]."""
    if isinstance(responses, Mapping):
        for question, given in responses.items():
            for one in given if isinstance(given, list) else ():
                if (
                    isinstance(one, Mapping)
                    and one.get("status") in (None, "submitted")
                    and not is_empty(one.get("value"))
                ):
                    yield str(question), one["value"]
    for one in responses if isinstance(responses, list) else ():
        if isinstance(one, Mapping) and one.get("status") in (None, "submitted"):
            for question, value in (mapping_of(one.get("values")) or {}).items():
                found = value.get("value") if isinstance(value, Mapping) else value
                if not is_empty(found):
                    yield str(question), found


def _nested(record: Record) -> Record:
    """A flat record with its columns under `fields` and `responses`."""
    responses: dict[str, list[dict[str, Any]]] = {}
    for name, values in record.items():
        if name.endswith(SUFFIX) and isinstance(values, list):
            states = as_list(record.get(f"{name}.status")) or [None] * len(values)
            responses[name.removesuffix(SUFFIX)] = [
                {"value": value, "status": state} for value, state in zip(values, states, strict=False)
            ]
    fields = {name: value for name, value in record.items() if "." not in name}
    return {"fields": fields, "responses": responses, "metadata": fields}
