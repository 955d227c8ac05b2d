"""Langfuse's exports: traces and observations with `input`, `output` and scores, from its API or its pages. Imports no torch.

Three forms: a trace of the API or of "Download JSON", with `observations` and `scores` as objects; an observation or trace with its
own `scores`; a row of a table's export, in which every score is a column of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifealign.data.collecting.parts import (
    Given,
    Record,
    answer_of,
    edit_of,
    mapping_of,
    names_of_model,
    prompt_of,
)
from lifealign.data.collecting.verdicts import Votes, field_of
from lifealign.data.turns import UnusableRowError, as_list, is_empty
from lifealign.data.vote_words import words

MARKS = words(
    "traceId trace_id observations scores sessionId session_id userId user_id htmlPath projectId bookmarked "
    "observationCount parentObservationId parent_observation_id startTime start_time"
)
"""Fields of which an export has at least one beside `input` and `output`."""
STATE = words(
    "id name timestamp createdAt updatedAt endTime end_time release version environment public latency usage "
    "inputCost outputCost totalCost level errorCount warningCount defaultCount debugCount inputTokens outputTokens "
    "totalTokens type model modelParameters promptName promptVersion usageDetails costDetails statusMessage "
    "completionStartTime timeToFirstToken tokensPerSecond input output"
)
WORDS = ("feedback", "thumb", "rating", "vote", "liked", "stars", "helpful", "satisfaction", "reaction")
"""What the name of a score holds that is a person's verdict."""
TIMES = ("timestamp", "startTime", "start_time", "createdAt")
CORRECTION = "CORRECTION"
EVALUATOR = "EVAL"
"""Source of a score that a model or a program gave."""


def knows(record: Record) -> bool:
    """Whether a record is of an export of Langfuse."""
    names = set(record)
    return ({"input", "output"} <= names and bool(MARKS & names)) or {"trace", "observations"} <= names


def read(record: Record, feedback: str | None) -> Iterator[Given]:
    """The judged answers of a trace, or of an observation.

    Args:
        record: as read.
        feedback: name of the score that is the verdict; None: by its name, see `WORDS`.

    Raises:
        UnusableRowError: the record cannot be used; gives the reason.
    """
    trace = mapping_of(record.get("trace")) or record
    observations = [one for one in as_list(record.get("observations")) or () if isinstance(one, Mapping)]
    scores = _scores(record) if trace is record else _scores(trace, record)
    by_id: dict[str | None, list[Record]] = {}
    for score in scores:
        by_id.setdefault(_owner(score), []).append(score)
    own = by_id.pop(None, []) + by_id.pop(str(trace.get("id")), [])
    used = ("trace", "observations", "scores")
    if not is_empty(trace.get("input")) or not is_empty(trace.get("output")) or not observations:
        if not (observations and not own):
            yield _given(trace, own, feedback, trace, used)
    elif own:
        yield _given(_only_generation(observations), own, feedback, trace, used)
    for one in observations:
        found = [*by_id.pop(str(one.get("id")), []), *_scores(one)]
        if found:
            yield _given(one, found, feedback, trace, used)
    if by_id:
        raise UnusableRowError("a score belongs to an observation that is not in the trace")


def _owner(score: Record) -> str | None:
    """The observation that a score is of; None: the trace."""
    owner = score.get("observationId", score.get("observation_id"))
    return None if is_empty(owner) else str(owner)


def _scores(*places: Record) -> list[Record]:
    found: dict[int, Record] = {}
    for place in places:
        for score in as_list(place.get("scores")) or ():
            if not isinstance(score, Mapping):
                raise UnusableRowError("`scores` holds ids alone; export the traces with their scores, one by one")
            found[id(score)] = score
    return list(found.values())


def _only_generation(observations: Sequence[Record]) -> Record:
    kinds = [one for one in observations if one.get("type") == "GENERATION" and not is_empty(one.get("output"))]
    if len(kinds) != 1:
        raise UnusableRowError(f"the trace has no output of its own, and {len(kinds)} generations")
    return kinds[0]


def _given(one: Record, scores: Sequence[Record], feedback: str | None, trace: Record, used: Sequence[str]) -> Given:
    columns = list(_columns(one)) if one is trace else []
    votes, others = _votes([*scores, *columns], feedback)
    better, edited = edit_of(one)
    for score in scores:
        if _kind(score) == CORRECTION:
            better = score.get("stringValue", score.get("string_value", score.get("value")))
    metadata = mapping_of(one.get("metadata")) or {}
    about = Given(
        votes=votes,
        models=names_of_model(
            one.get("model"), one.get("providedModelName"), metadata.get("model"), trace.get("model")
        ),
        time=next((one[name] for name in TIMES if one.get(name) is not None), trace.get("timestamp")),
        id=str(one.get("id") or ""),
        read=(*used, *STATE, *MARKS, *edited, *(name for name, _ in votes)),
        unread=tuple(f"scores.{name}" for name in others if name not in one),
    )
    if not votes and better is None:
        return about
    prompt, output = prompt_of(one.get("input")), one.get("output")
    answer = "" if is_empty(output) else answer_of(output, prompt)
    return replace(about, prompt=prompt, answer=answer, better=answer_of(better, prompt) if better is not None else "")


def _columns(row: Record) -> Iterator[Record]:
    """Scores of a table's export: columns that are not of the trace itself and hold lists of values."""
    for name, value in row.items():
        values = as_list(value)
        if (
            values
            and name not in STATE
            and name not in MARKS
            and not any(isinstance(v, Mapping | list) for v in values)
        ):
            yield from ({"name": name, "value": one} for one in values)


def _votes(scores: Sequence[Record], feedback: str | None) -> tuple[Votes, tuple[str, ...]]:
    """The verdict by people among scores, and the names of the other scores.

    Raises:
        UnusableRowError: several scores may be it.
    """
    found: dict[str, list[Any]] = {}
    others: list[str] = []
    for score in scores:
        name = str(score.get("name", ""))
        known = any(word in field_of(name) for word in WORDS) and score.get("source") != EVALUATOR
        if _kind(score) == CORRECTION:
            continue
        if name == feedback if feedback is not None else known:
            found.setdefault(name, []).append(_value(score))
        else:
            others.append(name)
    if len(found) > 1:
        raise UnusableRowError(f"several scores may be the verdict: {', '.join(sorted(found))}; choose with --feedback")
    votes = tuple((name, value) for name, values in found.items() for value in values if not is_empty(value))
    return votes, tuple(dict.fromkeys(others))


def _kind(score: Record) -> Any:
    return score.get("dataType", score.get("data_type"))


def _value(score: Record) -> Any:
    text = score.get("stringValue", score.get("string_value"))
    return (
        text if _kind(score) in ("CATEGORICAL", "BOOLEAN", "TEXT") and not is_empty(text) else score.get("value", text)
    )
