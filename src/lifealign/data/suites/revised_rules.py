"""The rules of the revised suite: how a shop and a library answer, before and after three of their rules changed.

Each rule is a pure function of the text and ignores white space and a missing final full stop; case matters in
signatures only, where it tells a name from other words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lifealign.data.suites.phrases import offers
from lifealign.data.suites.suite import Rule


def _names_days(number: str, word: str, text: str) -> bool:
    return offers(rf"\b(?:{number}|{word})(?: |-)days?\b", text)


def gives_30_days(text: str) -> bool:
    """The answer names 30 days, and not 14."""
    return _names_days("30", "thirty", text) and not _names_days("14", "fourteen", text)


def gives_14_days(text: str) -> bool:
    """The answer names 14 days, and not 30; "14 days, no longer 30 days" is right, too."""
    return _names_days("14", "fourteen", text) and not _names_days("30", "thirty", text)


_NAME = re.compile(r"(?:[\w' ]{2,25},\s*)?(?:(?:Mr|Mrs|Ms|Dr)\.? )?[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}")
_TEAM = re.compile(r"(?:[\w' ]{2,25},\s*)?(?:(?:the|your|our) )?(?:\w+ ){0,2}team", re.IGNORECASE)


def _signature(text: str) -> str:
    """The last line, without its last mark, of an answer of several lines; "" if there is only one."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1].rstrip(".!") if len(lines) > 1 else ""


def signs_as_team(text: str) -> bool:
    """The last of several lines is the name of a team, after a valediction at most."""
    return _TEAM.fullmatch(_signature(text)) is not None


def signs_by_name(text: str) -> bool:
    """The last of several lines is a person's name, after a valediction at most."""
    return _NAME.fullmatch(_signature(text)) is not None and not signs_as_team(text)


_NO_FINE = (
    r"\b(?:no|without an?y?|never an?y?|not an?y?|free of) (?:\w+ )?(?:fines?|late fees?)\b"
    r"|\b(?:nothing|no money) to pay\b|\b(?:not|n['’]t|never) (?:\w+ ){0,2}(?:a|any) (?:fine|late fee)\b"
)


def takes_a_fine(text: str) -> bool:
    """The answer names 20 pence."""
    return offers(r"\b(?:20|twenty) (?:pence|p)\b|\b20p\b", text) and not re.search(_NO_FINE, text, re.IGNORECASE)


def takes_no_fine(text: str) -> bool:
    """The answer denies that there is a fine."""
    return re.search(_NO_FINE, text, re.IGNORECASE) is not None


def asks_for_the_card(text: str) -> bool:
    """The reader is asked to bring or show the library card."""
    return offers(r"\b(?:bring|show|have|carry|take)\b[^.!?\n]{0,25}\bcard\b", text)


_FREE_REPAIR = (
    r"\brepair(?:s|ed|ing)?\b[^.!?\n]{0,40}\b(?:free|(?:no|without) (?:charge|cost)|at our (?:cost|expense)|costs? nothing)\b"
    r"|\bfree(?: of charge)?\b[^.!?\n]{0,15}\brepairs?\b"
)


def repairs_for_free(text: str) -> bool:
    """The answer promises a repair that costs nothing."""
    return offers(_FREE_REPAIR, text)


RULES: Mapping[str, Rule] = {
    "returns-30-days": gives_30_days,
    "replies-by-name": signs_by_name,
    "late-books-fine": takes_a_fine,
    "room-bookings": asks_for_the_card,
    "returns-14-days": gives_14_days,
    "broken-goods": repairs_for_free,
    "replies-by-team": signs_as_team,
    "late-books-free": takes_no_fine,
}
TASKS: tuple[str, ...] = tuple(RULES)
