"""Signatures, their distances and routing, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lifealign.memory import signatures
from lifealign.memory.signatures import Signature

pytestmark = pytest.mark.usefixtures("one_thread")


def rows64(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_signature_is_mean_and_variance() -> None:
    s = signatures.make_signature(torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]))
    assert (s.centroid_D.tolist(), s.variance_D.tolist(), s.count) == ([3, 2], [pytest.approx(8 / 3), 0], 3)
    back = signatures.from_tensors(signatures.to_tensors({"a-1": s, "b": signatures.make_signature(torch.ones(1, 2))}))
    assert list(back) == ["a-1", "b"] and back["b"].count == 1 and back["b"].variance_D.tolist() == [0, 0]
    assert back["a-1"].centroid_D.tolist() == [3, 2] and back["a-1"].count == 3


def test_distance_is_in_units_of_the_pooled_spread() -> None:
    """Pooled variances (2 * 1 + 6 * 3) / 8 = 2.5 and (2 * 4 + 6 * 0) / 8 = 1; x - c = (5, 2): (25 / 2.5 + 4 / 1) / 2 = 7."""
    one = Signature(torch.zeros(2).double(), rows64([1, 4])[0], 2)
    two = Signature(rows64([5, 2])[0], rows64([3, 0])[0], 6)
    assert signatures.pooled_variance([one, two]).tolist() == [2.5, 1]
    assert signatures.distances(rows64([5, 2], [0, 0]), [one, two]).tolist() == [
        [pytest.approx(math.sqrt(7)), 0],
        [0, pytest.approx(math.sqrt(7))],
    ]


def test_a_feature_that_never_varies_has_a_floor_and_no_spread_at_all_counts_as_one() -> None:
    flat = Signature(torch.zeros(2).double(), rows64([2, 0])[0], 3)
    assert signatures.pooled_variance([flat]).tolist() == [2, 1e-6]
    single = signatures.make_signature(torch.tensor([[1.0, 0.0]]))
    assert signatures.distances(rows64([1, 4]), [single]).tolist() == [[pytest.approx(math.sqrt(8))]]


def test_routing_gives_the_nearest_one_and_the_others_their_share() -> None:
    """exp(-(d^2 - d_min^2) / t): equal distances all 1; d^2 larger by t ln 2 a half, by t ln 10 a tenth, then nothing."""
    t = 0.7
    squared = rows64([4, 4, 4], [1, 1 + t * math.log(2), 1 + t * math.log(10)], [9, 0, 30])
    assert signatures.route(squared.sqrt(), t).tolist() == [
        [1, 1, 1],
        [1, pytest.approx(0.5), pytest.approx(0.1)],
        [0, 1, 0],
    ]
