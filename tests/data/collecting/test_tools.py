"""Each tool's records, in the forms that it writes, and the rows that come of them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import UserError
from lifealign.data.collecting.tools import tool_of
from support.logs import assistant, collected, exchange, served, user

UP = {"prompt": [user("q")], "completion": [assistant("a")], "label": True}
DOWN = {**UP, "label": False}
PAIR = {"prompt": [user("q")], "chosen": [assistant("better")], "rejected": [assistant("a")]}
SHOWN = {"prompt": [user("q")], "completion": [assistant("better")]}


def responses_api(**more: Any) -> dict[str, Any]:
    text = {"type": "output_text", "text": "a", "annotations": []}
    items = [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": [text]}]
    return {"request": {"input": "q"}, "response": {"object": "response", "output": items}, **more}


def trace(scores: list[Any], **more: Any) -> dict[str, Any]:
    """A trace of Langfuse's API, with its details."""
    return {
        "id": "t1",
        "timestamp": "2026-03-01T10:00:00Z",
        "name": "chat",
        "userId": None,
        "sessionId": "s",
        "input": [user("q")],
        "output": assistant("a"),
        "observations": [],
        "scores": scores,
        **more,
    }


def score(value: Any, name: str = "user-feedback", kind: str = "NUMERIC", **more: Any) -> dict[str, Any]:
    return {"id": "s1", "name": name, "value": value, "dataType": kind, "source": "API", "observationId": None, **more}


def generation(**more: Any) -> dict[str, Any]:
    return {"id": "o1", "type": "GENERATION", "input": {"messages": [user("q")]}, "output": "a", "model": "m", **more}


def record(responses: Any, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """A record as `Record.to_dict` of Argilla 2.8 gives it."""
    return {
        "id": "r1",
        "fields": fields or {"prompt": "q", "response": "a"},
        "metadata": {"model": "m"},
        "suggestions": {"thumb": {"value": "up", "score": None, "agent": None}},
        "responses": responses,
        "vectors": {},
        "status": "pending",
        "_server_id": None,
    }


def said(value: Any) -> list[dict[str, Any]]:
    return [{"value": value, "user_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}]


CORRECTED = score(0, "output", "CORRECTION", stringValue="better")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat completion, up": (exchange("q", "a", feedback="up"), UP),
    "chat completion, down": (exchange("q", "a", thumbs="down"), DOWN),
    "chat completion, edit": (exchange("q", "a", label=False, correction="better"), PAIR),
    "an edit alone": (exchange("q", "a", edited="better"), PAIR),
    "an edit of nothing": (exchange("q", None, correction="better"), SHOWN),
    "feedback as an object": (exchange("q", "a", feedback={"thumb": "down", "correction": "better"}), PAIR),
    "feedback below metadata": (exchange("q", "a", metadata={"user_feedback": -1}), DOWN),
    "typed parts": (
        {
            "request": {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]},
            "response": "a",
            "vote": 1,
        },
        UP,
    ),
    "both as JSON text": (
        {"request": '{"messages": [{"role": "user", "content": "q"}]}', "response": '{"content": "a"}', "score": 0},
        DOWN,
    ),
    "legacy completion": ({"request": {"prompt": "q"}, "response": {"choices": [{"text": "a"}]}, "liked": True}, UP),
    "responses API": (responses_api(feedback="👍🏽"), UP),
    "batch, below body": (
        {
            "request": {"body": {"messages": [user("q")]}},
            "response": {"body": {"choices": [{"message": assistant("a")}]}},
            "label": 1,
        },
        UP,
    ),
    "serve, up": (served("q", "a", True), UP),
    "serve, down": (served("q", "a", False), DOWN),
    "serve, edit": (served("q", "a", False, correction="better"), PAIR),
    "plain conversation": ({"messages": [user("q")], "response": "a", "thumbs_up": False, "thumbs_down": True}, DOWN),
    "stream of events": (
        {
            "request": {"messages": [user("q")]},
            "response": [
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "a"}}]},
                {"choices": [], "usage": {"total_tokens": 3}},
            ],
            "vote": 1,
        },
        UP,
    ),
    "whole conversation": ({"messages": [user("q"), assistant("a")], "feedback": "up"}, UP),
    "whole conversation, edit": ({"messages": [user("q"), assistant("a")], "corrected": "better"}, PAIR),
    "conversation without its answer": ({"messages": [user("q")], "corrected": "better"}, SHOWN),
    "thumb on a turn": (
        {"messages": [user("q"), {**assistant("a"), "feedback": {"rating": "bad"}}, user("more"), assistant("b")]},
        DOWN,
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "liked": True},
        UP,
    ),
    "trace, number": (trace([score(1)]), UP),
    "trace, boolean": (trace([score(0, kind="BOOLEAN", stringValue="False")]), DOWN),
    "trace, category": (trace([score(0, "thumbs", "CATEGORICAL", stringValue="thumbs-down")]), DOWN),
    "trace, correction": (trace([score(0), CORRECTED]), PAIR),
    "trace, evaluators do not count": (trace([score(0), score(1, "helpfulness", source="EVAL")]), DOWN),
    "trace, downloaded": ({"trace": trace([]), "observations": [], "scores": [score(1)]}, UP),
    "trace, whole conversation out": (trace([score(1)], output={"messages": [user("q"), assistant("a")]}), UP),
    "trace, its only generation": (trace([score(1)], input=None, output=None, observations=[generation()]), UP),
    "generation in a trace": (trace([score(0, observationId="o1")], observations=[generation()]), DOWN),
    "observation": (generation(traceId="t1", scores=[score(1, observationId="o1")]), UP),
    "row of the table of traces": (
        trace([], bookmarked=False, **{"user-feedback": [1], "toxicity": [0.1]}),
        UP,
    ),
    "Argilla, thumb": (record({"thumb": said("down")}), DOWN),
    "Argilla, stars": (record({"rating": said(5)}), UP),
    "Argilla, edit": (record({"thumb": said("down"), "correction": said("better")}), PAIR),
    "Argilla, chat": (record({"label": said("good")}, {"chat": [user("q"), assistant("a")]}), UP),
    "Argilla, two answers": (
        record({"preference": said("response2")}, {"prompt": "q", "response1": "a", "response2": "better"}),
        PAIR,
    ),
    "Argilla, written by a person": (record({"response": said("better")}, {"prompt": "q"}), SHOWN),
    "Argilla, flat": (
        {
            "id": "r1",
            "prompt": "q",
            "response": "a",
            "thumb.responses": ["up", "down", "up"],
            "thumb.responses.status": ["submitted", "discarded", "submitted"],
        },
        UP,
    ),
    "Argilla 1": (record([{"status": "submitted", "values": {"thumb": {"value": "up"}}}]), UP),
}


