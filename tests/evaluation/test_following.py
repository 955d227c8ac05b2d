"""Scores of a drifting preference, exactly: with a tabular examinee, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lifealign.data.extrapolation import MOST, coefficients, extrapolated, next_vote, pair_key
from lifealign.data.suites.drifting import SUITE_OF_DRIFT, pairs_of
from lifealign.data.suites.drifting_rules import DRIFTS, STEPS, phi
from lifealign.data.tasks import Row, turns_of
from lifealign.evaluation import metrics
from lifealign.evaluation.following import (
    Array,
    Tabular,
    add_follow,
    coevolve,
    cosine,
    follow,
    predict,
    scores,
    value_vector,
)

D = np.array([np.subtract(phi(pair.one), phi(pair.other)) for pair in pairs_of("train")]) / 2


def path(drift: str, steps: int = STEPS + 3) -> Array:
    return np.array([DRIFTS[drift](step) for step in range(1, steps + 1)])


def life(drift: str, order: int | None, ahead: int = 1) -> Array:
    """Value vectors [T, K] of a tabular examinee after each step; order None: it learns the first step alone."""
    examinee, votes, found = Tabular(np.zeros(D.shape[1])), list[Array](), []
    for w in path(drift, STEPS):
        votes.append(np.sign(D @ w))
        if order is None and len(votes) > 1:
            found.append(examinee.theta)
            continue
        past = [[int(v[i]) for v in votes] for i in range(len(D))]
        wanted = np.array([next_vote(one, order or 0, ahead) for one in past], float)
        examinee.learn(D, np.clip(wanted, -MOST, MOST))
        found.append(examinee.theta)
    return np.array(found)


def test_coefficients_and_their_differences() -> None:
    """ProgressGym: M=0 [1], M=1 [-1, 2], M=2 [1, -3, 3], oldest first, as the specification recomputes them."""
    assert [coefficients(m) for m in range(3)] == [(1,), (-1, 2), (1, -3, 3)]
    cubes = [n**2 - 3 * n for n in range(7)]
    assert next_vote(cubes[:4], 2) == cubes[4] and next_vote(cubes[:4], 2, ahead=3) == cubes[6]  # exact for a square


def test_a_missing_vote_lowers_the_order_and_is_no_zero() -> None:
    """The bug of the authors' code: (0, 1, 1) of order 2 with a missing vote stored as 0 gave 0."""
    assert sum(c * v for c, v in zip(coefficients(2), (0, 1, 1), strict=True)) == 0
    assert next_vote([None, 1, 1], 2) == 1
    assert next_vote([-1, None, 1], 2) == 1  # only the newest follows the gap
    assert next_vote([-1, 1], 2) == 3  # order 1 of two votes
    assert next_vote([1, None], 1) is None and next_vote([], 0) is None


def test_rows_of_the_next_step() -> None:
    row = Row(tuple(turns_of("p")), "a", "b")
    key, vote = pair_key(row)
    assert (key, -vote) == pair_key(replace(row, chosen="b", rejected="a"))
    same = extrapolated([row], [{key: vote}], 1)
    assert same.rows == (row,) and (same.swapped, same.repeated, same.lowered) == (0, 0, 0)
    assert extrapolated([row], [{key: -vote}], 1).rows == (row,) * 3  # 2 + 1
    assert extrapolated([row], [{key: -vote}] * 2, 1, ahead=4).rows == (row,) * MOST  # 9, capped
    turned = extrapolated([row], [{key: vote}, {key: -vote}], 2)  # 1 + 3 + 3
    assert turned.rows == (row,) * MOST and turned.repeated == MOST - 1
    swapped = extrapolated([row], [{key: -vote}, {key: -vote}, {key: -vote}], 3, ahead=1)
    assert swapped.rows[0] == row
    missing = extrapolated([row], [{}], 1)
    assert missing.rows == (row,) and missing.lowered == 1
    assert extrapolated([row, row], [{key: -vote}], 0).rows == (row, row)  # order 0 is Lifelong-DPO
    alone = Row(tuple(turns_of("p")), "a", "", kind="demonstration")
    assert extrapolated([alone], [{}], 2).rows == (alone,)


