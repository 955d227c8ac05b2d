"""Phrases in answers, as the rules of several suites look for them."""

from __future__ import annotations

import re

_DENIED = re.compile(r"(?:n['’]t|\b(?:not|never|no|cannot|without))(?:\s+[\w'’]+){0,3}\s*$", re.IGNORECASE)
"""A denial within the last words before an offer."""


def offers(pattern: str, text: str) -> bool:
    """Whether the pattern is found where the words before it do not deny it."""
    found = re.finditer(pattern, text, re.IGNORECASE)
    return any(not _DENIED.search(re.split(r"[.!?;:\n]", text[: match.start()])[-1]) for match in found)


def pieces(text: str) -> list[str]:
    """Sentences and lines of a text, without those that hold nothing but marks."""
    return [piece.strip() for piece in re.split(r"[.!?]+[\"”]?(?:\s|$)|\n", text) if re.search(r"\w", piece)]
