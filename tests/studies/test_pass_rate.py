"""What a study chooses by and shows: accuracy and pass rate beside each other, and AP only where all of R was scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifealign.core.errors import ConfigError
from lifealign.studies.config import SelectionConfig, load_study
from lifealign.studies.engine import table_lines
from lifealign.studies.report.lines import scores_of
from lifealign.studies.report.tables import all_tables
from lifealign.studies.results import decisive
from support.study_document import make_study
from support.study_page import table_named

BOTH = "last.accuracy+last.pass_rate"


def study(directory: Path, metric: str, evaluate: dict[str, Any], stream: dict[str, Any] | None = None) -> Path:
    path = directory / "study.yaml"
    base = {"model": {"name": "x"}, "stream": stream or {"planted": {}}, "evaluate": evaluate}
    tree = {"name": "s", "base": base, "methods": ["replay"], "selection": {"metric": metric}}
    path.write_text(yaml.safe_dump(tree))
    return path


TASKS = {"tasks": [{"name": "tone", "train": {"path": "tone.jsonl"}}]}
RULED = {"tasks": [{**TASKS["tasks"][0], "checker": "data-json"}]}


@pytest.mark.parametrize(
    ("metric", "evaluate", "stream", "message"),
    [
        ("last.pass_rate", {}, None, "pass_rate is measured on answers, but base.evaluate.generations is 0"),
        (BOTH, {}, None, "pass_rate is measured on answers, but base.evaluate.generations is 0"),
        ("last.pass_rate", {"generations": 4}, TASKS, "pass_rate needs a task with a rule; name one as its `checker`"),
        (
            "last.chrf",
            {"generations": 4},
            None,
            "chrf is not measured; name it in base.evaluate.scores or .text_metrics",
        ),
        ("ap.accuracy", {"cells": "ends"}, None, "ap needs all cells of R, but base.evaluate.cells is ends"),
        ("last.accuracy+last.nll", {}, None, "the mean of numbers with different units or directions says nothing"),
        ("last.accuracy+last.passrate", {}, None, "expected SUMMARY.SCORE, or several joined by +; summaries: last, "),
        ("last.accuracy+", {}, None, "expected SUMMARY.SCORE, or several joined by +; summaries: last, "),
    ],
)
def test_a_metric_that_the_runs_would_not_measure_is_refused(
    tmp_path: Path, metric: str, evaluate: dict[str, Any], stream: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(study(tmp_path, metric, evaluate, stream))
    assert "selection.metric: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(("metric", "evaluate"), [(BOTH, {"generations": 4}), ("bwt.pass_rate", {"generations": 1})])
def test_the_pass_rate_can_choose(tmp_path: Path, metric: str, evaluate: dict[str, Any]) -> None:
    assert load_study(study(tmp_path, metric, evaluate))[0].selection.metric == metric
    for stream in (RULED, {"contested": {}}):
        assert load_study(study(tmp_path, metric, evaluate, stream))[0].selection.metric == metric


def test_a_plus_in_a_path_joins_nothing() -> None:
    metric = "last.accuracy + last.a+b/my.py:f+bwt.c+d.py:g"
    parts = SelectionConfig(metric=metric).parts
    assert parts == [("last", "accuracy"), ("last", "a+b/my.py:f"), ("bwt", "c+d.py:g")]


def test_the_mean_of_several_metrics_decides_and_a_missing_one_is_missing() -> None:
    parts = SelectionConfig(metric=BOTH).parts
    record = {"summary": {"accuracy": {"last": 90.0}, "pass_rate": {"last": 30.0}}}
    assert decisive(parts, record) == 60
    assert decisive(parts, {"summary": {"accuracy": {"last": 90.0}}}) is None
    assert decisive(parts, {"summary": {**record["summary"], "pass_rate": {"last": math.nan}}}) is None


# --- what is shown ---


@pytest.fixture
def results() -> dict[str, Any]:
    """A study whose pass rates were measured, as 10 points below accuracy."""
    made = make_study()
    for run in made["runs"]:
        if run["status"] == "done":
            run["scores"]["pass_rate"] = run["scores"]["accuracy"]
            run["summary"]["pass_rate"] = run["summary"]["accuracy"]
    for line in made["table"]:
        line["metrics"]["pass_rate"] = line["metrics"]["accuracy"]
        if line["difference"]:
            line["difference"]["pass_rate"] = line["difference"]["accuracy"]
    return made


def test_the_pass_rate_is_shown_beside_accuracy_with_intervals_and_differences(results: dict[str, Any]) -> None:
    assert scores_of(results) == ["accuracy", "pass_rate", "nll"], "also where they were stored in another order"
    main = table_named(results, "main-given")
    assert [(c.above, c.label) for c in main.columns[3:6]] == [("Pass rate, %", k) for k in ("BWT", "Last", "AP")]
    cells = dict(main.rows)["sequential"]
    assert cells[4].text and cells[4].low and cells[4].high
    assert table_named(results, "difference-pass-rate-given").rows


def test_the_terminal_shows_the_pass_rate_beside_what_was_chosen_by(results: dict[str, Any]) -> None:
    head, *_ = table_lines(results, ["accuracy"])
    assert " ".join(head.split()) == "method order model last accuracy bwt ap last pass_rate bwt ap"
    assert table_lines(results, ["pass_rate", "accuracy"])[0].split()[3:5] == ["last", "pass_rate"]
    assert "pass_rate" not in table_lines(make_study(), ["accuracy"])[0]


def test_the_terminal_cuts_intervals_at_what_a_score_can_reach(results: dict[str, Any]) -> None:
    line = results["table"][0]
    line["metrics"]["accuracy"] |= {
        "last": {"mean": 87.5, "low": -18.39, "high": 193.39},
        "bwt": {"mean": -25.0, "low": -236.77, "high": 186.77},
        "ap": {"mean": 50.0, "low": 50.0, "high": 50.0},
    }
    shown = table_lines(results, ["accuracy"])[1]
    assert "87.5 [0.0, 100.0]  -25.0 [-236.8, 186.8]  50.0" in " ".join(shown.split(" ")).replace("   ", "  ")
    assert "50.0 [" not in shown, "seeds that agree do not make a mean certain"


def without_ap(results: dict[str, Any], methods: set[str]) -> dict[str, Any]:
    """The study with only the ends of R of some methods."""
    missing = {"mean": None, "low": None, "high": None, "values": []}
    for run in results["runs"]:
        for held in run["scores"].values() if run["method"] in methods else ():
            held["R"][1][0] = None
    for line in results["table"]:
        for held in line["metrics"].values() if line["method"] in methods else ():
            held |= {"ap": missing, "forgetting": missing}
    return results


def test_ap_is_named_as_not_measured_and_has_no_column(results: dict[str, Any]) -> None:
    ends = without_ap(results, {line["method"] for line in results["table"]})
    main = table_named(ends, "main-given")
    assert [c.label for c in main.columns] == ["BWT", "Last"] * 3
    assert " Not measured: AP. " in main.note
    assert "Not measured: AP, Forgetting" in table_named(ends, "summary-accuracy-given").note
    assert "Not measured" not in table_named(make_study(), "main-given").note


def test_ap_of_one_stage_alone_makes_no_column(results: dict[str, Any]) -> None:
    """Joint training has one stage, whose mean is its AP; beside methods without AP it is not shown."""
    methods = {line["method"] for line in results["table"]}
    ends = without_ap(results, methods - {"replay"})
    assert "AP" in [c.label for c in table_named(ends, "main-given").columns], "measured whole, so shown"
    for run in ends["runs"]:
        if run["method"] == "replay":
            for held in run["scores"].values():
                held["R"][:-1] = [[None] * 3] * 2
    assert "AP" not in [c.label for c in table_named(ends, "main-given").columns]


def test_every_table_of_a_study_of_ends_can_be_made(results: dict[str, Any]) -> None:
    ends = without_ap(results, {line["method"] for line in results["table"]})
    for by_score in ends["orders_spread"].values():
        for held in by_score.values():
            held["ap"] = {"spread": None, "by_order": {"given": None, "reversed": None}}
    (spread,) = [t for t in all_tables(ends)["spread"] if t.name == "orders-accuracy"]
    assert {c.above for c in spread.columns} == {"BWT", "Last"}
