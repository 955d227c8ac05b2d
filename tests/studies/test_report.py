"""The report of a study: its numbers, its files, and the command. Nothing is invented, everything is escaped."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.core.errors import StoreError
from lifealign.studies.report import form
from lifealign.studies.report import write as study_report
from lifealign.studies.report.charts import rank_chart
from lifealign.studies.report.frame import COLUMNS, load_study
from lifealign.studies.report.overview import ranks, sentences
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.write import checked, render_html, runs_csv, table_csv, write_study_report
from support.paths import ROOT
from support.study_document import make_study
from support.study_page import table_named


class Page(HTMLParser):
    """Text, attributes and the numbers behind <data>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def numbers(self) -> set[float]:
        return {float(attributes["value"] or "nan") for tag, attributes in self.tags if tag == "data"}


@pytest.fixture
def study() -> dict[str, Any]:
    return make_study()


def small_study() -> dict[str, Any]:
    """One score and one order, for slow tests."""
    study = make_study()
    study["axes"] = {}
    study["runs"] = [r for r in study["runs"] if r["order"] == "given" and not r["settings"]]
    study["table"] = [line for line in study["table"] if line["order"] == "given"]
    for held in (*(r["scores"] for r in study["runs"]), *(line["metrics"] for line in study["table"])):
        held.pop("nll", None)
    return study


# --- every number -----------------------------------------------------------------------------------------------------


def test_every_number_of_the_results_is_on_the_page(study: dict[str, Any]) -> None:
    page = Page(render_html(study))
    shown = page.numbers()
    expected = [
        held["mean"]
        for line in study["table"]
        for m in line["metrics"].values()
        for held in m.values()
        if held["mean"] is not None
    ]
    expected += [v for by in study["interference"].values() for row in by["matrix"] for v in row if v is not None]
    # A relative time without the machines that it was measured on is not shown (`comparison.relative_time`).
    costs = [(key, v) for stored in study["cost"].values() for key, v in stored.items()]
    expected += [v for key, v in costs if v is not None and key != "relative"]
    expected += [t["value"] for t in study["selection"]["replay"]["trials"] if t["value"] is not None]
    expected += [s["spread"] for by in study["orders_spread"].values() for m in by.values() for s in m.values()]
    assert len(expected) == 96
    assert [v for v in expected if v not in shown] == []
    # A single seed's cell stands in the title of the mean's cell.
    titles = " ".join(attributes.get("title") or "" for _, attributes in page.tags)
    assert "code, after code. seed 0: 76.0; seed 1: 76.5; seed 2: 77.0" in titles


def test_the_page_says_how_it_came_about(study: dict[str, Any]) -> None:
    text = Page(render_html(study)).text
    assert "24, 23 done, 1 failed" in text
    assert "validation rows" in text and "test rows" in text
    assert "strategy.share=0.2" in text and "share: at most 1" in text
    assert "train: the loss is not finite at step 7 <nan> & more" in text
    assert "poems → facts → code" in text and "code → facts → poems" in text


def test_runs_csv_has_each_measured_cell_once(study: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(runs_csv(study))))
    cells = [r for r in rows if (r["quantity"], r["metric"]) == ("R", "accuracy") and r["stage"] != "before"]
    # 23 finished runs with 6 cells of the triangle each, and one hole.
    assert len(cells) == 23 * 6 - 1
    own = next(r for r in cells if (r["method"], r["order"], r["seed"]) == ("lifealign", "reversed", "2"))
    # 70 + 2 * 0.5 + 1.25: the first task of the order, learnt first.
    assert (own["stage"], own["task"], float(own["value"])) == ("code", "code", 72.25)
    failed = [r for r in rows if r["status"] == "failed"]
    assert len(failed) == 1 and failed[0]["value"] == failed[0]["metric"] == ""


