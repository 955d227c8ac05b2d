"""Votes of fixed pairs over time, and what they will be next: extrapolative DPO of ProgressGym (arXiv 2406.20087). PURE functions.

A pair's votes are +1 or -1, by step. Order M predicts the next vote so that the (M + 1)-th finite difference is zero:
y_{t+1} = sum_{i=0..M} (-1)^(M-i) C(M+1, i) y_{t-M+i}. Its sign decides which answer is chosen, its size how often the pair counts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lifealign.data.tasks import Row

MOST = 5
"""A pair counts at most this often."""


def coefficients(order: int) -> tuple[int, ...]:
    """Factors of the last `order` + 1 votes, the oldest first. 0 <= order."""
    return tuple((-1) ** (order - i) * math.comb(order + 1, i) for i in range(order + 1))


def next_vote(votes: Sequence[int | None], order: int, ahead: int = 1) -> int | None:
    """The vote `ahead` steps after the last; None if the last one is missing.

    A vote that is missing (None) is no 0: the order is lowered to the votes that follow it.

    Args:
        votes: the oldest first.
        order: M. 0 <= order; 0 repeats the last vote.
        ahead: steps, each predicted from those before it. 1 <= ahead.
    """
    known: list[int] = []
    for vote in reversed(votes):
        if vote is None or len(known) > order:
            break
        known.insert(0, vote)
    if not known:
        return None
    factors = coefficients(min(order, len(known) - 1))
    for _ in range(ahead):
        last = known[-len(factors) :]
        known.append(sum(factor * vote for factor, vote in zip(factors, last, strict=True)))
    return known[-1]


def pair_key(row: Row) -> tuple[int, int]:
    """A number of 63 bits for a pair whichever answer is chosen, and its vote: 1 if the first in order of text is, else -1."""
    turns = [[m.role, m.content] for m in row.prompt]
    text = json.dumps([turns, *sorted((row.chosen, row.rejected))])
    return int.from_bytes(
        hashlib.sha256(text.encode()).digest()[:8], "big"
    ) >> 1, 1 if row.chosen < row.rejected else -1


@dataclass(frozen=True)
class Extrapolated:
    """Rows with the votes of the next step.

    Attributes:
        rows: a pair as often as it counts; rows that are no pairs, once.
        swapped: pairs whose answers changed sides.
        repeated: rows that are there again.
        lowered: pairs whose order was lowered, because a vote is missing.
        dropped: pairs whose next vote is 0.
    """

    rows: tuple[Row, ...]
    swapped: int
    repeated: int
    lowered: int
    dropped: int


def extrapolated(rows: Sequence[Row], past: Sequence[Mapping[int, int]], order: int, ahead: int = 1) -> Extrapolated:
    """The rows of a step with the votes that are predicted for the next.

    Args:
        rows: of the step.
        past: for each earlier step, the oldest first: number of a pair (`pair_key`) -> vote.
        order: M. 0 <= order.
        ahead: steps to predict. 1 <= ahead.
    """
    made: list[Row] = []
    swapped = repeated = lowered = dropped = 0
    for row in rows:
        if row.kind != "pair":
            made.append(row)
            continue
        key, now = pair_key(row)
        before = [votes.get(key) for votes in past[max(0, len(past) - order) :]] if order else []
        vote = next_vote([*before, now], order, ahead)
        assert vote is not None, "the newest vote is the row itself"
        lowered += len(before) < order or None in before
        if vote == 0:
            dropped += 1
            continue
        times, turned = min(abs(vote), MOST), vote * now < 0
        swapped, repeated = swapped + turned, repeated + times - 1
        made += [replace(row, chosen=row.rejected, rejected=row.chosen) if turned else row] * times
    return Extrapolated(tuple(made), swapped, repeated, lowered, dropped)
