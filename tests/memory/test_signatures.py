"""Signatures, their distances and routing, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lifealign.memory import signatures
from lifealign.memory.signatures import Calibration, Signature

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


def test_directions_add_up_to_the_covariance_and_the_distance_follows_it() -> None:
    """Prompts (2, 2), (-2, -2), (1, -1), (-1, 1): covariance [[2.5, 1.5], [1.5, 2.5]], correlation 0.6.

    R = 0.8 * [[1, 0.6], [0.6, 1]] + 0.2 I = [[1, 0.48], [0.48, 1]], so R^-1 = [[1, -0.48], [-0.48, 1]] / 0.7696. For x along
    (1, 1) sqrt(2.5): g = (1, 1), g^T R^-1 g = 1.04 / 0.7696; along (1, -1): 2.96 / 0.7696. Times a / D = 0.1.
    """
    one = signatures.make_signature(rows64([2, 2], [-2, -2], [1, -1], [-1, 1]))
    assert (one.directions_KD.T @ one.directions_KD).tolist() == [
        [pytest.approx(2.5), pytest.approx(1.5)],
        [pytest.approx(1.5), pytest.approx(2.5)],
    ]
    s = math.sqrt(2.5)
    squared = signatures.distances(rows64([s, s], [s, -s]), [one]) ** 2
    assert squared[:, 0].tolist() == [pytest.approx(0.1 * 1.04 / 0.7696), pytest.approx(0.1 * 2.96 / 0.7696)]
    back = signatures.from_tensors(signatures.to_tensors({"t": one}))["t"]
    assert signatures.distances(rows64([s, s]), [back])[0, 0] ** 2 == pytest.approx(0.1 * 1.04 / 0.7696, rel=1e-5)


def test_a_signature_of_an_older_file_has_no_directions_and_reads_the_last_hidden_states() -> None:
    old = {"t.centroid": torch.zeros(2), "t.variance": torch.ones(2), "t.count": torch.tensor([3])}
    found = signatures.from_tensors(old)["t"]
    assert found.directions_KD.shape == (0, 2) and found.checks_MD.shape == (0, 2) and found.depth == 1.0
    assert signatures.calibrate([found]) == Calibration(0.05, 0.05, math.inf, 0, pytest.approx(math.nan, nan_ok=True))


def flat(centre: list[float], checks: list[list[float]]) -> Signature:
    """A task of unit variance without directions, so that d^2 is the mean of the squared gaps."""
    empty = torch.zeros(0, 2).double()
    return Signature(rows64(centre)[0], torch.ones(2).double(), 5, empty, rows64(*checks) if checks else empty, 0.5)


def test_calibration_by_hand() -> None:
    """Tasks at (0, 0) and (4, 0); d^2 is half the squared gap. Own distances^2: 0, 0.5, 2 and 0, 4.5: the farthest is sqrt 4.5.

    The last prompt, at (1, 0), is nearer to the other task (0.5): 4 of 5 are nearest to their own. Its p, the least of the
    five, is the least probability, since floor(0.02 * 6) = 0 may be missed, if that is below 0.05.
    """
    tasks = [flat([0, 0], [[0, 0], [1, 0], [0, 2]]), flat([4, 0], [[4, 0], [1, 0]])]
    found = signatures.calibrate(tasks)
    assert (found.prompts, found.nearest, found.farthest) == (5, 0.8, math.inf), "five prompts tell no stranger"
    enough = [flat([0, 0], [[0, 0], [1, 0], [0, 2]] * 10), flat([4, 0], [[4, 0], [1, 0]] * 10)]
    assert signatures.calibrate(enough).farthest == pytest.approx(math.sqrt(4.5))
    own = rows64([0, 8], [0.5, 4.5], [2, 10], [0, 8], [4.5, 0.5])
    nll = {t: -torch.log_softmax(-own / t, 1)[:, 0].mean() for t in (0.01 * 2**i for i in range(12))}
    assert found.temperature == min(nll, key=lambda t: float(nll[t]))
    p = torch.softmax(-own / found.temperature, 1)[:, 0].min()
    assert found.least == pytest.approx(min(0.05, float(p)))


def test_chosen_tasks_by_hand() -> None:
    """p = softmax(-d^2 / t): with t = 1 and d^2 = (1, 2, 9), e^-1 : e^-2 : e^-9 = 0.731 : 0.269 : 0.0002."""
    calibration = Calibration(1.0, 0.05, 3.0, 10, 1.0)
    squared = rows64([1, 2, 9], [1, 8, 9], [9.1, 9.2, 25])
    assert signatures.chosen(squared.sqrt(), calibration).tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],  # farther than 3 from all
    ]
    sure = Calibration(1.0, 0.99, 3.0, 10, 1.0)
    assert signatures.chosen(squared.sqrt(), sure)[0].tolist() == [True, False, False]  # the nearest one always


def test_a_quarter_of_the_prompts_is_held_back_where_no_others_are_there() -> None:
    features = torch.arange(20.0).reshape(10, 2)
    kept, checks = signatures.held_back(features)
    assert checks is not None and kept.tolist() == features[:8].tolist() and checks.tolist() == features[8:].tolist()
    few, none = signatures.held_back(features[:7])
    assert none is None and few.tolist() == features[:7].tolist()
    many, capped = signatures.held_back(torch.zeros(400, 2))
    assert capped is not None and (len(many), len(capped)) == (400 - signatures.CHECKS, signatures.CHECKS)
