"""A matrix with only its diagonal and its last row: what is defined, and what is not computed from holes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lifealign.evaluation import catalog
from lifealign.evaluation import metrics as m

NAN = math.nan
FULL = [[90.0], [60.0, 80.0], [50.0, 70.0, 100.0], [40.0, 60.0, 90.0, 70.0]]
ENDS = [[90.0], [NAN, 80.0], [NAN, NAN, 100.0], FULL[3]]


def test_holes_are_cells_of_scored_stages_and_tasks() -> None:
    found = m.holes(ENDS)
    assert [(int(k), int(j)) for k, j in np.argwhere(found)] == [(1, 0), (2, 0), (2, 1)]
    assert not m.holes(FULL).any() and not m.holes([]).any()


def test_a_stage_or_a_task_without_any_score_has_no_holes() -> None:
    assert not m.holes([[None] * 3, [None] * 3, [90.0, 80.0, 100.0]]).any()  # joint training
    assert not m.holes([[None], [None, 80.0], [None, 70.0, 100.0]]).any()  # the first task has no such score
    assert not m.holes([[90.0], [60.0, 80.0], [None, None, None]]).any()  # a killed run: the last row is missing


def test_a_retired_task_has_no_holes_after_its_end_and_the_others_have() -> None:
    """The first task was retired by the third stage; the second column ends nowhere."""
    gone = [[90.0], [60.0, 80.0], [NAN, 70.0, 100.0]]
    assert m.holes(gone)[2, 0] and not m.holes(gone, [2, 3, 3]).any()
    assert math.isnan(m.ap(gone)) and m.ap(gone, [2, 3, 3]) == pytest.approx((90 + 70 + 85) / 3)
    more = [*gone, [NAN, 60.0, 90.0, 70.0]]
    assert math.isnan(m.forgetting(more)) and m.forgetting(more, [2, 4, 4, 4]) == pytest.approx(
        (80 - 60 + 100 - 90) / 2
    )
    more[2][1] = NAN
    assert math.isnan(m.ap(more, [2, 4, 4, 4])) and math.isnan(m.forgetting(more, [2, 4, 4, 4]))


@pytest.mark.parametrize("name", ["last", "bwt", "learning_accuracy"])
def test_the_diagonal_and_the_last_row_are_enough_for(name: str) -> None:
    of = catalog.summary(name).of
    assert of(m.as_matrix(ENDS), [], ()) == of(m.as_matrix(FULL), [], ())


def test_by_hand() -> None:
    assert m.last(ENDS) == 65 and m.bwt(ENDS) == pytest.approx((-50 - 20 - 10) / 3)


@pytest.mark.parametrize("of", [m.ap, m.forgetting])
def test_what_needs_the_whole_triangle_is_not_computed_from_holes(of: m.SummaryOfR) -> None:
    assert math.isfinite(of(m.as_matrix(FULL)))
    assert math.isnan(of(m.as_matrix(ENDS)))
    one = [list(row) for row in FULL]
    one[2][0] = NAN
    assert math.isnan(of(m.as_matrix(one))), "one hole is enough"
    assert of(m.as_matrix([[90.0], [60.0, 80.0]])) == of(m.as_matrix([FULL[0], FULL[1]])), "two tasks have no holes"


def test_a_hole_has_no_interval() -> None:
    samples = [[[v] * 4 if not math.isnan(v) else [] for v in row] for row in ENDS]
    got = m.bootstrap_summaries(samples, {"ap": m.ap, "bwt": m.bwt}, resamples=20)
    assert all(math.isnan(v) for v in got["ap"]) and got["bwt"].value == pytest.approx(-80 / 3)
