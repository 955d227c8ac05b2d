"""Exports of annotation tools, Argilla and Label Studio: of two answers the one with the most votes, of one its label.

Imports no torch.

Argilla's records come with `fields` and `responses` (both versions), or flat with columns such as "preference.responses";
Label Studio's tasks with `data` and `annotations`. Of two answers a question counts whose values name them; of one
answer, a question whose values are labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifealign.data.comparisons import PROMPT, Columns, Record, first_is_better, prompt_of
from lifealign.data.formats import Triple
from lifealign.data.labels import is_label
from lifealign.data.single import ANSWERS
from lifealign.data.turns import UnusableRowError, is_empty, number_of

ANSWER = re.compile(r"(response|answer|completion|output|generation|reply|text)[ _-]?([a-z]|\d+)", re.IGNORECASE)
PROMPTS = tuple(PROMPT.split("|"))
Vote = tuple[str, str]
"""A question and the name of the answer that one annotator prefers."""


@dataclass(frozen=True)
class Given:
    """What one annotator gave: the question, the value, and the two answers as they were shown, if that is known."""

    question: str
    value: Any
    sides: tuple[str, str] | None = None


def argilla(record: Record, columns: Columns) -> Triple:
    """A record of Argilla with `fields` and `responses`.

    Raises:
        UnusableRowError: it has neither two answers nor one, no vote, or as many votes one way as the other.
    """
    fields, responses = record.get("fields"), record.get("responses")
    if not isinstance(fields, Mapping):
        raise UnusableRowError("`fields` is not an object")
    return _decided(fields, list(_argilla_given(responses)), "fields")


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
    triple = _decided(fields, list(_argilla_given(held)))
    votes_of = (name for name in record if name.startswith(tuple(asked.values())))
    return replace(triple, read=(*(triple.read or ()), *votes_of))


def label_studio(record: Record, columns: Columns) -> Triple:
    """A task of Label Studio with `data` and `annotations`: compared side by side or with choices, or one answer with a label."""
    fields, annotations = record.get("data"), record.get("annotations")
    if not isinstance(fields, Mapping) or not isinstance(annotations, Sequence):
        raise UnusableRowError("`data` is not an object, or `annotations` is not a list")
    given: list[Given] = []
    for annotation in annotations:
        if isinstance(annotation, Mapping) and not annotation.get("was_cancelled"):
            given += _label_studio_given(annotation.get("result"))
    return _decided(fields, given, "data")


def _label_studio_given(results: Any) -> Iterator[Given]:
    for result in results if isinstance(results, Sequence) else ():
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        shown = str(result.get("to_name", "")).split(",")
        sides = (shown[0], shown[1]) if len(shown) == 2 else None
        for name in ("selected", "choices", "rating"):
            if not is_empty(value.get(name)):
                yield Given(str(result.get("from_name", "")), value[name], sides)


def _argilla_given(responses: Any) -> Iterator[Given]:
    """Of both forms: question -> [{value}], and [{status, values: {question: {value}}}]."""
    if isinstance(responses, Mapping):
        for question, given in responses.items():
            for one in given if isinstance(given, Sequence) else ():
                if isinstance(one, Mapping) and one.get("status") in (None, "submitted"):
                    yield Given(question, one.get("value"))
    for one in responses if isinstance(responses, list) else ():
        if isinstance(one, Mapping) and one.get("status") in (None, "submitted"):
            for question, value in (one.get("values") or {}).items():
                yield Given(question, value.get("value") if isinstance(value, Mapping) else value)


def _decided(fields: Record, given: Sequence[Given], inside: str | None = None) -> Triple:
    """The pair or the labelled answer that annotators decided on; `inside`: the column that the fields are in."""
    filled = [name for name, value in fields.items() if not is_empty(value)]
    names = sorted(name for name in filled if ANSWER.fullmatch(name))
    alone = [name for name in filled if name in ANSWERS]
    used: tuple[str, ...]
    if len(names) == 2:
        one, other = names
        votes = [vote for g in given for vote in _votes(g.question, g.value, _shown(g, one, other))]
        triple, used = _elected(fields, votes, (one, other)), (one, other)
    elif not names and len(alone) == 1:
        triple, used = _labelled(fields, given, alone[0]), (alone[0],)
    else:
        raise UnusableRowError(
            "neither exactly two answers, named such as response1 and response2, nor one, named such as response"
        )
    column = next((name for name in PROMPTS if not is_empty(fields.get(name))), None)
    if column is None:
        raise UnusableRowError("prompt is missing")
    prompt, read = prompt_of(fields, column)
    read = (*read, *used)
    left = tuple(f"{inside}.{name}" for name in filled if name not in read)
    return replace(triple, prompt=prompt, read=read, unread=left if inside else ())


def _shown(given: Given, one: str, other: str) -> tuple[str, str]:
    return given.sides if given.sides is not None and set(given.sides) == {one, other} else (one, other)


def _labelled(fields: Record, given: Sequence[Given], answer: str) -> Triple:
    """The only answer, with the values of the one question that labels it."""
    votes: dict[str, list[Any]] = {}
    for one in given:
        value = one.value[0] if isinstance(one.value, list) and len(one.value) == 1 else one.value
        if is_label(value):
            votes.setdefault(one.question, []).append(value)
    if len(votes) > 1:
        raise UnusableRowError(f"several questions label the answer: {', '.join(sorted(votes))}")
    if not votes:
        raise UnusableRowError("nobody labelled the answer")
    ((question, values),) = votes.items()
    return Triple(None, fields[answer], None, kind="demonstration", label=(question,), votes=tuple(values))


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


def _elected(fields: Record, votes: Sequence[Vote], names: tuple[str, str]) -> Triple:
    """The answer with more votes against the other."""
    questions = {question for question, _ in votes}
    if len(questions) > 1:
        raise UnusableRowError(f"several questions compare the answers: {', '.join(sorted(questions))}")
    counts = Counter(name for _, name in votes).most_common()
    if not counts:
        raise UnusableRowError("nobody preferred one of the answers")
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        raise UnusableRowError("as many votes for one answer as for the other")
    chosen = counts[0][0]
    rejected = names[1] if chosen == names[0] else names[0]
    return Triple(None, fields[chosen], fields[rejected])
