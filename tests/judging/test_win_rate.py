"""Win rates against scikit-learn's logistic regression and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lifealign.judging.win_rate import length_controlled_win_rate, win_rate

OURS = [380, 268, 289, 364, 252, 321, 341, 128, 69, 155, 149, 355, 369, 51, 224, 337, 96, 328, 91, 213]
OURS += [335, 156, 169, 147, 301, 139, 396, 205, 217, 226, 253, 243, 228, 398, 332, 327, 295, 267, 169, 396]
THEIRS = [213, 125, 345, 106, 350, 264, 90, 65, 205, 62, 99, 230, 389, 213, 332, 371, 338, 270, 204, 229]
THEIRS += [143, 223, 182, 136, 397, 54, 84, 117, 389, 292, 358, 120, 302, 179, 221, 51, 266, 340, 282, 104]
WON = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, 1, 0, 0.5, 0.5, 0, 1, 0.5, 1, 1]
WON += [1, 1, 1, 0, 0.5, 1, 1, 1, 1, 0, 1, 0.5, 1, 1, 1, 1, 1, 1, 1, 0]


def test_win_rate_counts_a_tie_as_half() -> None:
    found = win_rate([1, 1, 0, 0.5])
    assert found.value == 62.5
    assert found.low < 62.5 < found.high
    assert math.isnan(win_rate([]).value)


def test_length_control_is_scikit_learns_logistic_regression() -> None:
    """scikit-learn 1.7.2, LogisticRegression(C=1, tol=1e-12) on tanh(d / std(d)), every pair twice, as won and as lost, with
    its outcome as the weight: intercept 1.37110..., sigmoid 79.75250407705586%; the raw rate is 80%."""
    found = length_controlled_win_rate(WON, OURS, THEIRS)
    assert found.value == pytest.approx(79.75250407705586, abs=1e-4)
    assert found.low < found.value < found.high
    assert win_rate(WON).value == 80.0


def test_length_control_live_against_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(3)
    apart = rng.normal(size=200) * 100
    won = rng.choice([0.0, 0.5, 1.0], 200)
    z = np.tanh(apart / apart.std())
    model = linear.LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000)
    model.fit(np.r_[z, z][:, None], np.r_[np.ones(200), np.zeros(200)], sample_weight=np.r_[won, 1 - won])
    expected = 100 / (1 + math.exp(-model.intercept_[0]))
    assert length_controlled_win_rate(won, apart, np.zeros(200), resamples=1).value == pytest.approx(expected, abs=1e-3)


def test_two_lengths_by_hand() -> None:
    """d is +1 or -1 with std 1, so z = +-tanh(1) = +-t. With the ridge, the optimum solves n(p1 - w1) + n(p0 - w0) = 0 and
    t n (p1 - w1) - t n (p0 - w0) + phi = 0 for p = sigmoid(theta +- t phi); by symmetry of w1 = 1 - w0 = 0.9, theta = 0:
    half of the wins are explained by length, and the controlled rate is 50% although ours wins 9 of 10 longer ones."""
    won = [1.0] * 9 + [0.0] + [0.0] * 9 + [1.0]
    found = length_controlled_win_rate(won, [2] * 10 + [1] * 10, [1] * 10 + [2] * 10)
    assert found.value == pytest.approx(50.0, abs=1e-6)


def test_length_bias_is_taken_out() -> None:
    """Ours is longer in 3 of 4 pairs, and the longer answer always wins: 75% raw, all of it explained by length. Without a
    ridge theta has no finite value; with it 64.11 at 100 pairs, and nearer to 50 the more there are."""
    longer = [True, True, True, False] * 25
    won = [float(one) for one in longer]
    ours = [200 + 100 * one for one in longer]
    assert win_rate(won).value == 75.0
    found = length_controlled_win_rate(won, ours, [250] * 100)
    more = length_controlled_win_rate(won * 100, ours * 100, [250] * 10_000, resamples=1)
    assert 50 < more.value < found.value < 65


@pytest.mark.parametrize(("won", "expected"), [([1.0] * 6, 100.0), ([0.0] * 6, 0.0)])
def test_all_won_or_lost_stays_so(won: list[float], expected: float) -> None:
    assert length_controlled_win_rate(won, [1, 2, 3, 4, 5, 6], [3] * 6).value == pytest.approx(expected, abs=1e-3)


def test_equal_lengths_control_nothing_and_one_constant_difference_cannot_be_told_apart() -> None:
    assert length_controlled_win_rate([1, 0, 1, 1], [5] * 4, [5] * 4).value == pytest.approx(75.0)
    assert math.isnan(length_controlled_win_rate([1, 0, 1, 1], [9] * 4, [5] * 4).value)
    assert math.isnan(length_controlled_win_rate([], [], []).value)


def test_what_is_no_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        win_rate([2.0])
    with pytest.raises(ValueError, match="must have the same shape"):
        length_controlled_win_rate([1.0], [1, 2], [1, 2])
