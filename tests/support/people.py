"""Answers and a database of ratings, for tests without a page."""

from __future__ import annotations

from typing import Any

from lifealign.judging.people.database import Rating, Ratings


def rate_all(ratings: Ratings, name: str, choose: Any) -> None:
    """`choose`: the two texts, left and right -> winner."""
    while (asked := ratings.next(name)) is not None:
        ratings.save(name, asked.position, Rating(winner=choose(*(side.answer for side in asked.sides))))


def prefer(word: str) -> Any:
    return lambda left, right: "left" if word in left else "right" if word in right else "tie"