@pytest.mark.parametrize("name", CASES)
def test_record_gives_its_row(name: str, tmp_path: Path) -> None:
    given, row = CASES[name]
    rows, report = collected(tmp_path, [given])
    assert rows == [row]
    assert not report.left_out


def test_each_tool_is_named(tmp_path: Path) -> None:
    records = [exchange("q1", "a", vote=1), served("q2", "a", True), trace([score(1)]), record({"thumb": said("up")})]
    _, report = collected(tmp_path, [*records, {"messages": [user("q")], "response": "a", "vote": 1}])
    assert report.tools == {
        "requests and responses (OpenAI)": 1,
        "feedback of lifealign serve": 1,
        "Langfuse": 1,
        "Argilla": 1,
        "conversations with an answer": 1,
    }
    assert "records of Langfuse: 1" in report.lines()
    assert tool_of({"question": "q", "mark": 1}) is None


REFUSED = {
    "tools": (
        {**exchange("q", "a", vote=1), "request": {"messages": [user("q")], "tools": [{"type": "function"}]}},
        "`tools` is not read: tool calls are not supported",
    ),
    "tool calls": (
        {"request": {"messages": [user("q")]}, "response": {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}}]}, "vote": 1},
        "tool calls are not supported",
    ),
    "two choices": (
        {"request": {"messages": [user("q")]}, "response": {"choices": [{"text": "a"}, {"text": "b"}]}, "vote": 1},
        "2 choices, and the feedback names none of them",
    ),
    "an image": (
        {"request": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "response": "a", "vote": 1},
        "content parts of type image_url are not supported: only text is",
    ),
    "no prompt": ({"request": {"model": "m"}, "response": "a", "vote": 1}, "the input has neither messages nor a text that is known as the prompt"),
    "answer in the prompt": (
        {"request": {"messages": [user("q"), assistant("a")]}, "response": "b", "vote": 1},
        "prompt does not end with a user turn",
    ),
    "no answer": (exchange("q", "", vote=1), "a verdict without an answer"),
    "edit without a change": (exchange("q", "a", edited=" a "), "the edit is the answer itself, without a verdict"),
    "words": (exchange("q", "a", feedback="Ann found it rude"), "`feedback` holds a text that is no verdict"),
    "ids of scores": (trace(["abc"]), "`scores` holds ids alone; export the traces with their scores, one by one"),
    "two scores": (
        trace([score(1), score(1, "rating")]),
        "several scores may be the verdict: rating, user-feedback; choose with --feedback",
    ),
    "function's input": (trace([score(1)], input={"args": [1], "kwargs": {}}), "the input has neither messages nor a text that is known as the prompt"),
    "foreign observation": (trace([score(1, observationId="x")], input=None), "a score belongs to an observation that is not in the trace"),
    "people disagree": (record({"thumb": [*said("up"), *said("down")]}), "as many verdicts up as down"),
    "people write differently": (record({"correction": [*said("b"), *said("c")]}), "2 people wrote different answers"),
    "unknown fields": ({"question": "q", "mark": 1}, "its fields are those of no known tool"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_judged_record_that_cannot_be_used_is_left_out_by_number(name: str, tmp_path: Path) -> None:
    given, reason = REFUSED[name]
    rows, report = collected(tmp_path, [served("q", "a", True), given])
    assert rows == [UP]
    assert report.left_out == {reason: [2]}
    assert f"left out 1 record: {reason} (row 2)" in report.lines()


def test_records_that_nobody_judged_are_only_counted(tmp_path: Path) -> None:
    """Even those that could not be used."""
    silent = [exchange("q", "a"), exchange("q", None), trace([], input=3), record({}), exchange("q", "a", vote=None)]
    rows, report = collected(tmp_path, [*silent, exchange("q", "a", feedback="up")])
    assert rows == [UP]
    assert report.not_taken == {"neither a verdict nor an edit": 5}
    assert not report.left_out


def test_fields_that_are_not_read_are_named(tmp_path: Path) -> None:
    about = {"model": "m", "consent": True, "team": "blue"}
    given = exchange("q", "a", feedback="up", user_id="u1", comment="so good", id=1, metadata=about)
    _, report = collected(tmp_path, [given, trace([score(1), score(0.2, "toxicity")])])
    assert report.unread == {
        "user_id": "an identifier",
        "comment": "words about an answer",
        "metadata.team": "text",
        "scores.toxicity": "not a person's verdict, by its name",
    }


def test_named_feedback_is_the_verdict(tmp_path: Path) -> None:
    records = [exchange("q", "a", feedback="see below", quality={"tone": 1}), trace([score(1), score(0, "tone")])]
    rows, _ = collected(tmp_path, records[:1], {"feedback": "quality.tone"})
    assert rows == [UP]
    rows, _ = collected(tmp_path, records[1:], {"feedback": "tone"})
    assert rows == [DOWN]


def test_system_texts_stay_with_the_prompt(tmp_path: Path) -> None:
    records = [
        {"request": {"input": "q", "instructions": "Be brief."}, "response": "a", "vote": 1},
        {"request": {"system": "Be brief.", "messages": [user("q")]}, "response": "a", "vote": 1},
        {"prompt": "q", "system": "Be brief.", "completion": "a", "label": True},
    ]
    rows, _ = collected(tmp_path, records)
    assert rows == 3 * [{**UP, "prompt": [{"role": "system", "content": "Be brief."}, user("q")]}]


def test_each_judged_turn_of_a_conversation_is_a_row(tmp_path: Path) -> None:
    turns = [
        user("q"),
        {**assistant("a"), "thumbs": "up"},
        user("more"),
        {**assistant("b"), "edited": "c"},
        user("bye"),
    ]
    rows, report = collected(tmp_path, [{"messages": turns}, {"messages": [user("q"), assistant("a")]}])
    before = [user("q"), assistant("a"), user("more")]
    assert rows == [UP, {"prompt": before, "chosen": [assistant("c")], "rejected": [assistant("b")]}]
    assert report.not_taken == {"neither a verdict nor an edit": 1}


# --- damaged records ---

ODD: list[Any] = [
    None,
    True,
    0,
    5,
    "",
    "up",
    "[1,2",
    '{"a": 1}',
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    user("q"),
    float("nan"),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def damaged(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A record with other values in one to three places."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice([path for path in places(value) if path] or [("x",)])
        inner = value
        for key in way:
            inner = inner[key]
        inner[last] = copy.deepcopy(rng.choice(ODD))
    return value


@pytest.mark.parametrize("seed", range(4))
def test_damaged_records_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    known = [given for given, _ in [*CASES.values(), *REFUSED.values()]]
    kept = 0
    for _ in range(60):
        try:
            _, report = collected(tmp_path, [damaged(rng.choice(known), rng) for _ in range(2)])
        except UserError:
            continue
        kept += report.kept
    assert kept > 10
