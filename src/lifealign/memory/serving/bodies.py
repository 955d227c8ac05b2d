"""Bodies of requests in OpenAI's form. A parameter that is not supported is refused unless its value changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lifealign.core.broken_rule import rule_of
from lifealign.data.tasks import Message
from lifealign.data.turns import READ_FIELDS, UnusableRowError, is_empty, messages_of
from lifealign.memory.serving.errors import ApiError

HARMLESS = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user"}
)
"""Parameters that never change an answer; they are accepted and not used."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
}
"""Parameters that are not supported, each with the values that change nothing; null is always one."""
MOST_ANSWERS = 128
"""Of one request."""
STOPS = 16
"""Texts that may end an answer, at most."""
LONGEST_STOP = 1_000
"""Characters of such a text: each new token looks for its beginning."""

B = TypeVar("B", bound=BaseModel)


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and not used: nothing is obfuscated."""


class Body(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Body:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream=true")
        if len(self.stops) > STOPS or not all(0 < len(text) <= LONGEST_STOP for text in self.stops):
            raise ValueError(f"stop: give at most {STOPS} texts, each of 1 to {LONGEST_STOP:,} characters")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        """Most tokens of an answer; None: not given."""
        return self.max_tokens


class Chat(Body):
    """`POST /v1/chat/completions`."""

    messages: list[Any]
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Chat:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens: differs from max_completion_tokens; give one of them")
        return self

    @property
    def longest(self) -> int | None:
        """Most tokens of an answer; None: not given."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def turns(self) -> tuple[Message, ...]:
        """The conversation.

        Raises:
            ApiError: a message that cannot be read, or the last one is no user's.
        """
        for message in self.messages:
            for name, value in message.items() if isinstance(message, Mapping) else ():
                if name not in READ_FIELDS and not is_empty(value):
                    raise ApiError(400, f"messages: {short(name)!r} of a message is not supported", "messages")
        try:
            turns = messages_of(self.messages)
        except UnusableRowError as reason:
            raise ApiError(400, f"messages: {reason}", "messages") from None
        if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
            raise ApiError(400, "messages: the last message must be the user's, with some text", "messages")
        return turns


class Completion(Body):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]

    def prompts(self, encode: Callable[[str], list[int]], vocabulary: int) -> list[list[int]]:
        """Token ids of each prompt, without a template.

        Raises:
            ApiError: a prompt without tokens, or an id that the model does not have.
        """
        given: Sequence[Any] = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if given and isinstance(given[0], int):
            given = [given]
        found = [encode(one) if isinstance(one, str) else list(one) for one in given]
        if not found or not all(found):
            raise ApiError(400, "prompt: it has no tokens", "prompt")
        if odd := [i for ids in found for i in ids if not 0 <= i < vocabulary]:
            raise ApiError(
                400, f"prompt: no token has the id {short(str(odd[0]))}; ids are 0 to {vocabulary - 1}", "prompt"
            )
        return found


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ApiError: 400, it is none.
    """
    try:
        value = json.loads(data)
        data.decode().encode()
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, got {type(value).__name__}")
    return value


def read_body(kind: type[B], data: bytes) -> B:
    """A request's parameters.

    Raises:
        ApiError: 400, names the parameter that is wrong or not supported.
    """
    given = read_object(data)
    known = {}
    for name, value in given.items():
        if name in kind.model_fields:
            known[name] = value
        elif name not in HARMLESS and value is not None and not _neutral(name, value):
            raise ApiError(400, _unsupported(short(name), value), short(name), "unsupported_parameter")
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        text = rule_of(first)
        if not first["loc"]:
            name, _, text = text.partition(": ")
            raise ApiError(400, f"{name}: {text}", name) from None
        name = str(first["loc"][0])
        shown = "" if first["type"] == "missing" else f", got {json.dumps(given.get(name), ensure_ascii=False)[:80]}"
        raise ApiError(400, f"{name}: {text}{shown}", name) from None


def short(text: str) -> str:
    """The beginning of a text of a request, for a message."""
    return text if len(text) <= 80 else text[:79] + "…"


def _neutral(name: str, value: Any) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL.get(name, ()))


def _unsupported(name: str, value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)[:80]
    allowed = [json.dumps(one) for one in NEUTRAL.get(name, ())]
    way = f"allowed: {', '.join(allowed)}" if allowed else "leave it out"
    return f"{name}={shown} is not supported by this server; {way}"
