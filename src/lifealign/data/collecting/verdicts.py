"""Thumbs up or down, from the words, numbers and signs that tools write. Imports no torch.

A word has one meaning. A number has one only with the other numbers of its field: 1 is a thumb up beside 0, and the worst of
five stars. So a scale is settled for a whole file, and is stated in the report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lifealign.core.errors import DataError
from lifealign.data.turns import UnusableRowError, number_of
from lifealign.data.vote_words import AGAINST, FOR, NEITHER, NO, YES, spelt

Verdict = Literal["up", "down"]
Votes = tuple[tuple[str, Any], ...]
"""Name of a field and what it holds, for each verdict of a record."""


INVERTED = frozenset({"thumbs_down", "thumb_down", "disliked", "downvoted", "is_bad"})
"""Fields in which "true" is a thumb down."""
PRESSED = frozenset({"thumbs_down", "thumb_down", "disliked", "downvoted", "is_bad", "thumbs_up", "liked", "upvoted"})
"""Fields that hold whether a button was pressed: beside its counterpart, "false" says nothing."""
STARS = frozenset({"rating", "ratings", "stars", "star", "user_rating", "star_rating"})
"""Fields in which a lone 1 is more likely the worst of several stars than a thumb up."""


@dataclass(frozen=True)
class Scale:
    """Which numbers of a field are a thumb up, and which are a thumb down.

    Attributes:
        good_from: the least number that is a thumb up.
        bad_to: the largest number that is a thumb down; None: every number below `good_from` is.
    """

    good_from: float
    bad_to: float | None

    def verdict(self, number: float) -> Verdict | None:
        """The verdict of a number; None if it is neither."""
        if number >= self.good_from:
            return "up"
        return "down" if self.bad_to is None or number <= self.bad_to else None

    def describe(self, name: str, numbers: Sequence[float]) -> str:
        """The scale of a field as one line of text."""
        down = f"{self.bad_to:g} and less" if self.bad_to is not None else "all others"
        return f"`{name}` holds {_span(numbers)}: {self.good_from:g} and more are up, {down} are down"


def field_of(name: str) -> str:
    """The last part of a field's name, in one spelling."""
    return re.sub(r"[\s\-]", "_", name.rpartition(".")[2].casefold())


def settle_scales(
    votes: Sequence[Votes], source: str, good_from: float | None = None, bad_to: float | None = None
) -> dict[str, tuple[Scale, tuple[float, ...]]]:
    """Field -> its scale and its numbers, for every field that holds numbers.

    Args:
        votes: of all records.
        source: file, for messages.
        good_from: the least number that is a thumb up, in every field; None: by the numbers.
        bad_to: the largest number that is a thumb down; None: every number below `good_from`.

    Raises:
        DataError: the numbers of a field do not tell which are good ones.
    """
    numbers: dict[str, list[float]] = {}
    for one in votes:
        for name, value in one:
            number = number_of(value)
            if number is not None:
                numbers.setdefault(name, []).append(number)
    if good_from is not None:
        return {name: (Scale(good_from, bad_to), tuple(found)) for name, found in numbers.items()}
    return {name: (_scale(name, frozenset(found), source), tuple(found)) for name, found in numbers.items()}


def _scale(name: str, numbers: frozenset[float], source: str) -> Scale:
    stars = field_of(name) in STARS
    if numbers <= {0, 1} and not (stars and numbers == {1}):
        return Scale(1, 0)
    if numbers <= {-1, 0, 1} and not (stars and numbers == {1}):
        return Scale(1, -1)
    if numbers <= {1, 2, 3, 4, 5} and max(numbers) == 5:
        return Scale(4, 2)
    raise DataError(
        f"{source}: `{name}` holds {_span(numbers)}, and that does not tell good answers from bad ones; give --good-from X and "
        "--bad-to Y, e.g. --good-from 8 --bad-to 4, or name another field with --feedback"
    )


def _span(numbers: Collection[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"the number {low:g}" if low == high else f"numbers from {low:g} to {high:g}"


def verdict_of(votes: Votes, scales: Mapping[str, tuple[Scale, Any]]) -> Verdict | None:
    """The verdict of most votes; None if there is none.

    Args:
        votes: of one answer.
        scales: of `settle_scales`.

    Raises:
        UnusableRowError: a value is no verdict, or there are as many votes for as against.
    """
    pressed = {field_of(name) for name, value in votes if field_of(name) in PRESSED and not _is_false(value)}
    buttons = {field_of(name) for name, _ in votes} & PRESSED
    found: Counter[Verdict] = Counter()
    for name, value in votes:
        if len(buttons) > 1 and _is_false(value) and field_of(name) in buttons - pressed:
            continue
        one = _verdict(name, value, scales)
        if one is not None:
            found[one] += 1
    if not found:
        return None
    if found["up"] == found["down"]:
        raise UnusableRowError("as many verdicts up as down")
    return "up" if found["up"] > found["down"] else "down"


def _is_false(value: Any) -> bool:
    return value in (False, 0) or (isinstance(value, str) and value.strip().casefold() in ("false", "0", "no"))


def _verdict(name: str, value: Any, scales: Mapping[str, tuple[Scale, Any]]) -> Verdict | None:
    number = number_of(value)
    if number is not None:
        return _turned(name, scales[name][0].verdict(number))
    if isinstance(value, bool):
        return _turned(name, "up" if value else "down")
    word = spelt(value) if isinstance(value, str) else None
    if word in FOR | YES:
        return _turned(name, "up")
    if word in AGAINST | NO:
        return _turned(name, "down")
    if word in NEITHER:
        return None
    # The value may be somebody's words, so it is not shown.
    raise UnusableRowError(f"`{name}` holds {'a text' if word is not None else 'a value'} that is no verdict")


def _turned(name: str, verdict: Verdict | None) -> Verdict | None:
    if verdict is None or field_of(name) not in INVERTED:
        return verdict
    return "down" if verdict == "up" else "up"
