"""Conversation turns from what a cell holds: messages of several layouts, JSON or Python text of messages, dialogues.

A message is `{role, content}`, ShareGPT's `{from, value}`, or either with content in typed parts. What cannot be learnt
from text alone (tool calls, images, sound) leaves its row out with a reason. Imports no torch.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifealign.core.json_text import parse_json
from lifealign.data.tasks import Message, Role

DIALOGUE_PARSED = "dialogue parsed into turns"
TURNS_JOINED = "consecutive turns of one role joined"
TOOL_CALLS = "tool calls are not supported"
TOOLS = "`tools` is not read: tool calls are not supported"

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
}
"""Names of the speakers, of OpenAI, ShareGPT, Gemini and OpenAssistant."""
TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "ipython"})
TOOL_FIELDS = ("tool_calls", "function_call")
LISTS = ("messages", "conversations", "conversation")
"""Keys of an object under which its messages are."""
READ_FIELDS = frozenset({"role", "content", "from", "value", "tool_call_id", *TOOL_FIELDS})
"""Fields of a message that are read, or leave its row out."""
TEXT_KINDS = ("text", "input_text", "output_text")
MEDIA_KINDS = ("image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video", "video_url", "file")
TOOL_KINDS = ("tool_use", "tool_result", "tool_call", "function_call", "tool_calls")
PART_KINDS = frozenset({*TEXT_KINDS, *MEDIA_KINDS, *TOOL_KINDS})
"""Values of `type` in a content part."""
MARKS = re.compile(
    r"['\"](role|from)['\"]\s*:.*['\"](content|value|tool_calls|function_call)['\"]\s*:"
    r"|['\"](content|value|tool_calls|function_call)['\"]\s*:.*['\"](role|from)['\"]\s*:"
    r"|['\"]type['\"]\s*:\s*['\"]text['\"]",
    re.DOTALL,
)
"""The names of the fields of a message or a content part, in JSON or Python text."""


class UnusableRowError(Exception):
    """The reason why a row is left out; `cleaning.clean` catches and counts it, so it never reaches the user.

    Attributes:
        format: the registered format that rejected the record, if one did.
    """

    format: str | None = None


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, not a number, blank text, or a list or object without entries."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value)) or (_sized(value) and len(value) == 0)


def is_none_given(value: Any) -> bool:
    """Like `is_empty`, for lists that may come as text: "[]" and "null" are empty too."""
    return is_empty(value) or (isinstance(value, str) and value.strip() in ("[]", "{}", "null", "None", "nan"))


def _sized(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | bytes)


def is_message(value: Any) -> bool:
    """Whether a value is one message: an object with a role and a content, by any of their names."""
    if not isinstance(value, Mapping):
        return False
    return ("role" in value and any(name in value for name in ("content", *TOOL_FIELDS))) or {"from", "value"} <= set(
        value
    )


def decode(value: Any) -> Any:
    """JSON or Python text of messages as its list or object; everything else unchanged.

    Raises:
        UnusableRowError: a text begins like messages and cannot be read.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith(('"[', '"{')) and text.endswith('"'):  # text of text
        inner = _parsed(text)
        return decode(inner) if isinstance(inner, str) and MARKS.search(inner) else value
    if not text.startswith(("[", "{", "array([")) or MARKS.search(text) is None:
        return value
    found = _parsed(text)
    if found is None:
        raise UnusableRowError("text that begins like messages is neither JSON nor Python text")
    return found if _holds_messages(found) else value


