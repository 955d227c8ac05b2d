"""The embedded revised suite: a shop and a library, where three later tasks change the rule of an earlier one.

A revising task has the same kind of prompts as the task that it revises, on the same topics, and prefers the new rule.
Each task has a rival, whose behaviour half of its rejected answers show: the old rule for the new one, the new rule for
the old one, and each other for the two tasks that no revision touches. The other half shows the six others in turn. So
over the suite every behaviour is rejected as often as it is chosen.
Built from `revised.json`. See docs/explanation/revised-suite.md.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from lifealign.data.suites.revised_rules import RULES, TASKS
from lifealign.data.suites.suite import (
    PATTERN,
    Drawn,
    Split,
    Suite,
    content_of,
    draw_answers,
    framed,
    upper_first,
    with_articles,
)
from lifealign.data.tasks import Message, Row

FILE = "revised.json"
ROWS_OF_A_TOPIC = 5

REVISES: Mapping[str, str] = {
    "returns-14-days": "returns-30-days",
    "replies-by-team": "replies-by-name",
    "late-books-free": "late-books-fine",
}
"""Revising task -> the earlier task whose rule it changes."""

KINDS: Mapping[str, str] = {
    "returns-30-days": "returns",
    "replies-by-name": "replies",
    "late-books-fine": "late-books",
    "room-bookings": "rooms",
    "returns-14-days": "returns",
    "broken-goods": "broken",
    "replies-by-team": "replies",
    "late-books-free": "late-books",
}
"""Task -> kind of its prompts."""

RIVALS: Mapping[str, str] = {
    **REVISES,
    **{old: new for new, old in REVISES.items()},
    "room-bookings": "broken-goods",
    "broken-goods": "room-bookings",
}
"""Task -> the task whose behaviour half of its rejected answers show."""


@dataclass(frozen=True)
class Request:
    """A prompt, and the statement that all answers to it make.

    Attributes:
        prompt: text of the user's turn.
        clause: without a capital first letter and a full stop.
    """

    prompt: str
    clause: str


def request_of(kind: str, subject: str, split: Split, rng: random.Random) -> Request:
    """Draw a request of a kind about a subject; the split decides which towns, rooms and people are named."""
    content = content_of(FILE)
    names = {
        "s": subject,
        "d": rng.choice(content["topics"][kind]["details"]),
        "t": rng.choice(content["rooms" if kind == "rooms" else "towns"][split]),
        "n": rng.choice(content["people"][split]),
    }
    prompt, clause = (rng.choice(content[part][kind]).format(**names) for part in ("prompts", "clauses"))
    return Request(with_articles(prompt), with_articles(clause))


def answer_of(clause: str, behaviour: str, rng: random.Random) -> str:
    """Draw an answer that states the clause and shows the behaviour of the task of this name."""
    content = content_of(FILE)
    text = str(rng.choice(content["answers"][behaviour])).format(b=clause, B=upper_first(clause))
    signed = behaviour.startswith("replies")
    return framed(text, content, rng, closer=False, full_stop=False) if signed else framed(text, content, rng)


def _rejected(task: str, place: int) -> tuple[str, bool]:
    """Behaviour of the rejected answer of row number `place` (from 0), and whether chosen must be the longer answer."""
    rival, turn = RIVALS[task], place // 2
    if place % 2 == 0:
        return rival, turn % 2 == 0
    others = [name for name in TASKS if name not in (task, rival)]
    return others[turn % 6], (turn // 6 + turn) % 2 == 0


@functools.cache
def _rows(task: str, split: Split) -> tuple[Drawn, ...]:
    """All rows of one split in file order; they depend only on the package, so they are drawn once per process."""
    kind, rng = KINDS[task], random.Random(f"revised/{task}/{split}")
    rows: list[Drawn] = []
    # The same topics, but never the prompts of the task that this one revises.
    seen: set[str] = (
        {drawn.row.prompt[0].content for drawn in _rows(REVISES[task], split)} if task in REVISES else set()
    )
    for index, subject in enumerate(content_of(FILE)["topics"][kind]["subjects"]):
        if PATTERN[index % len(PATTERN)] != split:
            continue
        for _ in range(ROWS_OF_A_TOPIC):
            while (request := request_of(kind, subject, split, rng)).prompt in seen:
                pass
            seen.add(request.prompt)
            other, longer = _rejected(task, len(rows))
            chosen, rejected = draw_answers(partial(answer_of, request.clause, rng=rng), RULES, task, other, longer)
            row = Row((Message("user", request.prompt),), chosen, rejected, f"revised/{task}/{split}:{len(rows) + 1}")
            rows.append(Drawn(other, len(chosen) > len(rejected), row))
    return tuple(rows)


REVISED = Suite("revised", TASKS, _rows, FILE, REVISES)
revised_stream = REVISED.stream
