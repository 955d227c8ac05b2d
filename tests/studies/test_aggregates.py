"""Aggregates over tasks and seeds: values by hand, intervals that widen with the spread, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lifealign.studies.report.aggregates import aggregate, aggregate_tables, improvement, interquartile_mean, mean
from lifealign.studies.report.write import checked
from support.study_document import make_study


def arrays(*tasks: list[float]) -> list[Any]:
    return [np.array(task, dtype=float) for task in tasks]


def test_the_interquartile_mean_is_of_the_middle_half() -> None:
    assert interquartile_mean(*arrays([0, 10, 20, 30], [40, 50, 60, 1000])) == pytest.approx((20 + 30 + 40 + 50) / 4)
    assert mean(*arrays([0, 10], [50, 50, 50])) == pytest.approx(27.5), "each task weighs the same"


def test_an_interval_resamples_seeds_within_each_task() -> None:
    same = aggregate(arrays([50, 50, 50], [100, 100, 100]), mean)
    assert (same.value, same.low, same.high) == (75, 75, 75), "tasks differ, but they are not resampled"
    spread = aggregate(arrays([40, 50, 60], [100, 100, 100]), mean)
    # The mean of three draws of 40, 50, 60 is at most 60, with chance 1/27 > 2.5%: so the ends are those of the draws.
    assert (spread.value, spread.low, spread.high) == (75, 70, 80)
    assert aggregate(arrays([40, 50, 60], [100, 100, 100]), mean) == spread, "the same bytes each time"


@pytest.mark.parametrize(
    ("ours", "theirs", "sign", "value"),
    [
        (([1, 2], [1, 2]), ([0, 0], [3, 3]), 1, 50.0),  # all of one task, none of the other
        (([1, 2],), ([1, 2],), 1, 50.0),  # one of four pairs wins, two tie
        (([1, 2],), ([0, 1],), 1, 87.5),
        (([1, 2],), ([0, 1],), -1, 12.5),  # lower is better
    ],
)
def test_the_chance_to_beat_another(ours: Any, theirs: Any, sign: int, value: float) -> None:
    assert improvement(arrays(*ours), arrays(*theirs), sign).value == pytest.approx(value)


def test_tables_name_what_is_left_out_and_the_own_method_is_not_compared_with_itself() -> None:
    study = make_study()
    tables = {table.name: table for table in aggregate_tables(checked(study))}
    nll = next(table for name, table in tables.items() if "nll" in name and "given" in name)
    assert [column.label for column in nll.columns] == ["IQM", "Mean", "Beats lifealign, %"]
    rows = dict(nll.rows)
    assert rows["lifealign"][2].text == "–" and rows["replay"][2].value == pytest.approx(0.0), "a lower NLL is better"
    accuracy = next(table for name, table in tables.items() if "accuracy" in name and "given" in name)
    assert "replay" not in dict(accuracy.rows) and "replay" in accuracy.note, "a task lacks one of its three seeds"
    for run in study["runs"]:
        run["status"] = "done" if run["seed"] == 0 else "pending"
    assert not aggregate_tables(checked(study)), "one seed says nothing"
