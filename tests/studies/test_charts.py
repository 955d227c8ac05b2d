"""A study's charts: means, fronts, sensitivity, bars."""

from __future__ import annotations

from typing import Any

import pytest

from lifealign.studies.report import charts, views
from support.study_document import LAMBDA, make_run, make_study


@pytest.fixture
def study() -> dict[str, Any]:
    return make_study()


def test_heatmaps_are_means_over_the_seeds_that_measured_a_cell(study: dict[str, Any]) -> None:
    wanted = {"score": "accuracy", "order": "given", "model": "tiny", "method": "replay"}
    view = next(v for v in views.heatmaps(study) if v["show"] == wanted)
    assert [row["label"] for row in view["rows"]] == ["before", "after poems", "after facts", "after code"]
    # facts after code: 66 + s / 2 + 3 - 1.5 for seeds 0 and 2 (seed 1 was not measured): 67.5 and 68.5.
    cell = view["rows"][3]["cells"][1]
    assert (cell["value"], cell["partial"]) == (68.0, True)
    assert cell["singles"] == "seed 0: 67.5; seed 1: not measured; seed 2: 68.5"
    assert view["rows"][1]["cells"][1:] == [None, None]


def test_the_front_holds_what_no_other_method_beats_in_both(study: dict[str, Any]) -> None:
    for line, (learnt, kept) in zip(study["table"][::2], [(70.0, -3.0), (60.0, -1.0), (65.0, -3.5)], strict=True):
        line["metrics"]["accuracy"]["learning_accuracy"] = {"mean": learnt, "low": None, "high": None}
        line["metrics"]["accuracy"]["bwt"] = {"mean": kept, "low": None, "high": None}
    view = next(v for v in views.pareto(study) if v["show"]["order"] == "given")
    assert {p["method"]: p["front"] for p in view["points"]} == {"lifealign": True, "replay": True, "sequential": False}
    nll = next(v for v in views.pareto(study) if v["show"]["score"] == "nll")
    # Less is better in both: the start is 2 - start / 100, the loss grows with the method.
    assert {p["method"] for p in nll["points"] if p["front"]} == {"lifealign"}


def test_a_wide_interval_is_cut_at_the_edge_of_the_plot(study: dict[str, Any]) -> None:
    for line, learnt in zip(study["table"][::2], (70.0, 60.0, 65.0), strict=True):
        line["metrics"]["accuracy"]["learning_accuracy"] = {"mean": learnt, "low": learnt - 500, "high": learnt + 2}
        line["metrics"]["accuracy"]["bwt"] = {"mean": -learnt / 10, "low": None, "high": None}
    view = next(v for v in views.pareto(study) if v["show"]["order"] == "given")
    assert view["limits"]["x"] == (59.0, 71.0) and view["limits"]["y"] == pytest.approx((-7.1, -5.9))
    drawn = charts.pareto(view)
    for point in drawn["drawn"]:
        ((left, _), (right, _)) = point["whiskers"][0]
        assert drawn["frame"]["left"] == left < point["at"][0] < right


def test_a_method_without_bwt_is_named_beside_the_plot(study: dict[str, Any]) -> None:
    study["table"][0]["metrics"]["accuracy"]["bwt"]["mean"] = None
    view = views.pareto(study)[0]
    assert view["missing"] == ["lifealign"] and len(view["points"]) == 2


def test_sensitivity_is_one_line_over_the_values_with_means_over_seeds(study: dict[str, Any]) -> None:
    view = next(v for v in views.sensitivity(study) if v["show"]["score"] == "accuracy" and v["key"] == "last")
    assert view["values"] == ["0.25", "0.5", "1"]
    assert [line["label"] for line in view["lines"]] == ["lifealign"]
    # 70 + s / 2 + shift + 3 - 0.75 for seeds 0 and 1: 72.5 + shift.
    assert [p["value"] for p in view["lines"][0]["points"]] == [70.5, 72.5, 71.5]
    # Two values 0.5 apart: standard error 0.25, and t of one degree of freedom is 12.706.
    assert view["lines"][0]["points"][0]["high"] == pytest.approx(70.5 + 12.706 * 0.25)


def test_runs_that_differ_in_more_than_the_setting_are_lines_of_their_own(study: dict[str, Any]) -> None:
    more = [make_run("lifealign", "given", 0, {LAMBDA: v, "train.epochs": 2}) for v in (0.25, 1.0)]
    study["runs"] += more
    lines = views.sensitivity(study)[0]["lines"]
    assert [line["label"] for line in lines] == ["lifealign", "train.epochs=2"]
    assert lines[1]["points"][1] is None
    drawn = charts.sensitivity(views.sensitivity(study)[0])["drawn"]
    # The gap is no line: two single points.
    assert drawn[1]["paths"] == [] and len(drawn[1]["marks"]) == 2 and len(drawn[0]["paths"]) == 1


def test_dots_are_sorted_and_missing_ones_are_not_drawn(study: dict[str, Any]) -> None:
    study["table"] = [line for line in study["table"] if (line["method"], line["order"]) != ("replay", "reversed")]
    view = next(v for v in views.bars(study) if v["show"]["score"] == "accuracy" and v["key"] == "last")
    drawn = charts.dots(view)
    assert [(b["name"], b["kind"]) for b in drawn["blocks"]] == [
        ("lifealign", "own"),
        ("replay", ""),
        ("sequential", ""),
    ]
    there, missing = drawn["blocks"][1]["dots"]
    assert missing["at"] is None and "x" not in missing and there["x"] < drawn["base"]
    view["rows"][0]["values"][0] |= {"value": 99.0, "high": 100.0}
    assert charts.dots(view)["axis"][-1]["text"] == "100", "an axis of a share ends at 100"


def test_the_front_is_a_stair(study: dict[str, Any]) -> None:
    for line, (learnt, kept) in zip(study["table"][::2], [(70.0, -3.0), (60.0, -1.0), (65.0, -2.0)], strict=True):
        line["metrics"]["accuracy"]["learning_accuracy"] = {"mean": learnt, "low": None, "high": None}
        line["metrics"]["accuracy"]["bwt"] = {"mean": kept, "low": None, "high": None}
    view = next(v for v in views.pareto(study) if v["show"]["order"] == "given")
    assert views.stair(view) == [(60.0, -1.0), (60.0, -2.0), (65.0, -2.0), (65.0, -3.0), (70.0, -3.0)]
