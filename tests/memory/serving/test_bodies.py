"""Parameters of a request: read, ignored where harmless, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lifealign.data.tasks import Message
from lifealign.memory.serving.bodies import Chat, Completion, read_body
from lifealign.memory.serving.errors import ApiError

ASKED = {"model": "now", "messages": [{"role": "user", "content": "hi"}]}


def read(**more: Any) -> Chat:
    return read_body(Chat, json.dumps({**ASKED, **more}).encode())


def refusal(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**more).turns()
    assert caught.value.status == 400
    return caught.value


def test_what_changes_nothing_is_accepted() -> None:
    body = read(
        user="u",
        metadata={"a": "b"},
        safety_identifier="x",
        service_tier="auto",
        frequency_penalty=0.0,
        presence_penalty=0,
        logit_bias={},
        logprobs=False,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        reasoning_effort=None,
        top_k=None,
    )
    assert body.turns() == (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("presence_penalty", 0.5),
        ("frequency_penalty", False),
        ("logit_bias", {"5": 1}),
        ("store", True),
        ("top_k", 40),
        ("repetition_penalty", 1.1),
        ("reasoning_effort", "low"),
        ("no_such_parameter", 0),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal(**{name: value})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert error.message.startswith(f"{name}={json.dumps(value)[:80]} is not supported")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.5),
        ("temperature", "0"),
        ("top_p", 0),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("n", 0),
        ("n", True),
        ("seed", 2**63),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stop", 5),
        ("stop", "x" * 1001),
        ("temperature", 10**400),
        ("seed", 10**400),
        ("max_tokens", -(10**400)),
        ("stream", 1),
        ("stream_options", {"include_usage": True}),
        ("messages", "hi"),
        ("messages", []),
        ("messages", [{"role": "assistant", "content": "hi"}]),
        ("messages", [{"role": "user", "content": " "}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": "hi", "name": "Ada"}]),
        ("messages", [{"role": "tool", "content": "1", "tool_call_id": "a"}, *ASKED["messages"]]),
        ("messages", ["hi"]),
        ("model", None),
    ],
)
def test_a_wrong_value_names_its_parameter(name: str, value: Any) -> None:
    assert refusal(**{name: value}).param == name


def test_two_lengths_that_differ_are_refused() -> None:
    assert refusal(max_tokens=3, max_completion_tokens=4).param == "max_tokens"
    assert read(max_tokens=3, max_completion_tokens=3).longest == read(max_completion_tokens=3).longest == 3
    assert read().longest is None


def test_messages_as_clients_send_them() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "d"},
    ]
    assert [(m.role, m.content) for m in read(messages=messages).turns()] == [
        ("system", "Be short."),
        ("user", "ab"),
        ("assistant", "c"),
        ("user", "d"),
    ]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"model":', b'{"model": "\xff"}', b'{"model": "\\ud800"}', b"1"])
def test_a_body_that_is_no_object_of_text_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError, match="the body") as caught:
        read_body(Chat, data)
    assert caught.value.status == 400


def test_prompts_of_a_completion() -> None:
    def prompts(given: Any) -> list[list[int]]:
        body = read_body(Completion, json.dumps({"model": "now", "prompt": given}).encode())
        return body.prompts(lambda text: [len(word) for word in text.split()], 10)

    assert prompts("a bb") == [[1, 2]]
    assert prompts(["a", "bb ccc"]) == [[1], [2, 3]]
    assert prompts([3, 4]) == [[3, 4]]
    assert prompts([[3], [4, 5]]) == [[3], [4, 5]]
    for bad in ("", [], [[]], [10], [-1], ["a", 3], {"a": 1}):
        with pytest.raises(ApiError) as caught:
            prompts(bad)
        assert caught.value.param == "prompt"
