"""Reasoning that an answer shows before it answers: `<think> ... </think> answer`, and the like."""

from __future__ import annotations

import re
from dataclasses import dataclass

PAIRS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
}
"""Opening tag -> closing tag, as base models and their templates write them."""

BARE = ("</think>", "</seed:think>", "[/THINK]", "<|END_THINKING|>")
"""Closing tags that mark reasoning even where an answer lacks the opening tag, because its prompt ended with it."""

_OPENING = re.compile("|".join([*map(re.escape, PAIRS), r"<[A-Za-z][\w:-]*>"]))


@dataclass(frozen=True)
class Reasoned:
    """An answer in two parts.

    Attributes:
        reasoning: between the tags, without the white space around it.
        answer: what comes after the closing tag, without the white space before it.
    """

    reasoning: str
    answer: str


def split_reasoning(text: str) -> Reasoned | None:
    """The two parts of an answer that begins with reasoning; None for any other answer.

    The opening tag of `BARE` ones may be missing.
    """
    for opening, closing in PAIRS.items():
        before, tag, after = text.partition(closing)
        if not tag:
            continue
        before = before.strip()
        if before.startswith(opening):
            return Reasoned(before.removeprefix(opening).strip(), after.lstrip())
        if opening not in before and closing in BARE:
            return Reasoned(before, after.lstrip())
    return None


def closing_tag(opening: str) -> str:
    """The tag that closes what `opening` opens."""
    return PAIRS.get(opening) or f"</{opening[1:]}"


def opened_tag(text: str) -> str | None:
    """The last opening tag of a text, if the text leaves it open; None otherwise."""
    found = [match.group() for match in _OPENING.finditer(text)]
    return found[-1] if found and leaves_open(text, found[-1]) else None


def leaves_open(text: str, opening: str) -> bool:
    """Whether a text opens this tag and does not close it."""
    _, tag, after = text.rpartition(opening)
    return bool(tag) and closing_tag(opening) not in after
