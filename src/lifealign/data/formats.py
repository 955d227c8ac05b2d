"""Row formats: turn a record's prompt and answers into conversation turns and one or two answer texts.

`FORMATS` holds every format by name: the built-in ones are the table of `layouts`, which finds the columns; others are
registered. What the cells hold is recognised here, so every layout takes texts, messages and whole conversations:

- explicit prompt: the prompt and both answers, each a text or messages;
- implicit prompt: both answers are whole conversations that begin with the same messages; or both are
  "Human: ... Assistant: ..." dialogues that share all but their last assistant turn (hh-rlhf); or, in a file without
  another text column, both are texts with a common beginning that ends at a turn or a sentence (TRL's form).

- one answer (feedback, a demonstration): the same forms with one side, e.g. a conversation whose last turn is the answer.

A prompt that is a "Human: / Assistant:" dialogue is parsed into turns; any other text is one user turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifealign.core.errors import ConfigError, UserError
from lifealign.core.registry import Registry
from lifealign.data.tasks import Message, RowKind
from lifealign.data.turns import (
    DIALOGUE_PARSED,
    TURNS_JOINED,
    UnusableRowError,
    parse_dialogue,
    parse_prompt,
    turns_or_text,
)

SHARED_BEGINNING = "prompt taken from the common beginning of both answers"
NO_PROMPT_END = "the common beginning of both answers does not end at a turn or a sentence"
NOT_ALIKE = "chosen and rejected are not both strings or both lists of messages"
NOT_ONE_TURN = "is not exactly one assistant message after the prompt"
OF_ONE_ANSWER = {
    NOT_ALIKE: "the answer is neither a text nor messages",
    f"chosen {NOT_ONE_TURN}": f"the answer {NOT_ONE_TURN}",
    "the prompt is not in the conversations of chosen and rejected": "the prompt is not in the conversation",
}
"""Reasons why a pair is left out -> the same for a row with one answer."""
LEAST_WORDS = 3
"""Words of a common beginning below which it is no prompt: both answers may begin with "Sure." or "1."."""
PROMPT_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"')\]*\u201d\u2019]*$")
"""A sentence's end."""
LABEL_END = re.compile(r"\n[ \t]*\w+( \w+)?:$")
"""A line such as "Answer:", after which the answer begins."""


@dataclass(frozen=True)
class Triple:
    """One record's prompt and answers as found: texts, messages, or None if absent.

    Attributes:
        prompt: the conversation so far.
        chosen: the preferred answer.
        rejected: the other answer; of a row with one answer, the other side is None.
        repairs: what was changed.
        no_prompt_column: the file has no prompt column, so the prompt is taken from the start of the answers; otherwise
            a row without a prompt is left out.
        system: the system turn, if it has a column of its own.
        scores: of the chosen and the rejected answer, if the record has them; not stored, for checks.
        read: names of the columns that were read; None: not known, so none is reported as not read.
        unread: parts of a column that were not read, e.g. "data.topic".
        kind: what the row is; `undesirable` has its answer in `rejected`, the other kinds with one answer in `chosen`.
        label: columns of the label of one answer, which `labels` turns into a kind; None: the kind is known.
        votes: labels by several people, in place of what the columns of `label` hold; the majority counts.
        ranking: answers with a number each, more is better, if there may be more than two; for the rule of pairs.
        margin: by how much chosen is better, where the rule of pairs asks for it.
    """

    prompt: Any
    chosen: Any
    rejected: Any
    repairs: tuple[str, ...] = ()
    no_prompt_column: bool = False
    system: Any = None
    scores: tuple[float, float] | None = None
    read: tuple[str, ...] | None = None
    unread: tuple[str, ...] = ()
    kind: RowKind = "pair"
    label: tuple[str, ...] | None = None
    votes: tuple[Any, ...] = ()
    ranking: tuple[tuple[Any, float], ...] = ()
    margin: float | None = None


@dataclass(frozen=True)
class Parsed:
    """A record's conversation and answers, before cleaning."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    format: str
    repairs: tuple[str, ...] = ()
    kind: RowKind = "pair"
    margin: float | None = None


RowFormat = Callable[[Mapping[str, Any]], "Triple | Parsed | None"]
"""One record -> its prompt and answers; None if the record has another format."""


def _check_format(value: Any) -> str | None:
    return None if callable(value) else f"expected a function record -> Triple, Parsed or None, got {value!r}"


FORMATS: Registry[RowFormat] = Registry("format", "lifealign.formats", check=_check_format)
"""Every row format by name; `layouts` adds the built-in ones."""


def register_format(name: str, function: Any = None) -> Any:
    """Register your own row format; without `function`, returns a decorator.

    Registered formats are tried before the built-in ones, in order of name; the first that does not return None is used.

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


