"""Inference-time win rates against the numbers that the specification recomputed, and calibrated rewards."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lifealign.core.reward_transform import Transform, calibrated
from lifealign.evaluation.inference import at_kl, model_free, sampled_win_rate

TABLE = [
    ("identity", 0.8646, 0.8770, 0.9745),
    ("log", 0.8631, 0.8631, 0.9859),
    ("exp 5", 0.8390, 0.9192, 0.8572),
    ("exp 10", 0.8010, 0.9351, 0.7712),
    ("exp -5", 0.8567, 0.8352, 0.9912),
    ("exp -10", 0.8479, 0.8095, 0.9927),
]


@pytest.mark.parametrize(("name", "win", "best", "worst"), TABLE)
def test_model_free_table_at_one_nat(name: str, win: float, best: float, worst: float) -> None:
    """InfAlign (2412.19792), recomputed independently in the specification: KL = 1, N = 4, WR / BoN / WoN."""
    found = at_kl(Transform.parse(name), 1.0, 4)
    assert (found.win, found.best, found.worst) == pytest.approx((win, best, worst), abs=6e-5)


def test_model_free_table_at_half_a_nat() -> None:
    """The same at KL = .5: identity WR .7737 and BoN .7998, e^{10u} BoN .8715, -e^{-10u} WoN .9476."""
    plain, up, down = (at_kl(Transform.parse(name), 0.5, 4) for name in ("identity", "exp 10", "exp -10"))
    assert (plain.win, plain.best) == pytest.approx((0.7737, 0.7998), abs=6e-5)
    assert (up.best, down.worst) == pytest.approx((0.8715, 0.9476), abs=6e-5)


def test_limits_of_the_model_free_measures() -> None:
    """A policy that does not move wins half of everything; log u at beta 1/(N-1) is best of N: win rate N/(N+1)."""
    still = model_free(Transform.parse("identity"), 1e9, 4)
    assert (still.kl, still.win, still.best, still.worst) == pytest.approx((0, 0.5, 0.5, 0.5), abs=1e-6)
    assert model_free(Transform.parse("log"), 1 / 3, 4).win == pytest.approx(0.8, abs=1e-6)
    with pytest.raises(ValueError, match="no beta gives"):
        at_kl(lambda u: 0.0, 1.0, 4)


def test_calibrated_rewards_of_the_reference_are_uniform() -> None:
    """The calibration step of InfAlign: C ~ U[0, 1] under the reference whatever each prompt's scale (KS test)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        scale, offset = rng.lognormal(0, 2), rng.normal(0, 10)
        rewards = (offset + scale * rng.gamma(2, size=101)).tolist()
        found.append(calibrated(rewards[0], rewards[1:]))
    assert stats.kstest(found, "uniform").pvalue > 0.05
    raw = [c**2 for c in found]
    assert stats.kstest(raw, "uniform").pvalue < 1e-6  # the test can fail


def test_ties_count_half_and_a_margin_is_the_difference_of_the_transformed() -> None:
    assert calibrated(2, [1, 2, 2, 3]) == 0.5
    assert calibrated(0, [1]) == 0 and calibrated(2, [1]) == 1
    scores = [1.0, 2.0, 5.0]
    assert Transform.parse("identity").margin(5, 1, scores) == pytest.approx(2 / 3)
    assert Transform.parse("exp 10").margin(5, 2, scores) > Transform.parse("exp 10").margin(2, 1, scores)
    assert Transform.parse("exp -10").margin(5, 2, scores) < Transform.parse("exp -10").margin(2, 1, scores)
    assert Transform.parse("log").margin(5, 1, scores) == pytest.approx(np.log(5))
    assert [str(Transform.parse(t)) for t in ("exp  5", "log")] == ["exp 5", "log"]
    for wrong in ("exp", "exp 0", "exp x", "exp 99", "log 2", "square"):
        with pytest.raises(ValueError, match="expected identity, log or 'exp T'"):
            Transform.parse(wrong)


def test_sampled_win_rates_of_all_sets_of_n() -> None:
    """Against the definition: every set of N answers of one model against every set of the other."""
    from itertools import combinations

    own, other = [[3.0, 1.0, 2.0, 2.0]], [[2.0, 0.0, 4.0]]
    for which, pick in (("best", max), ("worst", min)):
        pairs = [(pick(a), pick(b)) for a in combinations(own[0], 2) for b in combinations(other[0], 2)]
        expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
        assert sampled_win_rate(own, other, 2, which) == pytest.approx([expected])
    same = [[1.0, 2.0, 3.0, 4.0]] * 2
    assert sampled_win_rate(same, same, 3) == pytest.approx([0.5, 0.5])  # self against self
    with pytest.raises(ValueError, match="at least 5 rewards"):
        sampled_win_rate(same, same, 5)
    with pytest.raises(ValueError, match="allowed: best, worst"):
        sampled_win_rate(same, same, 1, "mean")
