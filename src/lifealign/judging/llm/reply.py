"""Read a server's reply: a verdict, or the reason why there is none. PURE; imports no torch.

Nothing is guessed. A reply is a verdict if it is exactly one JSON object with the required keys and values that the rubric
allows. If a number were taken out of prose, an answer that the judge quotes could decide its own score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lifealign.judging.llm.prompt import WINNERS, Winner
from lifealign.judging.rubrics import Rubric

Reason = Literal[
    "out_of_scale",
    "refusal",
    "empty",
    "truncated",
    "bad_json",
    "wrong_schema",
    "bad_response",
    "timeout",
    "cut",
    "unreachable",
    "http_error",
    "no_reference",
    "max_cost",
]
REASONS: dict[Reason, str] = {
    "out_of_scale": "the score is not on the rubric's scale",
    "refusal": "the judge declined",
    "empty": "the reply has no text",
    "truncated": "the reply was cut off at max_tokens",
    "bad_json": "the reply is not one JSON object",
    "wrong_schema": "the reply's JSON has a missing key, an extra key or a value that is not allowed",
    "bad_response": "the server's response is not a chat completion",
    "timeout": "every try timed out",
    "cut": "the connection broke off at every try",
    "unreachable": "no connection at any try",
    "http_error": "the server answered every try with an error",
    "no_reference": "not asked: the rubric needs a reference answer and the row has none",
    "max_cost": "not asked: the cost might have exceeded max_cost",
}
"""Reason for an unscored answer -> explanation."""

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_THOUGHT = re.compile(r"\A<think>.*?</think>", re.DOTALL)
_DECLINED = re.compile(
    r"\b(I(?:'m| am) (?:sorry|unable|not able)|I (?:cannot|can['’]?t|won['’]?t|will not)|as an AI)\b", re.IGNORECASE
)
_SHOWN = 200  # characters of a reply that a message shows


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict: a score (absolute) or a winner (pairwise), its words and its answers to the rubric's steps."""

    score: int | None
    winner: Winner | None
    words: str
    steps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unscored:
    """Why there is no verdict.

    Attributes:
        reason: a key of `REASONS`.
        detail: what came instead, shortened.
    """

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens counted by the server; None if it did not count them."""

    prompt_tokens: int | None
    completion_tokens: int | None


def read_reply(body: str, rubric: Rubric, pairwise: bool) -> Verdict | Unscored:
    """Read the verdict from the body of a successful response."""
    choice = _choice(body)
    if choice is None:
        return Unscored("bad_response", shorten(body))
    message = choice["message"]
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        return Unscored("refusal", shorten(str(message.get("refusal") or "content filter")))
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        return Unscored("empty", f"finish_reason {choice.get('finish_reason')}")
    found = read_verdict(text, rubric, pairwise)
    if isinstance(found, Unscored) and found.reason == "bad_json":
        if choice.get("finish_reason") == "length":
            return Unscored("truncated", shorten(text))
        if _DECLINED.search(text[:_SHOWN]):
            return Unscored("refusal", shorten(text))
    return found


def read_usage(body: str) -> Usage:
    """Read the token counts of a response."""
    try:
        usage = json.loads(body).get("usage")
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, AttributeError):
        return Usage(None, None)
    return Usage(_count(prompt), _count(completion))


def _count(value: Any) -> int | None:
    """A number of tokens, as a server counts them; None if it is anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_verdict(text: str, rubric: Rubric, pairwise: bool) -> Verdict | Unscored:
    """Read the verdict in a judge's text: one JSON object, alone or in a code fence, after a ``<think>`` block if any."""
    bare = _THOUGHT.sub("", text.strip()).strip()
    if fenced := _FENCE.match(bare):
        bare = fenced.group(1)
    try:
        value = json.loads(bare, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError):
        return Unscored("bad_json", shorten(text))
    if not isinstance(value, dict):
        return Unscored("bad_json", shorten(text))
    last = "winner" if pairwise else "score"
    if set(value) != {*(step.name for step in rubric.steps), "explanation", last}:
        return Unscored("wrong_schema", f"keys {sorted(map(str, value))}")
    steps = {step.name: value[step.name] for step in rubric.steps}
    wrong = [s.name for s in rubric.steps if steps[s.name] not in [option.name for option in s.options]]
    if not isinstance(value["explanation"], str):
        wrong.append("explanation")
    if wrong:
        return Unscored("wrong_schema", ", ".join(f"{key}={shorten(repr(value[key]))}" for key in wrong))
    return _verdict(value[last], value["explanation"], steps, rubric, pairwise)


def _verdict(value: Any, words: str, steps: dict[str, str], rubric: Rubric, pairwise: bool) -> Verdict | Unscored:
    if pairwise:
        winner = next((name for name in WINNERS if name == value), None)
        return (
            Verdict(None, winner, words, steps) if winner else Unscored("wrong_schema", f"winner={value!r:.{_SHOWN}}")
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Unscored("wrong_schema", f"score={shorten(repr(value))}")
    if value != value or not rubric.scale.low <= value <= rubric.scale.high or value != int(value):
        return Unscored("out_of_scale", f"score {value!r}, the scale is {rubric.scale.low} to {rubric.scale.high}")
    return Verdict(int(value), None, words, steps)


def _choice(body: str) -> dict[str, Any] | None:
    """The first choice of a chat completion; None if the body is something else."""
    try:
        choice = json.loads(body)["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return choice if isinstance(choice, dict) and isinstance(choice.get("message"), dict) else None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):  # two scores: neither counts
        raise ValueError("a key occurs twice")
    return value


def shorten(text: str) -> str:
    """Shorten a server's text for a message: one line of printable characters, at most `_SHOWN` long."""
    # The message goes to a terminal, which control characters could manipulate.
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