def read_outside(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Triple | Parsed] | None:
    """Read a record with the first registered format that knows it: its name and the result; None if none does.

    Args:
        record: as read.
        names: the registered formats, in the order in which they are tried.

    Raises:
        UnusableRowError: the format knows the record and rejects it.
        ConfigError: the format fails, or returns something else; names it.
    """
    for name in names:
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
    """Recognise the prompt and the answers of one record.

    Raises:
        UnusableRowError: the row cannot be used; gives the reason.
    """
    if triple.kind != "pair":
        return _parse_answer(triple)
    for side, value in (("chosen", triple.chosen), ("rejected", triple.rejected)):
        if value is None:
            raise UnusableRowError(f"{side} is missing")
    chosen, rejected = turns_or_text(triple.chosen), turns_or_text(triple.rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        parsed = _parse_strings(triple, chosen, rejected)
    elif isinstance(chosen, tuple) and isinstance(rejected, tuple):
        parsed = _parse_messages(triple.prompt, chosen, rejected)
    else:
        raise UnusableRowError(NOT_ALIKE)
    return replace(_with_system(parsed, triple.system), margin=triple.margin)


def _parse_answer(triple: Triple) -> Parsed:
    """One answer, read as a pair of it with itself, so that every form of a pair's side holds for it."""
    bad = triple.kind == "undesirable"
    answer = triple.rejected if bad else triple.chosen
    if answer is None:
        raise UnusableRowError("the answer is missing")
    twice = replace(triple, kind="pair", chosen=answer, rejected=answer, no_prompt_column=False, margin=None)
    try:
        parsed = parse(twice)
    except UnusableRowError as reason:
        raise UnusableRowError(OF_ONE_ANSWER.get(str(reason), str(reason))) from None
    chosen, rejected = ("", parsed.rejected) if bad else (parsed.chosen, "")
    return replace(parsed, kind=triple.kind, chosen=chosen, rejected=rejected)


def _with_system(parsed: Parsed, system: Any) -> Parsed:
    """`parsed` with the text of a system column in front."""
    if system is None or system == "":
        return parsed
    if not isinstance(system, str):
        raise UnusableRowError("the system column does not hold text")
    if not system.strip():
        return parsed
    if parsed.prompt and parsed.prompt[0].role == "system":
        if parsed.prompt[0].content.strip() == system.strip():
            return parsed
        raise UnusableRowError("the system column and the system turn differ")
    return replace(parsed, prompt=(Message("system", system), *parsed.prompt))


def _parse_strings(triple: Triple, chosen: str, rejected: str) -> Parsed:
    prompt = turns_or_text(triple.prompt)
    if prompt is None or prompt == "":
        left, right = parse_dialogue(chosen), parse_dialogue(rejected)
        if left is None or right is None:
            if not triple.no_prompt_column:
                raise UnusableRowError("prompt is missing")
            return _shared_beginning(chosen, rejected)
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


def _shared_beginning(chosen: str, rejected: str) -> Parsed:
    """The common beginning of two texts as the prompt of what follows.

    Raises:
        UnusableRowError: it does not end at a turn or a sentence, or is too short for a prompt.
    """
    shared = _shared_words(chosen, rejected)
    text = shared.strip()
    broken = all("\n" in side[len(shared.rstrip()) :][:2] for side in (chosen, rejected))
    if not (broken or PROMPT_END.search(text) or LABEL_END.search(text)) or len(text.split()) < LEAST_WORDS:
        raise UnusableRowError(NO_PROMPT_END)
    answers = chosen[len(shared) :].lstrip(), rejected[len(shared) :].lstrip()
    return Parsed((Message("user", text),), *answers, "strings, implicit prompt", (SHARED_BEGINNING,))


def _shared_words(one: str, other: str) -> str:
    """The common beginning of two texts, cut back to whole words."""
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    shared = one[: next(differs, min(len(one), len(other)))]
    ends = all(len(text) == len(shared) or text[len(shared)].isspace() for text in (one, other))
    return shared if ends else shared[: len(shared) - len(re.split(r"\s", shared)[-1])]


def _parse_messages(prompt: Any, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Parsed:
    whole = len(chosen) > 1 or len(rejected) > 1
    repairs: tuple[str, ...] = ()
    given = turns_or_text(prompt)
    if isinstance(given, tuple) and whole and given in (chosen, rejected):
        given = None  # the whole chosen conversation once more
    if given is None or given == "" or given == () or (whole and isinstance(given, str)):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        turns, kind = chosen[:shared], "messages, implicit prompt"
        if shared == 0:
            raise UnusableRowError("prompt is missing")
        if isinstance(given, str) and not _repeats(given, turns):
            raise UnusableRowError("the prompt is not in the conversations of chosen and rejected")
        chosen, rejected = chosen[shared:], rejected[shared:]
    else:
        turns, repairs = parse_prompt(given)
        kind = "string prompt, message answers" if isinstance(given, str) else "messages"
        if len(chosen) > 1 and chosen[: len(turns)] == turns == rejected[: len(turns)]:
            chosen, rejected = chosen[len(turns) :], rejected[len(turns) :]
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1 or answer[0].role != "assistant":
            raise UnusableRowError(f"{side} {NOT_ONE_TURN}")
    return Parsed(turns, chosen[0].content, rejected[0].content, kind, repairs)


def _repeats(prompt: str, turns: tuple[Message, ...]) -> bool:
    """Whether a text prompt beside whole conversations only repeats a part of them."""
    text = " ".join(prompt.split())
    said = [" ".join(m.content.split()) for m in turns]
    return text in " ".join(said) or any(
        turn and turn in text for turn, m in zip(said, turns, strict=True) if m.role == "user"
    )
