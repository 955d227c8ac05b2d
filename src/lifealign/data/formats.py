"""Column formats: turn a record's prompt and answers into conversation turns and two answer texts.

Formats (a file may mix them):

- explicit prompt: `prompt` (or `query`), `chosen`, `rejected`, each a string or a list of {role, content};
- implicit prompt: `chosen` and `rejected` are whole conversations and begin with the same messages; or both are
  "Human: ... Assistant: ..." dialogues that share all but their last assistant turn (hh-rlhf); or, in a file without a
  prompt column, both are other strings that begin with the same words (TRL's form; cut where a word ends).

A string prompt that is a "Human: / Assistant:" dialogue is parsed into turns; any other string is one user turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifealign.core.errors import ConfigError, UserError
from lifealign.core.registry import Registry
from lifealign.data.tasks import Message, Role

DIALOGUE_PARSED = "dialogue parsed into turns"
TURNS_JOINED = "consecutive turns of one role joined"


class UnusableRowError(Exception):
    """The reason why a row is left out; `clean` catches and counts it, so it never reaches the user.

    Attributes:
        format: the registered format that rejected the record, if one did.
    """

    format: str | None = None


@dataclass(frozen=True)
class Triple:
    """One record's prompt and answers as found: strings, lists of messages, or None if absent.

    `no_prompt_column`: the file has no prompt column, so the prompt is taken from the start of the answers; otherwise
    a row without a prompt is left out.
    """

    prompt: Any
    chosen: Any
    rejected: Any
    repairs: tuple[str, ...] = ()
    no_prompt_column: bool = False


@dataclass(frozen=True)
class Parsed:
    """A record's conversation and answers, before cleaning."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    format: str
    repairs: tuple[str, ...] = ()


RowFormat = Callable[[Mapping[str, Any]], "Triple | Parsed | None"]
"""One record -> its prompt and answers; None if the record has another format."""


def _check_format(value: Any) -> str | None:
    return None if callable(value) else f"expected a function record -> Triple, Parsed or None, got {value!r}"


FORMATS: Registry[RowFormat] = Registry("format", "lifealign.formats", check=_check_format)


def register_format(name: str, function: Any = None) -> Any:
    """Register your own row format; without `function`, returns a decorator.

    Registered formats are tried before the built-in one, in order of name; the first that does not return None is used.

    Args:
        name: lower-case letters, digits, - and _.
        function: record -> `Triple` or `Parsed`; None if the record has another format. It may raise `UnusableRowError`
            with the reason why a row is left out.

    Raises:
        ConfigError: the name is taken or invalid, or `function` is not callable.
    """
    if function is None:
        return lambda function: register_format(name, function)
    return FORMATS.register(name, function)


def columns(record: Mapping[str, Any]) -> Triple:
    """The built-in format: columns `prompt` (or `query`), `chosen` and `rejected`."""
    prompt = record.get("prompt") if record.get("prompt") is not None else record.get("query")
    return Triple(prompt, record.get("chosen"), record.get("rejected"))


FORMATS.built_in({"columns": columns})


def read_outside(record: Mapping[str, Any]) -> tuple[str, Triple | Parsed] | None:
    """Read a record with the first registered format that knows it: its name and the result; None if none does.

    Raises:
        UnusableRowError: the format knows the record and rejects it.
        ConfigError: the format fails, or returns something else; names it.
    """
    for name in sorted(FORMATS.outside()):
        try:
            found: Any = FORMATS[name](record)
        except UnusableRowError as reason:
            reason.format = name
            raise
        except UserError:
            raise
        except Exception as error:
            here = f"format {name!r} ({FORMATS.origin(name)})"
            raise ConfigError(f"{here} failed on a record: {type(error).__name__}: {error}") from error
        if found is None:
            continue
        if not isinstance(found, Triple | Parsed):
            here = f"format {name!r} ({FORMATS.origin(name)})"
            raise ConfigError(f"{here}: expected Triple, Parsed or None, got {found!r}")
        return name, found
    return None


