"""Statistics of a study against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lifealign.studies import stats
from lifealign.studies.comparison import relative_time
from lifealign.studies.results import Group, _baseline, _cost, _difference, _orders_spread, _table, shown

nan = math.nan


def test_interval_of_few_seeds_is_students_t() -> None:
    # mean 4, standard deviation 2, standard error 2 / sqrt(3); t(0.975, 2) = 4.3026527
    half = 4.3026527 * 2 / math.sqrt(3)
    assert stats.interval([2.0, None, 4.0, nan, 6.0]) == pytest.approx((4, 4 - half, 4 + half))
    one = stats.interval([5.0])
    assert one.value == 5 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(stats.interval([]).value)


def test_interval_of_many_seeds_is_a_bootstrap() -> None:
    # 10 zeros and 10 ones: the mean of a resample is Binomial(20, 1/2) / 20, whose 2.5% and 97.5% points are 6 and 14.
    assert stats.interval([0.0, 1.0] * 10) == pytest.approx((0.5, 0.3, 0.7), abs=0.051)
    assert "bootstrap" in stats.interval_name(20) and "Student" in stats.interval_name(19)
    assert "no interval" in stats.interval_name(1)


def test_coverage_is_what_the_threshold_is_argued_with() -> None:
    samples = np.random.default_rng(0).normal(size=(1500, 3))
    from lifealign.evaluation.metrics import mean_interval

    def covered(intervals: list[Any]) -> float:
        return float(np.mean([i.low <= 0 <= i.high for i in intervals]))

    assert covered([stats.interval(list(s)) for s in samples]) == pytest.approx(0.95, abs=0.02)
    assert covered([mean_interval(list(s), resamples=300) for s in samples]) == pytest.approx(0.75, abs=0.03)


def test_pairs_are_of_the_same_seed() -> None:
    # seeds 0 and 2 are in both: 3 - 1 = 2 and 9 - 5 = 4; mean 3, sd sqrt(2), t(0.975, 1) = 12.7062047
    half = 12.7062047 * math.sqrt(2) / math.sqrt(2)
    found = stats.paired({0: 3.0, 1: 100.0, 2: 9.0, 3: None}, {0: 1.0, 2: 5.0, 3: 1.0})
    assert found == pytest.approx((3, 3 - half, 3 + half))


def test_spread_and_best() -> None:
    assert stats.spread({"a": 1.0, "b": 4.0, "c": nan}) == 3.0
    assert math.isnan(stats.spread({"a": 1.0, "b": nan}))
    assert stats.best([1.0, None, 3.0, 3.0], lower_is_better=False) == 2
    assert stats.best([2.0, None, 1.0], lower_is_better=True) == 2
    assert stats.best([None, nan], lower_is_better=False) is None


def test_interference_by_hand() -> None:
    """Two orders of two tasks; row: task learnt, column: task scored.

    order a b: before (50, 40), R = [[80], [70, 60]]: learning a: a +30; b not scored. learning b: a -10, b not scored before.
    order b a: no `before`, R (b, a) = [[90, 45], [70, 85]]: learning a (second): b -20, a +40.
    """
    runs = [
        (["a", "b"], [[80.0, None], [70.0, 60.0]], [50.0, 40.0]),
        (["b", "a"], [[90.0, 45.0], [70.0, 85.0]], None),
    ]
    found = stats.interference(runs, ["a", "b"])
    expected = [[(30 + 40) / 2, -20.0], [-10.0, nan]]
    np.testing.assert_allclose(found, expected)


CHIP = {"processor": "Chip", "cores": 2, "threads": 1, "accelerator": None}


def entry(
    last: float | None, seconds: float | None = None, state: int = 0, machine: dict[str, Any] | None = CHIP
) -> dict[str, Any]:
    return {
        "summary": {"accuracy": {"last": last}},
        "scores": {},
        "seconds": seconds,
        "train_seconds": None if seconds is None else seconds / 2,
        "peak_memory_gb": 1.0,
        "state_bytes": state,
        "machine": machine,
    }


def group(method: str, values: dict[int, float | None], order: str = "given", **more: Any) -> Group:
    runs = {seed: entry(v, **more) for seed, v in values.items()}
    return Group(method, method, {}, order, "tiny", runs)


def test_table_and_difference() -> None:
    ours, base = group("replay", {0: 70.0, 1: 80.0, 2: 84.0}), group("sequential", {0: 60.0, 1: 70.0})
    first, second = _table([ours, base], "sequential")
    assert first["metrics"]["accuracy"]["last"]["mean"] == pytest.approx(78)
    assert first["metrics"]["accuracy"]["last"]["values"] == [70.0, 80.0, 84.0]
    # Paired: +10 for either seed, without any spread, although the means differ by 13.
    same = {"mean": 10.0, "low": 10.0, "high": 10.0, "p": 0.0, "holm": 0.0}
    assert first["difference"]["accuracy"]["last"] == same
    assert second["difference"] is None
    assert math.isnan(first["metrics"]["accuracy"]["bwt"]["mean"])
    assert _table([ours], None)[0]["difference"] is None


def test_baseline_of_a_swept_setting_is_the_same_setting() -> None:
    def at(method: str, theta: float | None) -> Group:
        return Group(
            method, method, {} if theta is None else {"strategy.theta": theta}, "given", "tiny", {0: entry(1.0)}
        )

    rows = [at("a", 0.5), at("b", 0.5), at("b", 0.9), at("c", None)]
    assert _baseline(rows[1], rows, "a") is rows[0]
    assert _baseline(rows[2], rows, "a") is None
    assert _baseline(rows[1], rows, "c") is rows[3]
    assert rows[0].label == shown("a", {"strategy.theta": 0.5}) == "a theta=0.5"
    assert _difference(rows[0], None) is None


def test_orders_and_cost() -> None:
    rows = [
        group("sequential", {0: 50.0, 1: 60.0}, seconds=10.0),
        group("sequential", {0: 80.0, 1: None}, "reversed", seconds=30.0),
        group("replay", {0: 1.0}, seconds=60.0, state=7),
        group("ewc", {0: 1.0}),
    ]
    found = _orders_spread(rows)
    assert set(found) == {"sequential"}, "one order has no spread"
    assert found["sequential"]["accuracy"]["last"] == {"spread": 25.0, "by_order": {"given": 55.0, "reversed": 80.0}}
    cost = _cost(rows)
    assert cost["sequential"]["seconds"] == 20 and cost["sequential"]["relative"] == 1
    assert cost["replay"]["state_bytes"] == 7 and cost["replay"]["relative"] == 3  # 30 s of training against 10
    assert math.isnan(cost["ewc"]["relative"]), "an interrupted run has no time"
    assert cost["replay"]["machines"] == ["Chip, 2 cores, 1 thread"]


def test_times_of_different_machines_are_not_compared() -> None:
    other, unknown = {**CHIP, "processor": "Other"}, None
    reference = group("sequential", {0: 50.0}, seconds=10.0)
    rows = [
        reference,
        group("replay", {0: 1.0}, seconds=60.0, machine=other),
        group("ewc", {0: 1.0}, seconds=60.0, machine=unknown),
        group("si", {0: 1.0}, seconds=20.0),
    ]
    cost = _cost(rows)
    assert math.isnan(cost["replay"]["relative"]) and math.isnan(cost["ewc"]["relative"])
    assert cost["si"]["relative"] == 2 and relative_time(cost["si"]) == 2
    # An earlier program kept no machine, and a ratio all the same.
    assert relative_time({"relative": 0.46, "train_seconds": 72.6}) is None
    unrecorded = _cost([group("sequential", {0: 1.0}, seconds=10.0, machine=None)])
    assert math.isnan(unrecorded["sequential"]["relative"])


def test_paired_p_by_hand() -> None:
    # Differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom; p = 1 - t / sqrt(t^2 + 2) = 0.07418.
    ours, theirs = {0: 11.0, 1: 12.0, 2: 13.0, 3: None}, {0: 10.0, 1: 10.0, 2: 10.0, 3: 1.0}
    assert stats.paired_p(ours, theirs) == pytest.approx(0.07418, abs=1e-5)
    assert stats.paired_p(theirs, ours) == stats.paired_p(ours, theirs)
    assert math.isnan(stats.paired_p({0: 1.0}, {0: 2.0}))
    assert stats.paired_p({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == 1
    # The interval of Student's t and the test agree.
    low, high = stats.paired(ours, theirs)[1:]
    assert low < 0 < high


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04; never below the one before: .04 .06 .06 .06.
    assert stats.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.03, None, nan, 0.5]) == [pytest.approx(0.06), None, None, pytest.approx(0.5)]
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0] and stats.holm([]) == []


def test_upper_bounds_are_not_in_the_family_of_tests() -> None:
    base = group("sequential", {0: 10.0, 1: 10.0, 2: 10.0})
    values = {"a": {0: 11.0, 1: 12.0, 2: 13.0}, "b": {0: 10.0, 1: 11.0, 2: 9.0}, "joint": {0: 20.0, 1: 21.0, 2: 23.0}}
    rows = {r["method"]: r for r in _table([base, *(group(m, v) for m, v in values.items())], "sequential")}
    found = {m: rows[m]["difference"]["accuracy"]["last"] for m in values}
    assert found["a"]["holm"] == pytest.approx(2 * found["a"]["p"]), "two methods are tested"
    assert found["b"]["p"] == 1 and found["b"]["holm"] == 1
    assert "holm" not in found["joint"] and found["joint"]["p"] < 0.05