def test_table_csv_has_means_intervals_and_differences(study: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(study))))
    own = {(r["method"], r["order"], r["metric"], r["summary"]): r for r in rows}
    assert len(own) == len(rows)
    row = own["sequential", "given", "accuracy", "last"]
    # Last of seed s: 58 + s / 2 + 3 - 6.25, so the mean over 0, 1, 2 is 55.25; lifealign has 70.5 + 3 - 0.75 = 72.75.
    assert (float(row["mean"]), row["seeds"]) == (55.25, "0 1 2")
    assert float(row["difference"]) == -17.5
    assert own["lifealign", "given", "accuracy", "last"]["difference"] == ""
    assert ("replay", "given", "nll", "forward_transfer") not in own


# --- the files --------------------------------------------------------------------------------------------------------


def test_names_from_the_results_are_escaped_and_load_nothing(study: dict[str, Any]) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'{{ 7*7 }}"
    text = json.dumps(study).replace("sequential", "SEQ").replace("poems", "POEMS").replace("reversed", "REV")
    changed = json.loads(text)

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {rename(k): rename(v) for k, v in value.items()}
        if isinstance(value, list):
            return [rename(v) for v in value]
        return value + evil if value in ("SEQ", "POEMS", "REV") else value

    changed = rename(changed) | {"study": evil, "note": evil}
    html = render_html(changed)
    page = Page(html)
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"SEQ{evil}" in page.text and f"POEMS{evil}" in page.text
    addresses = [a[k] for _, a in page.tags for k in ("src", "href", "action", "data") if a.get(k)]
    assert all(
        re.fullmatch(r"data:,|#[a-z-]+|tables/[A-Za-z0-9-]+\.(tex|md)|table\.csv", address or "")
        for address in addresses
    )
    assert "://" not in html and "@import" not in html and "url(" not in html


def test_two_names_that_make_one_file_name_keep_their_own_files(study: dict[str, Any], tmp_path: Path) -> None:
    study["interference"] = dict.fromkeys(("a b", "a/b", "A-b", "a-b-2"), study["interference"]["replay"])
    names = [t.name for t in all_tables(study)["interference"]]
    assert names == ["interference-a-b", "interference-a-b-2", "interference-A-b-3", "interference-a-b-2-2"]
    assert len({n.lower() for n in names}) == 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """(results.json, its report): one score, one order, and a name that matplotlib would read as a broken formula."""
    directory = tmp_path_factory.mktemp("report")
    results = directory / "results.json"
    results.write_text(json.dumps(small_study()).replace('"sequential"', '"$\\\\frac$"'), encoding="utf-8")
    files = write_study_report(json.loads(results.read_text(encoding="utf-8")), directory / "out")
    return results, {str(p.relative_to(directory / "out")): p.read_bytes() for p in files}