def _parsed(text: str) -> Any:
    """The value of a JSON or Python text; None if it is neither."""
    for read in (parse_json, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _holds_messages(value: Any) -> bool:
    if isinstance(value, Mapping) and not is_message(value):
        return _list_key(value) is not None
    items = value if isinstance(value, list | tuple) else [value]
    return _are_messages(items) or _are_parts(items)


def _are_messages(items: Any) -> bool:
    roles = {*ROLES, *TOOL_ROLES}
    return isinstance(items, Sequence) and bool(items) and all(is_message(m) and _role_name(m) in roles for m in items)


def _list_key(value: Mapping[str, Any]) -> str | None:
    """The key under which an object has its messages: one of the known keys, else the only one with messages."""
    known = next((name for name in LISTS if isinstance(value.get(name), list)), None)
    others = [str(name) for name, items in value.items() if isinstance(items, list) and _are_messages(items)]
    return known or (others[0] if len(others) == 1 else None)


def _are_parts(items: Sequence[Any]) -> bool:
    """Whether a list is the typed parts of one content, such as [{type: text, text}]."""
    return bool(items) and all(
        isinstance(part, Mapping) and _kind_of(part) in PART_KINDS and not is_message(part) for part in items
    )


def _kind_of(part: Mapping[str, Any]) -> str | None:
    kind = part.get("type")
    return kind if isinstance(kind, str) else None


def turns_or_text(value: Any) -> Any:
    """A cell's value as a text or a tuple of messages; other values unchanged.

    Raises:
        UnusableRowError: a message cannot be used; gives the reason.
    """
    value = decode(value)
    if isinstance(value, Mapping):
        if not is_none_given(value.get("tools")):
            raise UnusableRowError(TOOLS)
        key = _list_key(value)
        value = [value] if is_message(value) else value[key] if key else value
    if not isinstance(value, list | tuple):
        return value
    return "".join(map(_part, value)) if _are_parts(value) else messages_of(value)


def messages_of(value: Sequence[Any]) -> tuple[Message, ...]:
    """Messages of a list, in the layouts that the module names.

    Raises:
        UnusableRowError: one cannot be used; gives the reason.
    """
    return tuple(item if isinstance(item, Message) else _message(item) for item in value)


def _role_name(item: Mapping[str, Any]) -> Any:
    role = item.get("role") if item.get("role") is not None else item.get("from")
    return role if isinstance(role, str) else None


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise UnusableRowError("a message is not {role, content} with text content")
    name = _role_name(item)
    if name in TOOL_ROLES or any(not is_empty(item.get(field)) for field in TOOL_FIELDS):
        raise UnusableRowError(TOOL_CALLS)
    content = item.get("content") if "content" in item else item.get("value")
    if isinstance(content, list | tuple):
        content = "".join(map(_part, content))
    if not isinstance(content, str):
        raise UnusableRowError("a message is not {role, content} with text content")
    if name not in ROLES:
        raise UnusableRowError("a message has a role other than system, user, assistant")
    return Message(ROLES[name], content)


def _part(part: Any) -> str:
    """The text of one typed content part."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise UnusableRowError("a content part is not {type: text, text}")
    kind = part.get("type")
    text = next((part[name] for name in ("text", "content") if isinstance(part.get(name), str)), None)
    if kind in (None, *TEXT_KINDS) and text is not None:
        return str(text)
    if kind in TOOL_KINDS:
        raise UnusableRowError(TOOL_CALLS)
    if kind is None:  # Qwen's form: {image: ...}
        kind = next((name for name in MEDIA_KINDS if not is_empty(part.get(name))), None)
    if isinstance(kind, str) and kind not in TEXT_KINDS:
        raise UnusableRowError(f"content parts of type {kind} are not supported: only text is")
    raise UnusableRowError("a content part is not {type: text, text}")


def unread_fields(value: Any) -> Iterator[str]:
    """Names of the fields of a cell's messages that hold something and are not read."""
    try:
        value = decode(value)
    except UnusableRowError:
        return
    if isinstance(value, Mapping) and not is_message(value):
        value = value.get(_list_key(value), ())
    for item in value if isinstance(value, list | tuple) else (value,):
        if is_message(item):
            yield from (str(name) for name, found in item.items() if name not in READ_FIELDS and not is_empty(found))


def parse_prompt(prompt: Any) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Turns of a prompt (a text, messages, or text of messages), and the repairs made.

    Raises:
        UnusableRowError: the prompt cannot be used; gives the reason.
    """
    found = turns_or_text(prompt)
    if isinstance(found, tuple):
        return found, ()
    if not isinstance(found, str):
        raise UnusableRowError("prompt is neither a string nor a list of messages")
    dialogue = parse_dialogue(found)
    if dialogue is None:
        return (Message("user", found),), ()
    turns = dialogue.turns
    if len(turns) > 1 and turns[-1].role == "assistant" and not turns[-1].content:
        turns = turns[:-1]  # "... Assistant:" is where the answer goes, not a turn
    return turns, (DIALOGUE_PARSED, *((TURNS_JOINED,) if dialogue.joined else ()))


@dataclass(frozen=True)
class Dialogue:
    """Turns of a "Human: / Assistant:" text; `joined`: whether consecutive turns of one role were joined."""

    turns: tuple[Message, ...]
    joined: bool


def parse_dialogue(text: str) -> Dialogue | None:
    """Turns of a text that starts with "Human:"; None for any other text.

    Upstream hh-rlhf separates turns with an empty line, the paper's resplit with a line break. Consecutive turns of one
    role are joined with a line break, because chat templates require alternating roles.
    """
    text = text.strip()
    if not text.startswith("Human:"):
        return None
    gap = r"\n\n" if re.search(r"\n\n(Human|Assistant):", text) else r"\n"
    pieces = re.split(rf"(?:\A|{gap}[ \t]*)(Human|Assistant):", text)
    turns: list[Message] = []
    joined = False
    for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1].role == role:
            joined = True
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{content.strip()}".strip())
        else:
            turns.append(Message(role, content.strip()))
    return Dialogue(tuple(turns), joined)


def as_list(value: Any) -> list[Any] | None:
    """A list, or the list that a JSON or Python text holds; None for any other value."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not (value.startswith("[") and value.rstrip().endswith("]")):
        return None
    found = _parsed(value)
    return list(found) if isinstance(found, list | tuple) else None


def number_of(value: Any) -> float | None:
    """A finite number, also as text; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
