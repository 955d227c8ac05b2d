"""Parse JSON of others: whatever is wrong with it ends in a ValueError, before it fills the memory. Imports no torch."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from lifealign.core.limits import READ

DEEPEST = 100
"""Deepest nesting of lists and objects."""
DIGITS = 400
"""Longest whole number, in digits; a float has 309 at most."""
NOT_UNICODE = "text is not valid Unicode (a lone surrogate)"
_COSTS = {"{": 200, "[": 60, ",": 40, "\n": 60}
"""Sign -> bytes that the value behind it takes at most in Python, beside its text."""
_MOST = 1 + max(_COSTS.values())
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def unpacked(text: str) -> int:
    """Estimate from above of the bytes that a JSON or csv text takes once it is parsed; quick, and without parsing."""
    return len(text) + sum(text.count(sign) * cost for sign, cost in _COSTS.items())


def parse_json(text: str, *, nan: Literal["read", "refuse"] = "read", halves: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: JSON.
        nan: whether numbers that are not finite (NaN, Infinity, 1e400) are read.
        halves: read text that holds half of a character; the caller leaves such rows out (`is_unicode`).

    Raises:
        json.JSONDecodeError: it is not JSON; has the place.
        ValueError: nested too deeply, a number that is too long or not finite, half of a character, or too many values.
    """
    if len(text) * _MOST > READ.value() and unpacked(text) > READ.value():
        raise ValueError(
            f"more values than fit into {READ.value() // READ.unit} MiB; set {READ.variable} to raise this limit"
        )
    strict = nan == "refuse"
    try:
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=_finite if strict else None,
            parse_constant=_not_finite if strict else None,
        )
    except RecursionError:
        raise ValueError(f"lists and objects are nested more than {DEEPEST} deep") from None
    if text.count("[") + text.count("{") > DEEPEST and not is_shallow(value):
        raise ValueError(f"lists and objects are nested more than {DEEPEST} deep")
    if not halves and _HALF.search(text) and not is_unicode(value):
        raise ValueError(NOT_UNICODE)
    return value


def is_shallow(value: Any) -> bool:
    """Whether a value is nested no deeper than `DEEPEST`, so that functions that call themselves can walk it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [one for one in _inside(level) if isinstance(one, dict | list)]
        if not level:
            return True
    return False


def is_unicode(value: Any) -> bool:
    """Whether every text in a value is whole; JSON can write half of a character (a lone surrogate)."""
    level = [value]
    while level:
        for one in level:
            if isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    return False
        names = [name for one in level if isinstance(one, dict) for name in one]
        level = [*(name for name in names if isinstance(name, str)), *_inside(level)]
    return True


def _inside(values: Iterable[Any]) -> Iterable[Any]:
    holders = (one for one in values if isinstance(one, dict | list | tuple))
    return itertools.chain.from_iterable(one.values() if isinstance(one, dict) else one for one in holders)


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits; allowed: up to {DIGITS}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")
