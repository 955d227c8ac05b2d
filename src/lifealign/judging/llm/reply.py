"""Read a server's reply: a verdict, or the reason why there is none. PURE; imports no torch.

Nothing is guessed. A reply is a verdict if it is exactly one JSON object with the required keys and values that the rubric
allows. If a number were taken out of prose, an answer that the judge quotes could decide its own score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lifealign.data.reasoning import split_reasoning
from lifealign.judging.llm.prompt import WINNERS, Winner
from lifealign.judging.rubrics import Rubric

Reason = Literal[
    "out_of_scale",
    "refusal",
    "empty",
    "truncated",
    "words_around",
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
    "truncated": "the reply was cut off at max_tokens, possibly while the judge was still thinking",
    "words_around": "the reply has words before or after its JSON object, which alone counts",
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

_FENCES = ("```", "~~~")
_LANGUAGE = re.compile(r"\A[ \t]*json[a-z0-9]*", re.IGNORECASE)
_CUT = ("length", "max_tokens", "model_length", "MAX_TOKENS")
"""Values of finish_reason for a reply that was cut off, of several servers."""
_TEXT_PARTS = ("text", "output_text")
_OPENING = re.compile(r"\A\s*(<think(ing)?>|<thought>|<reasoning>|<seed:think>|\[THINK\])")
_DECLINED = re.compile(
    r"\b(I(?:'m| am) (?:sorry|unable|not able)|I (?:cannot|can['’]?t|won['’]?t|will not)|as an AI)\b", re.IGNORECASE
)
_LONGEST = 100_000  # characters of a reply in which an object among words is looked for
_SHOWN = 200  # characters of a reply that a message shows
_DEEPEST = 50
"""Lists and objects within each other in a response; a completion has five."""
_MOST_TOKENS = 10**9
"""Tokens of one call; a larger count is a mistake, and no sum of costs survives it."""


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
    text = _text(message.get("content"))
    cut = choice.get("finish_reason") in _CUT
    if isinstance(text, Unscored):
        return text
    if not text.strip():
        thought = next((name for name in ("reasoning_content", "reasoning") if message.get(name)), None)
        detail = shorten(f"finish_reason {choice.get('finish_reason')}") + (
            f", all of it in {thought}" if thought else ""
        )
        return Unscored("truncated" if cut else "empty", detail)
    found = read_verdict(text, rubric, pairwise)
    if isinstance(found, Unscored) and found.reason in ("bad_json", "words_around"):
        if cut:
            return Unscored("truncated", shorten(text))
        if found.reason == "bad_json" and _DECLINED.search(text[:_SHOWN]):
            return Unscored("refusal", shorten(text))
    return found


def _text(content: Any) -> str | Unscored:
    """The text of a message: as it is, or the texts of its parts; parts with thoughts are left out."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            return Unscored("refusal", shorten(str(part.get("refusal"))))
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "".join(texts)


def read_usage(body: str) -> Usage:
    """Read the token counts of a response."""
    document = _json(body)
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return Usage(None, None)
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: Any) -> int | None:
    """A number of tokens, as a server counts them; None if it is anything else."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def read_verdict(text: str, rubric: Rubric, pairwise: bool) -> Verdict | Unscored:
    """Read the verdict in a judge's text: one JSON object, alone or in a code fence, after its reasoning if any."""
    bare = text.strip()
    value = _json(bare)
    if value is None:  # not before: a verdict may quote a tag or a fence
        reasoned = split_reasoning(bare)
        bare = reasoned.answer if reasoned else bare
        value = _json(_unfenced(bare))
    if value is None:
        return Unscored("words_around" if _around_one_object(bare) else "bad_json", shorten(text))
    if not isinstance(value, dict):
        return Unscored("bad_json", shorten(text))
    last = "winner" if pairwise else "score"
    if set(value) != {*(step.name for step in rubric.steps), "explanation", last}:
        return Unscored("wrong_schema", shorten(f"keys {sorted(value)[:_SHOWN]}"))
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
    if not rubric.scale.low <= value <= rubric.scale.high or value != int(value):
        shown = shorten(repr(value))
        return Unscored("out_of_scale", f"score {shown}, the scale is {rubric.scale.low} to {rubric.scale.high}")
    return Verdict(int(value), None, words, steps)


def _choice(body: str) -> dict[str, Any] | None:
    """The first choice of a chat completion; None if the body is something else."""
    document = _json(body)
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) and isinstance(choice.get("message"), dict) else None


def _unfenced(text: str) -> str:
    """The content of a text that is one code fence, for JSON or without a language; any other text unchanged."""
    fence = next((mark for mark in _FENCES if text.startswith(mark) and text.endswith(mark)), None)
    if fence is None or len(text) < 2 * len(fence):
        return text
    return _LANGUAGE.sub("", text[len(fence) : -len(fence)])


def _around_one_object(text: str) -> bool:
    """Whether a text holds exactly one JSON object, among words: said, but not read, since the words may quote an answer."""
    if _OPENING.match(text):  # reasoning that does not end
        return False
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or len(text) > _LONGEST:
        return False
    return isinstance(_json(text[start : end + 1]), dict)


def _json(text: str) -> Any:
    """The value of a JSON text; None if it is none, or null, or nested deeper than `_DEEPEST`."""
    try:
        value = json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return value
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):  # two scores: neither counts
        raise ValueError("a key occurs twice")
    return value


def shorten(text: str) -> str:
    """Shorten a server's text for a message: one line of printable characters, at most `_SHOWN` long."""
    # The message goes to a terminal, which control characters could manipulate.
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 100 * _SHOWN]).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
