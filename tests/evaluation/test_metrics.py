"""Metrics of lifelong learning against worked numbers; missing and negative cells; off-by-one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifealign.evaluation import metrics as m
from support.golden import golden_numbers

NAN = math.nan


def test_golden() -> None:
    for case in golden_numbers("metrics"):
        R = case["scores"]
        before = copy.deepcopy(R)
        for name in ("last", "ap", "bwt", "forgetting"):
            if name in case:
                assert getattr(m, name)(R) == pytest.approx(case[name], abs=1e-6), name
        if "bwt_by_stage" in case:
            assert m.bwt_by_stage(R) == pytest.approx(case["bwt_by_stage"], abs=1e-6)
        assert before == R


def test_by_hand() -> None:
    R = [[60], [50, 70], [55, 65, 80]]
    assert m.last(R) == pytest.approx((55 + 65 + 80) / 3)
    assert m.ap(R) == pytest.approx((60 + 60 + 200 / 3) / 3)
    assert m.bwt(R) == pytest.approx(((55 - 60) + (65 - 70)) / 2)
    assert m.forgetting(R) == pytest.approx(((60 - 55) + (70 - 65)) / 2)
    assert m.learning_accuracy(R) == 70
    assert m.bwt([[90], [40, 90]]) == -50  # two tasks are enough to forget one


def test_forgetting_takes_the_best_stage_before_the_last() -> None:
    assert m.forgetting([[50], [80, 60], [70, 60, 60]]) == pytest.approx((80 - 70 + 60 - 60) / 2)
    assert m.forgetting([[-5.0], [-1.0, 0.0]]) == pytest.approx(-4.0)  # better than ever: negative


def test_tasks_that_are_not_learnt_yet_are_no_part_of_last() -> None:
    assert m.last([[60, 30, 5], [50, 70, 20]]) == 60


def test_stages_that_were_not_scored() -> None:
    assert math.isnan(m.bwt_by_stage([[None], [3.0, 4.0]])[0])
    assert m.last([None, [3.0, 5.0]]) == 4


def test_negative_scores_and_missing_cells() -> None:
    assert m.last([[-3.0], [None, -1.0]]) == -1.0
    assert m.bwt([[-3.0], [-5.0, -1.0]]) == -2.0
    assert m.bwt([[NAN], [-5.0, -1.0], [-4.0, -2.0, 0.0]]) == -1.0
    assert math.isnan(m.bwt([[3.0]])) and math.isnan(m.last([])) and math.isnan(m.forgetting([[1.0]]))


def test_joint_training_has_one_row() -> None:
    R = [[None] * 3, [None] * 3, [90.0, 80.0, 100.0]]
    assert m.last(R) == 90 and m.ap(R) == 90
    assert math.isnan(m.bwt(R)) and math.isnan(m.forgetting(R)) and m.learning_accuracy(R) == 100


def test_forward_transfer_reads_the_cell_above_the_diagonal() -> None:
    R = [[90, 60, None], [80, 90, 55], [70, 80, 90]]
    assert m.forward_transfer(R, [50, 50, 50]) == pytest.approx(((60 - 50) + (55 - 50)) / 2)
    assert math.isnan(m.forward_transfer([[90], [80, 90]], [50, 50]))
    assert m.ap(R) == pytest.approx((90 + 85 + 80) / 3)  # what is above the diagonal is no part of AP


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6))
def test_constant_columns_neither_gain_nor_lose(scores: list[float]) -> None:
    R = [scores[: k + 1] for k in range(len(scores))]
    assert m.bwt(R) == pytest.approx(0) and m.forgetting(R) == pytest.approx(0)
    assert m.last(R) == pytest.approx(m.learning_accuracy(R))


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 100), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_forgetting_is_at_least_minus_bwt(full: list[list[float]]) -> None:
    R = [row[: k + 1] for k, row in enumerate(full)]
    assert m.forgetting(R) >= -m.bwt(R) - 1e-9
    for permutation in ([0.0], [1e6]):  # what is added to every score moves levels and no differences
        shifted = [[v + permutation[0] for v in row] for row in R]
        assert m.bwt(shifted) == pytest.approx(m.bwt(R), abs=1e-6)


def test_mean_interval_is_the_percentile_bootstrap() -> None:
    values = [0.0] * 20 + [1.0] * 80
    interval = m.mean_interval(values, resamples=4000, seed=1)
    assert interval.value == pytest.approx(0.8)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)  # normal approximation of a proportion
    assert interval.low == pytest.approx(0.8 - half, abs=0.012) and interval.high == pytest.approx(
        0.8 + half, abs=0.012
    )
    assert m.mean_interval(values, seed=1) == m.mean_interval(values, seed=1)
    spread = [float(v) for v in range(100)]
    assert m.mean_interval(spread, resamples=50, seed=1) != m.mean_interval(spread, resamples=50, seed=2)
    assert all(math.isnan(v) for v in m.mean_interval([]))


def test_rows_are_resampled_alike_at_all_stages() -> None:
    """Every row of task 0 loses exactly 10 points, so its BWT has no spread although the scores have."""
    rows = list(np.random.default_rng(0).uniform(0, 100, 50))
    samples = [[rows], [[v - 10 for v in rows], [50.0] * 50]]
    got = m.bootstrap_summaries(samples, {"bwt": m.bwt, "last": m.last}, resamples=200)
    assert got["bwt"] == pytest.approx((-10, -10, -10))
    assert got["last"].high - got["last"].low > 2
    one_column = m.bootstrap_summaries([[rows]], {"last": m.last}, resamples=3000)["last"]
    assert one_column == pytest.approx(m.mean_interval(rows, resamples=3000), abs=1.0)


def test_paired_difference() -> None:
    assert m.paired_difference([3.0, 5.0], [1.0, 3.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="got 2 and 1 values"):
        m.paired_difference([1.0, 2.0], [1.0])


def test_seeds_interval_is_students_t() -> None:
    interval = m.seeds_interval([90.0, 92.0, 97.0])
    assert interval.value == pytest.approx(93)
    half = 4.3026527 * math.sqrt(((3**2) + 1 + 4**2) / 2) / math.sqrt(3)
    assert interval.low == pytest.approx(93 - half) and interval.high == pytest.approx(93 + half)
    assert math.isnan(m.seeds_interval([5.0]).low)
    # t at 11 degrees of freedom is 2.201
    twelve = m.seeds_interval([float(v) for v in range(12)])
    assert (twelve.high - twelve.value) / (np.std(range(12), ddof=1) / math.sqrt(12)) == pytest.approx(2.201, abs=0.02)


def test_the_lowest_the_highest_and_the_largest_drop_by_hand() -> None:
    R = [[90.0], [80.0, 70.0], [85.0, 40.0, 60.0]]
    assert (m.lowest(R), m.highest(R)) == (40.0, 85.0)
    assert m.drops(R).tolist() == [5.0, 30.0]
    assert m.largest_drop(R) == 30.0
    assert m.largest_drop([[10.0], [20.0, 5.0]]) == -10.0  # it rose
    assert m.largest_drop([[None], [20.0, 8.0], [5.0, 6.0, 9.0]]) == 2.0  # only the second task was measured twice


@pytest.mark.parametrize("R", [[], [[]], [[None]], [[50.0], [None, None]]])
def test_what_was_not_measured_has_no_lowest_and_no_drop(R) -> None:
    assert math.isnan(m.lowest(R)) and math.isnan(m.highest(R)) and math.isnan(m.largest_drop(R))


def test_the_interval_of_a_share_is_wilsons() -> None:
    """Values of Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81/263, 15/148, 0/20."""
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        got = m.share_interval([1.0] * right + [0.0] * (count - right))
        assert got == pytest.approx((right / count, low, high), abs=5e-5)
    assert m.share_interval([1.0] * 10) == pytest.approx((1, 0.7225, 1), abs=5e-5)
    assert all(math.isnan(v) for v in m.share_interval([]))


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_interval_of_a_share_is_within_0_and_1_and_no_point(right: int, count: int) -> None:
    share, low, high = m.share_interval([1.0] * min(right, count) + [0.0] * (count - min(right, count)))
    assert 0 <= low <= share <= high <= 1 and high - low > 0.1
