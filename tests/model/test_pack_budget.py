"""The choice of a packed row's columns by a measurement; the measurement itself needs a GPU."""

from __future__ import annotations

import pytest
import torch

from lifealign.model.pack_budget import SIZES, Measured, best, growing


def measured(*rates: float, memory: float = 0.1) -> list[Measured]:
    return [Measured(size, rate, memory * (i + 1)) for i, (size, rate) in enumerate(zip(SIZES, rates, strict=False))]


@pytest.mark.parametrize(
    ("rates", "tried", "chosen"),
    [
        ((100.0, 160.0, 200.0, 203.0, 400.0), 4, SIZES[2]),  # the fourth gains too little, so the fifth is not tried
        ((100.0, 99.0), 2, SIZES[0]),
        ((100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0), 6, SIZES[5]),
    ],
)
def test_it_grows_while_it_pays(rates: tuple[float, ...], tried: int, chosen: int) -> None:
    table = {m.columns: m for m in measured(*rates)}
    found = growing(lambda columns: table[columns])
    assert len(found) == tried and best(found).columns == chosen


def test_memory_ends_it() -> None:
    def trial(columns: int) -> Measured:
        if columns > SIZES[1]:
            raise torch.OutOfMemoryError("no room")
        return Measured(columns, float(columns), 0.4)

    assert best(growing(trial)).columns == SIZES[1]
    tight = growing(lambda columns: Measured(columns, float(columns), 0.5 if columns == SIZES[0] else 0.9))
    assert [m.columns for m in tight] == list(SIZES[:2]) and best(tight).columns == SIZES[0]


def test_a_card_too_small_for_the_first_size_gets_half_of_it() -> None:
    def trial(columns: int) -> Measured:
        raise torch.OutOfMemoryError("no room")

    assert growing(trial) == [] and best([]).columns == SIZES[0] // 2
