"""Agreement and strengths against hand-computed numbers and public implementations (krippendorff, choix)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lifealign.judging.agreement import (
    agreement_rate,
    bradley_terry,
    bradley_terry_intervals,
    cohen_kappa,
    item_interval,
    krippendorff_alpha,
    majority,
    pairwise_agreement,
    rank_correlation,
)

NAN = float("nan")

# Krippendorff (2011), part C: four observers, twelve units; he gives 0.743 nominal, 0.815 ordinal, 0.849 interval.
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, published: float) -> None:
    assert krippendorff_alpha(FOUR, level).value == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_the_public_implementation(level: str, seed: int) -> None:
    public = pytest.importorskip("krippendorff")
    generator = np.random.default_rng(seed)
    ratings = generator.integers(1, 11, (3, 40)).astype(float)
    ratings[1] = np.where(generator.random(40) < 0.6, ratings[0], ratings[1])
    ratings[generator.random((3, 40)) < 0.25] = NAN
    expected = public.alpha(reliability_data=ratings, level_of_measurement=level)
    assert krippendorff_alpha(ratings, level).value == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_alpha_by_hand() -> None:
    """Two raters, four items, 1 1, 1 0, 0 0, 0 0: o_01 = o_10 = 1, n_0 = 5, n_1 = 3, n = 8.

    1 - (n - 1) o_01 / (n_0 n_1) = 1 - 7 / 15.
    """
    assert krippendorff_alpha([[1, 1, 0, 0], [1, 0, 0, 0]]).value == pytest.approx(8 / 15)


def test_alpha_is_not_defined_where_chance_agrees_on_everything() -> None:
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]).value)
    assert math.isnan(krippendorff_alpha([[1, NAN], [NAN, 1]]).value)
    assert math.isnan(krippendorff_alpha([[]]).value)


def test_the_interval_of_alpha_is_that_of_resampled_items() -> None:
    """The same draws, item by item, through the public implementation."""
    public = pytest.importorskip("krippendorff")
    ratings = np.array(FOUR)
    # The last unit has one rating only and is never drawn.
    paired = ratings[:, (~np.isnan(ratings)).sum(0) >= 2]
    draws = np.random.default_rng(3).integers(0, paired.shape[1], (200, paired.shape[1]))
    alphas = [public.alpha(paired[:, d], level_of_measurement="ordinal") for d in draws]
    found = krippendorff_alpha(FOUR, "ordinal", resamples=200, seed=3)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(alphas, [0.025, 0.975])))
    assert found.low < found.value < found.high


def test_two_systems_have_the_log_odds_of_their_wins() -> None:
    """30 wins to 10: theta = +- log(3) / 2."""
    assert bradley_terry([[0, 30], [10, 0]], prior=0) == pytest.approx([math.log(3) / 2, -math.log(3) / 2])


@pytest.mark.parametrize("seed", range(4))
def test_strengths_are_those_of_the_public_implementation(seed: int) -> None:
    choix = pytest.importorskip("choix")
    wins = np.random.default_rng(seed).integers(1, 12, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    expected = choix.ilsr_pairwise_dense(wins, alpha=0, tol=1e-12)
    assert bradley_terry(wins, prior=0) == pytest.approx(expected - expected.mean(), abs=1e-6)
    padded = wins + 0.5 * (1 - np.eye(5))
    expected = choix.ilsr_pairwise_dense(padded, alpha=0, tol=1e-12)
    assert bradley_terry(wins, prior=0.5) == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_a_system_that_never_lost_has_a_finite_strength_with_a_prior_only() -> None:
    wins = [[0, 5, 5], [0, 0, 3], [0, 2, 0]]
    assert np.isnan(bradley_terry(wins, prior=0)).all()
    found = bradley_terry(wins)
    assert np.isfinite(found).all() and found[0] > found[1] > found[2]
    # Two systems, nine wins to none and 0.1 each way: log(9.1 / 0.1).
    two = bradley_terry([[0, 9], [0, 0]])
    assert two[0] - two[1] == pytest.approx(math.log(91))


def test_many_fits_at_once_are_those_of_each() -> None:
    wins = np.random.default_rng(0).integers(0, 9, (6, 4, 4)).astype(float)
    for one, found in zip(wins, bradley_terry(wins), strict=True):
        assert found == pytest.approx(bradley_terry(one), abs=1e-6)


def test_intervals_hold_the_point_and_narrow_with_items() -> None:
    few = [("a", "b", float(i % 4 != 0)) for i in range(20)]
    narrow = bradley_terry_intervals(few * 16, seed=1)["a"]
    wide = bradley_terry_intervals(few, seed=1)["a"]
    assert wide.value == pytest.approx(math.log(15.1 / 5.1) / 2)
    assert wide.low < wide.value < wide.high
    # Sixteen times the items: a quarter of the width.
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(0.25, abs=0.08)
    assert bradley_terry_intervals([]) == {}


def test_two_raters_by_hand() -> None:
    """Six items, agreed on three: p_o = 1/2. How often 1, 0, -1: 3, 2, 1 and 2, 3, 1: p_e = (6 + 6 + 1) / 36."""
    a, b = [1, 1, 1, 0, 0, -1, NAN], [1, 1, 0, 0, -1, 0, 1]
    assert agreement_rate(a, b) == pytest.approx(1 / 2)
    assert cohen_kappa(a, b) == pytest.approx((1 / 2 - 13 / 36) / (1 - 13 / 36))
    assert math.isnan(agreement_rate([NAN], [1])) and math.isnan(cohen_kappa([1], [1]))


def test_rank_correlation_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 3 2 4: 1 - 6 * 2 / (4 * 15) = 0.8."""
    assert rank_correlation([1, 2, 5, 9, NAN], [3, 5, 4, 10, 2]) == pytest.approx(0.8)
    assert math.isnan(rank_correlation([1, 1], [1, 2])) and math.isnan(rank_correlation([1], [1]))


def test_interval_of_two_raters() -> None:
    found = item_interval(agreement_rate, [1, 1, 1, NAN], [1, 1, 0, 1], seed=0)
    assert found.value == pytest.approx(2 / 3) and 0 <= found.low < found.value < found.high <= 1
    assert math.isnan(item_interval(agreement_rate, [NAN], [1]).value)


def test_majority_and_agreement_among_people() -> None:
    assert [majority(v) for v in ([1, 1, -1], [1, -1], [-1, 0], [NAN, 1])] == [1, 0, -1, 1]
    assert math.isnan(majority([]))
    ratings = {"a": {1: 1.0, 2: 0.0, 3: 1.0}, "b": {1: 1.0, 2: 1.0}, "c": {1: -1.0, 3: 1.0}}
    # a-b: items 1 (same), 2 (not); a-c: 1 (not), 3 (same); b-c: 1 (not).
    assert pairwise_agreement(ratings) == pytest.approx(2 / 5)
    assert math.isnan(pairwise_agreement({"a": {1: 1.0}}))