def parse(triple: Triple) -> Parsed:
    """Recognise the format of one record.

    Raises:
        UnusableRowError: the row cannot be used; gives the reason.
    """
    chosen, rejected = triple.chosen, triple.rejected
    for side, value in (("chosen", chosen), ("rejected", rejected)):
        if value is None:
            raise UnusableRowError(f"{side} is missing")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _parse_strings(triple, chosen, rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _parse_messages(triple.prompt, _messages(chosen), _messages(rejected))
    raise UnusableRowError("chosen and rejected are not both strings or both lists of messages")


def _parse_strings(triple: Triple, chosen: str, rejected: str) -> Parsed:
    prompt = triple.prompt
    if prompt is None or prompt == "":
        left, right = parse_dialogue(chosen), parse_dialogue(rejected)
        if left is None or right is None:
            shared = _shared_words(chosen, rejected) if triple.no_prompt_column else ""
            if not shared.strip():
                raise UnusableRowError("prompt is missing")
            answers = chosen[len(shared) :].lstrip(), rejected[len(shared) :].lstrip()
            return Parsed((Message("user", shared.strip()),), *answers, "strings, implicit prompt")
        if left.turns[-1].role != "assistant" or right.turns[-1].role != "assistant":
            raise UnusableRowError("dialogue does not end with an assistant turn")
        if left.turns[:-1] != right.turns[:-1]:
            raise UnusableRowError("chosen and rejected do not share a prompt")
        repairs = (DIALOGUE_PARSED, *((TURNS_JOINED,) if left.joined or right.joined else ()))
        answers = left.turns[-1].content, right.turns[-1].content
        return Parsed(left.turns[:-1], *answers, "dialogue strings, implicit prompt", repairs)
    turns, repairs = parse_prompt(prompt)
    kind = "dialogue prompt, string answers" if DIALOGUE_PARSED in repairs else "strings"
    return Parsed(
        turns, chosen, rejected, kind if isinstance(prompt, str) else "message prompt, string answers", repairs
    )


def _shared_words(one: str, other: str) -> str:
    """The common beginning of two texts, cut back to whole words."""
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    shared = one[: next(differs, min(len(one), len(other)))]
    ends = all(len(text) == len(shared) or text[len(shared)].isspace() for text in (one, other))
    return shared if ends else shared[: len(shared) - len(re.split(r"\s", shared)[-1])]


def _parse_messages(prompt: Any, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Parsed:
    # A string prompt beside whole conversations only repeats one of their turns, so it is ignored.
    whole = len(chosen) > 1 or len(rejected) > 1
    repairs: tuple[str, ...] = ()
    if prompt is None or prompt == "" or prompt == [] or (whole and isinstance(prompt, str)):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        turns, kind = chosen[:shared], "messages, implicit prompt"
        if shared == 0:
            raise UnusableRowError("prompt is missing")
        chosen, rejected = chosen[shared:], rejected[shared:]
    else:
        turns, repairs = parse_prompt(prompt)
        kind = "string prompt, message answers" if isinstance(prompt, str) else "messages"
        if len(chosen) > 1 and chosen[: len(turns)] == turns == rejected[: len(turns)]:
            chosen, rejected = chosen[len(turns) :], rejected[len(turns) :]
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1 or answer[0].role != "assistant":
            raise UnusableRowError(f"{side} is not exactly one assistant message after the prompt")
    return Parsed(turns, chosen[0].content, rejected[0].content, kind, repairs)


def parse_prompt(prompt: Any) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Turns of a prompt (a string or a list of messages), and the repairs made.

    Raises:
        UnusableRowError: the prompt cannot be used; gives the reason.
    """
    if isinstance(prompt, list):
        return _messages(prompt), ()
    if not isinstance(prompt, str):
        raise UnusableRowError("prompt is neither a string nor a list of messages")
    dialogue = parse_dialogue(prompt)
    if dialogue is None:
        return (Message("user", prompt),), ()
    turns = dialogue.turns
    if len(turns) > 1 and turns[-1].role == "assistant" and not turns[-1].content:
        turns = turns[:-1]  # "... Assistant:" is where the answer goes, not a turn
    return turns, (DIALOGUE_PARSED, *((TURNS_JOINED,) if dialogue.joined else ()))


def _messages(value: Sequence[Any]) -> tuple[Message, ...]:
    roles: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
    messages = []
    for item in value:
        if not isinstance(item, Mapping) or not isinstance(item.get("content"), str):
            raise UnusableRowError("a message is not {role, content} with text content")
        if not isinstance(item.get("role"), str) or item["role"] not in roles:
            raise UnusableRowError("a message has a role other than system, user, assistant")
        messages.append(Message(roles[item["role"]], item["content"]))
    return tuple(messages)


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