def test_a_linear_drift_is_predicted_better_by_a_higher_order() -> None:
    """The exact test of the ProgressGym section: order 1 > order 0 (Lifelong-DPO) > frozen in Predict; Follow of order 0 > frozen."""
    people = path("linear")
    first, zero, frozen = (predict(life("linear", order), people, 1) for order in (1, 0, None))
    assert first > zero + 0.02 and zero > frozen + 0.1
    assert follow(life("linear", 0), people) > follow(life("linear", None), people)


def test_after_a_jump_the_order_does_not_help() -> None:
    """Its negative control: nothing before a jump tells of it, so a higher order predicts it no better."""
    people = path("jump")
    first, zero = (predict(life("jump", order)[:3], people, 1) for order in (1, 0))  # up to the jump
    assert first == pytest.approx(zero, abs=1e-12)
    second, first, zero = (predict(life("jump", order), people, 1) for order in (2, 1, 0))
    assert abs(first - zero) < 0.02 and second < zero - 0.1


def test_limits_of_the_scores() -> None:
    people = path("linear", 4)
    assert follow(people, people) == pytest.approx(1) == predict(people[1:], people[1:], 0)
    assert follow(3 * people, people) == pytest.approx(1)  # directions alone count
    assert follow(-people, people) == pytest.approx(-1) and follow(0 * people, people) == 0
    later = [cosine(people[t], people[t + 1]) for t in range(3)]
    assert predict(people, people, 1) == pytest.approx(np.mean(later)) and predict(people[1:], people, 0) < 1
    assert math.isnan(predict(people, people, 4))
    # People who stay on their own path: each cell's maximum is found by hand for two steps at a right angle.
    assert coevolve([[1, 0], [0, 1]], [[1, 0], [0, 1]]) == pytest.approx((1 + 0 + 1 + 1) / 4)
    assert coevolve([[0, 1], [0, 1]], [[1, 0], [0, 1]]) == pytest.approx(1)  # a model that led them ahead at once
    found = scores(people, people, (1,))
    assert found["follow"] == pytest.approx(1) and found["frozen_follow"] < 1 and set(found) == {
        "follow", "frozen_follow", "predict_1", "frozen_predict_1"
    }  # fmt: skip


def test_a_value_vector_is_the_mean_log_odds_of_an_attribute_whichever_side_it_is_on() -> None:
    w = np.array(DRIFTS["linear"](2))
    rows = SUITE_OF_DRIFT["linear"].stream().tasks[1].test
    odds = [float(w @ np.subtract(phi(row.chosen), phi(row.rejected))) for row in rows]
    assert value_vector(rows, odds) == pytest.approx(2 * w)
    assert value_vector(rows, [None] * len(rows)) == pytest.approx(0 * w)
    assert cosine(value_vector(rows, odds), w) == pytest.approx(1)


def test_cells_of_follow_are_cosines_and_their_summaries_the_scores() -> None:
    """PG-Follow is the mean of the diagonal of R[k][j] = cos(v(E_k), v(H_j)), and PG-Predict(1) its forward transfer."""
    tasks = {task.name: task.test for task in SUITE_OF_DRIFT["linear"].stream(1, 0, 30).tasks}
    values, people = life("linear", 1), path("linear", STEPS)
    names = list(tasks)
    cells: dict[str, dict[str, dict[str, list[float | None]]]] = {"root": {names[0]: {"margin": [0.0] * 30}}}
    for name, v in zip(names, values, strict=True):
        odds = [float(v @ np.subtract(phi(row.chosen), phi(row.rejected))) for row in tasks[name]]
        cells[name] = {name: {"margin": list(odds)}}
    add_follow(cells, tasks)
    R = np.array([[np.mean(cells[k][j]["follow"]) for j in names] for k in names])
    assert pytest.approx(np.array([[cosine(v, w) for w in people] for v in values])) == R
    assert metrics.learning_accuracy(R) == pytest.approx(follow(values, people))
    before = [float(np.mean(cells["root"][j]["follow"])) for j in names]
    assert metrics.forward_transfer(R, before) == pytest.approx(predict(values, people, 1)) and before == [0.0] * STEPS
