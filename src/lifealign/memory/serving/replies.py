"""Responses in OpenAI's form: whole, and as chunks of a stream. Plain values; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Choice:
    """One answer of a response, while it arrives.

    Attributes:
        text: so far.
        finish: why it ended; None: it goes on.
        tokens: number of tokens written; 0 until it ended.
        weights: of the tasks, if the prompt was routed.
    """

    text: str = ""
    finish: str | None = None
    tokens: int = 0
    weights: Mapping[str, float] | None = None


@dataclass
class Response:
    """A response to one request.

    Attributes:
        id: of the response.
        created: seconds since the epoch.
        model: as it was asked for.
        fingerprint: of the weights that answer.
        chat: a chat, not a completion.
        prompt_tokens: of all prompts.
        choices: the answers by index.
        usage: whether the chunks of its stream have a `usage`.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    chat: bool
    prompt_tokens: int
    usage: bool = False
    choices: list[Choice] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The whole response."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [self._whole(i) for i in range(len(self.choices))], **self._counts()}

    def chunk(self, index: int, text: str | None = None, finish: str | None = None, *, first: bool = False) -> str:
        """One event of the stream: the beginning of an answer, more of it, or its end."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
        if self.chat:
            begin = {"role": "assistant", "content": ""} if first else {}
            choice["delta"] = begin | ({} if text is None else {"content": text})
        else:
            choice["text"] = text or ""
        return self._event([choice], {"usage": None} if self.usage else {})

    def last_chunk(self) -> str:
        """The event with the number of tokens."""
        return self._event([], self._counts())

    def _event(self, choices: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._head(kind), "choices": choices, **rest})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _whole(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": index,
            **({"message": message} if self.chat else {"text": choice.text}),
            "finish_reason": choice.finish,
            "logprobs": None,
            **({"weights": choice.weights} if choice.weights is not None else {}),
        }

    def _counts(self) -> dict[str, Any]:
        written = sum(choice.tokens for choice in self.choices)
        return {
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": written,
                "total_tokens": self.prompt_tokens + written,
            }
        }


def event(value: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


END = "data: [DONE]\n\n"
"""The last event of a stream."""
