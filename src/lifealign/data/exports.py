"""Exports of annotation tools, Argilla and Label Studio, as pairs: the answer with the most votes. Imports no torch.

Argilla's records come with `fields` and `responses` (both versions), or flat with columns such as "preference.responses";
Label Studio's tasks with `data` and `annotations`. A question counts whose values name two answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifealign.data.comparisons import PROMPT, Columns, Record, first_is_better, prompt_of
from lifealign.data.formats import Triple
from lifealign.data.turns import UnusableRowError, is_empty, number_of

ANSWER = re.compile(r"(response|answer|completion|output|generation|reply|text)[ _-]?([a-z]|\d+)", re.IGNORECASE)
PROMPTS = tuple(PROMPT.split("|"))
Vote = tuple[str, str]
"""A question and the name of the answer that one annotator prefers."""


def argilla(record: Record, columns: Columns) -> Triple:
    """A record of Argilla with `fields` and `responses`.

    Raises:
        UnusableRowError: it has no two answers, no vote, or as many votes for one answer as for the other.
    """
    fields, responses = record.get("fields"), record.get("responses")
    if not isinstance(fields, Mapping):
        raise UnusableRowError("`fields` is not an object")
    return _elected(fields, list(_argilla_votes(responses, _answers(fields))), "fields")


def argilla_flat(record: Record, columns: Columns) -> Triple:
    """A record of Argilla as a row of a data set: a column for each field, and one such as "better.responses" for each question."""
    fields = {name: value for name, value in record.items() if "." not in name}
    asked = {name.removesuffix(".responses"): name for name in record if name.endswith(".responses")}
    held: dict[str, Any] = {}
    for question, name in asked.items():
        states = record.get(f"{question}.responses.status") or []
        values = [{"value": value} for value in record.get(name) or ()]
        for value, state in zip(values, states, strict=False):
            value["status"] = state
        held[question] = values
    triple = _elected(fields, list(_argilla_votes(held, _answers(fields))))
    votes_of = (name for name in record if name.startswith(tuple(asked.values())))
    return replace(triple, read=(*(triple.read or ()), *votes_of))


def label_studio(record: Record, columns: Columns) -> Triple:
    """A task of Label Studio with `data` and `annotations`, compared side by side or with choices."""
    fields, annotations = record.get("data"), record.get("annotations")
    if not isinstance(fields, Mapping) or not isinstance(annotations, Sequence):
        raise UnusableRowError("`data` is not an object, or `annotations` is not a list")
    votes: list[Vote] = []
    names = _answers(fields)
    for annotation in annotations:
        if isinstance(annotation, Mapping) and not annotation.get("was_cancelled"):
            votes += _label_studio_votes(annotation.get("result"), names)
    return _elected(fields, votes, "data")


def _label_studio_votes(results: Any, names: tuple[str, str]) -> Iterator[Vote]:
    for result in results if isinstance(results, Sequence) else ():
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        shown = str(result.get("to_name", "")).split(",")
        sides = (shown[0], shown[1]) if set(shown) == set(names) and len(shown) == 2 else names
        for found in (value.get("selected"), value.get("choices")):
            yield from _votes(str(result.get("from_name", "")), found, sides)


def _answers(fields: Record) -> tuple[str, str]:
    names = sorted(name for name, value in fields.items() if ANSWER.fullmatch(name) and not is_empty(value))
    if len(names) != 2:
        raise UnusableRowError("not exactly two answers, named such as response1 and response2")
    return names[0], names[1]


def _argilla_votes(responses: Any, names: tuple[str, str]) -> Iterator[Vote]:
    """Votes of both forms: question -> [{value}], and [{status, values: {question: {value}}}]."""
    if isinstance(responses, Mapping):
        for question, given in responses.items():
            for one in given if isinstance(given, Sequence) else ():
                if isinstance(one, Mapping) and one.get("status") in (None, "submitted"):
                    yield from _votes(question, one.get("value"), names)
    for one in responses if isinstance(responses, list) else ():
        if isinstance(one, Mapping) and one.get("status") in (None, "submitted"):
            for question, value in (one.get("values") or {}).items():
                yield from _votes(question, value.get("value") if isinstance(value, Mapping) else value, names)


def _votes(question: str, value: Any, names: tuple[str, str]) -> Iterator[Vote]:
    """The vote of one value: a name, or a ranking (names in order, or {value, rank}); none if it names no answer."""
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        places = {str(entry.get("value")): entry.get("rank") for entry in value}
        ranks = [places.get(name) for name in names]
        if all(isinstance(rank, int) for rank in ranks) and ranks[0] != ranks[1]:
            yield question, names[0] if ranks[0] < ranks[1] else names[1]  # type: ignore[operator]
        return
    if isinstance(value, list) and set(names) <= {str(entry) for entry in value}:
        value = next(entry for entry in value if entry in names)
    if number_of(value) is not None:
        return  # a rating
    try:
        first = first_is_better(value, question, names)
    except UnusableRowError:
        return
    if first is not None:
        yield question, names[0] if first else names[1]


def _elected(fields: Record, votes: Sequence[Vote], inside: str | None = None) -> Triple:
    """The answer with more votes against the other; `inside`: the column that the fields are in."""
    questions = {question for question, _ in votes}
    if len(questions) > 1:
        raise UnusableRowError(f"several questions compare the answers: {', '.join(sorted(questions))}")
    counts = Counter(name for _, name in votes).most_common()
    if not counts:
        raise UnusableRowError("nobody preferred one of the answers")
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        raise UnusableRowError("as many votes for one answer as for the other")
    one, other = _answers(fields)
    chosen = counts[0][0]
    rejected = other if chosen == one else one
    column = next((name for name in PROMPTS if not is_empty(fields.get(name))), None)
    if column is None:
        raise UnusableRowError("prompt is missing")
    prompt, read = prompt_of(fields, column)
    used = (*read, one, other)
    left = tuple(f"{inside}.{name}" for name in fields if name not in used and not is_empty(fields[name]))
    return Triple(prompt, fields[chosen], fields[rejected], read=used, unread=left if inside else ())