def test_same_input_same_bytes(written: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """Again in a fresh process, with another hash seed and a user's own settings of matplotlib."""
    results, here = written
    settings, out = tmp_path / "matplotlibrc", tmp_path / "out"
    settings.write_text("font.size: 20\nsavefig.dpi: 30\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "2"}
    command = [sys.executable, "-m", "lifealign", "study-report", str(results), "--out", str(out)]
    subprocess.run(
        command, check=True, env=environment | {"MATPLOTLIBRC": str(settings)}, capture_output=True, timeout=300
    )
    there = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert {"study.html", "results.csv", "table.csv", "tables/main-given.tex", "tables/cost.tex"} <= here.keys()


def test_figures_are_png_and_pdf(written: tuple[Path, dict[str, bytes]]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'lifealign[figures]'")
    figures = {name: data for name, data in written[1].items() if name.startswith("figures/")}
    names = ["orders-bwt", "orders-last", "pareto-given", "scores-given"]
    assert sorted(figures) == sorted(f"figures/accuracy/{name}.{kind}" for name in names for kind in ("pdf", "png"))
    assert all(data.startswith(b"%PDF" if name.endswith("pdf") else b"\x89PNG") for name, data in figures.items())


@pytest.mark.parametrize(
    "key",
    [
        "note",
        "table",
        "selection",
        "orders_spread",
        "interference",
        "cost",
        "axes",
        "orders",
        "baseline",
        "lifealign_version",
    ],
)
@pytest.mark.parametrize("absent", ["left out", "empty"])
def test_a_missing_part_is_left_out(study: dict[str, Any], key: str, absent: str) -> None:
    if absent == "left out":
        del study[key]
    else:
        study[key] = {"table": [], "note": None, "baseline": None, "lifealign_version": None}.get(key, {})
    html = render_html(study)
    assert "made-up study" in html and "76.5" in html
    if key == "table":
        assert "Not measured" not in html.split("Score matrices")[0]
    assert runs_csv(checked(study)) and table_csv(checked(study))


def test_a_study_without_a_finished_run_says_so(study: dict[str, Any], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(study_report, "find_spec", lambda name: None)
    pending = {"status": "pending", "error": None, "scores": {}, "summary": {}}
    study |= {
        "runs": [{**run, **pending} for run in study["runs"]],
        "table": [],
        "orders_spread": {},
        "interference": {},
    }
    written = write_study_report(study, tmp_path)
    text = Page((tmp_path / "study.html").read_text(encoding="utf-8")).text
    assert "no run has finished" in text and "24, 24 pending" in text
    assert "no figures" in study_report.lines(study, written)[-1]
    empty = {"study": "nothing", "runs": []}
    assert "no run has finished" in Page(render_html(empty)).text


def test_numbers_that_are_not_finite_are_missing(study: dict[str, Any]) -> None:
    study["runs"][0]["scores"]["accuracy"]["R"][0][0] = float("nan")
    study["table"][0]["metrics"]["accuracy"]["last"]["mean"] = float("nan")
    html = render_html(study)
    assert "nan" not in Page(html).text.replace("<nan>", "").lower()
    assert dict(table_named(study, "main-given").rows)["lifealign"][1].text is None


def test_scores_that_only_some_runs_have(study: dict[str, Any]) -> None:
    """A text metric that one method measured: the others are shown as not measured, and nothing is ranked."""
    line = study["table"][0]
    line["metrics"]["chrf"] = {"last": {"mean": 31.4159, "low": 30.0, "high": 33.0, "values": [30, 31, 33]}}
    rows = dict(table_named(study, "main-given").rows)
    assert [rows[m][-1].text for m in rows] == ["31.4", None, None]
    assert rows["lifealign"][-1].rank == 0
    assert "chrf" in render_html(study)


def test_a_score_of_which_no_value_is_better_is_not_ranked(study: dict[str, Any]) -> None:
    for i, line in enumerate(study["table"]):
        line["metrics"]["length_words"] = {"last": {"mean": 10.0 + i, "low": 9.0, "high": 30.0, "values": [10, 10, 10]}}
    rows = dict(table_named(study, "main-given").rows)
    assert {cells[-1].rank for cells in rows.values()} == {0} and all(cells[-1].text for cells in rows.values())


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_writes_and_prints_the_main_table(study: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(study_report, "find_spec", lambda name: None)
    (tmp_path / "results.json").write_text(json.dumps(study), encoding="utf-8")
    result = CliRunner().invoke(app, ["study-report", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "study made-up study: 23 done, 1 failed" in result.stdout
    assert re.search(r"^replay +68.0 \[.*-2.5 \[", result.stdout, re.MULTILINE)
    assert re.search(r"^sequential +55.2 \[.*-9.4 +61.5 \[", result.stdout, re.MULTILINE), (
        "its seeds agree in BWT: no interval"
    )
    assert (tmp_path / "out" / "study.html").exists()


def test_what_is_shown_can_be_chosen(study: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(study_report, "find_spec", lambda name: None)
    (tmp_path / "results.json").write_text(json.dumps(study), encoding="utf-8")
    call = ["study-report", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")]
    chosen = ["--metric", "accuracy", "--summaries", "last,learning_accuracy", "--methods", "sequential,lifealign"]
    result = CliRunner().invoke(app, [*call, *chosen, "--highlight", "sequential", "--style", "mean-sd"])
    assert result.exit_code == 0, result.output
    # Seeds 0, 1, 2 lie 0.5 apart.
    assert re.search(r"^sequential +55.2 ± 0.5 +61.5 ± 0.5", result.stdout, re.MULTILINE)
    html = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "NLL" not in html and ">replay<" not in html and '<tr class=" own"><th scope="row">sequential' in html
    table = (tmp_path / "out" / "tables" / "main-given.tex").read_text(encoding="utf-8")
    assert r"$55.2$ {\scriptsize $\pm 0.5$}" in table and "Learnt" in table and "BWT" not in table
    for option, value, told in (
        ("--metric", "acuracy", "choose from: accuracy, nll"),
        ("--summaries", "last,lst", "'lst': choose from: last, ap"),
        ("--methods", "nobody", "choose from: lifealign"),
        ("--highlight", "nobody", "choose from: lifealign"),
        ("--style", "mean", "choose from: interval, mean-sd"),
        ("--width", "3.3pt", "give inches or millimetres"),
    ):
        refused = CliRunner().invoke(app, [*call[:-1], str(tmp_path / "none"), option, value])
        assert refused.exit_code == 2 and option in refused.output and told in refused.output, refused.output
    assert not (tmp_path / "none").exists()
    assert form.width("84mm") == pytest.approx(3.307, abs=1e-3) and form.width("3.3in") == 3.3


def test_a_study_as_a_data_frame(study: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "results.json").write_text(json.dumps(study), encoding="utf-8")
    frame = load_study(tmp_path)
    assert tuple(frame.columns) == COLUMNS
    own = frame[(frame.score == "accuracy") & (frame.summary == "last") & (frame.order == "given")]
    assert own.groupby("method").value.mean()["sequential"] == 55.25
    assert frame.value.notna().all() and set(frame.run) == {r["id"] for r in study["runs"] if r["status"] == "done"}


def test_mean_ranks_and_the_sentence_of_the_own_method(study: dict[str, Any]) -> None:
    clean = checked(study)
    (view,) = [r for r in ranks(clean) if r["show"] == {"score": "accuracy", "order": "given", "model": "tiny"}]
    assert [(m["name"], m["rank"]) for m in view["methods"]] == [
        ("lifealign", 1.0),
        ("replay", 2.0),
        ("sequential", 3.0),
    ]
    # q of 3 methods at 5% is 2.343 (Demsar 2006, table 5), over 3 tasks.
    assert view["critical"] == pytest.approx(2.343 * (3 * 4 / (6 * 3)) ** 0.5, abs=1e-3)
    assert [m["level"] for m in view["methods"]] == [True, True, False]
    chart = rank_chart(view)
    assert [(bar["from"] < row["y"] < bar["to"]) for bar in chart["bars"][:1] for row in chart["rows"]] == [
        True,
        True,
        False,
    ]
    assert len(chart["bars"]) == 2 and chart["ruler"] is not None, "replay and sequential are not told apart either"
    one, two, three = (row["x"] for row in chart["rows"])
    assert three - two == pytest.approx(two - one, abs=0.2) and chart["ruler"][1] - one == pytest.approx(
        view["critical"] * (two - one), abs=0.5
    )
    said = {(s["show"]["score"], s["show"]["order"]): s["text"] for s in sentences(clean)}
    assert said["accuracy", "given"].startswith("lifealign: 72.8 (")
    assert "against replay" in said["accuracy", "given"]


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"runs": []}', "not a study's results"), ("[]", "not a study's results"), ("{", "not JSON"), (None, "missing")],
)
def test_command_refuses_what_is_no_study(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = CliRunner().invoke(app, ["study-report", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.output and str(path) in result.output
    assert not (tmp_path / "out").exists()


def test_input_is_not_changed(study: dict[str, Any]) -> None:
    before = copy.deepcopy(study)
    render_html(study)
    assert study == before
    with pytest.raises(StoreError, match="not a study's results"):
        render_html({"title": "lifealign", "runs": []})
