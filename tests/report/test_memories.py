"""The report: every number is there, nothing is loaded from elsewhere, nothing is invented, everything is escaped."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import StoreError
from lifealign.evaluation.numbers import limits_text, number, share
from lifealign.report import charts as report_charts
from lifealign.report import views as report_views
from lifealign.report.memories import build_results, render_html, scores_csv, write_report
from lifealign.report.terminal import score_matrix_lines, summary_lines

NAN = math.nan
TASKS = ["poems", "facts", "code"]


def around(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1.5, "high": value + 2.5}


def matrix(rows: list[list[float]], count: int) -> dict[str, Any]:
    R = [row + [None] * (count - len(row)) for row in rows]
    shift = [[[None if v is None else v + d for v in row] for row in R] for d in (-1.5, 2.5)]
    return {"R": R, "low": shift[0], "high": shift[1], "before": [None] * count}


def make_run(method: str = "lifealign", seed: int = 0, last: float = 66.5, **changes: Any) -> dict[str, Any]:
    line = {"stage": "preference", "step": 1, "loss": 0.6931, "margin": 0.0, "focal_weight": 0.25}
    line |= {"seconds": 2.0, "pairs_per_second": 3.0}
    kinds = [f"model.layers.{i}.self_attn.q_proj.lora_{side}" for i in range(2) for side in "AB"]
    run = {
        "method": method,
        "memory": f"runs/{method}{seed}",
        "seed": seed,
        "base_model": "tiny",
        "tasks": list(TASKS),
        "scores": {
            "accuracy": matrix([[60.25], [50.5, 70.75], [55.125, 65.0, 80.0]], 3),
            "nll": matrix([[1.5], [1.625, 2.0], [1.75, 2.125, 2.25]], 3),
        },
        "summary": {
            "accuracy": {
                "last": around(last),
                "ap": around(62.0),
                "bwt": around(-5.5),
                "forgetting": around(5.5),
                "learning_accuracy": around(70.25),
                "forward_transfer": {"value": NAN, "low": NAN, "high": NAN},
            },
            "nll": {"last": around(2.0 + last / 1000), "bwt": around(0.1875), "forgetting": around(-0.0625)},
        },
        "training": {
            name: [{**line, "step": s + 1, "loss": 0.5 / (s + 1)} for s in range(4)] + [line | {"kl": 0.0875}]
            for name in TASKS
        },
        "consolidation": {
            name: {
                "summed": {"matrices": 4, "rank_kept": 2.5, "energy_kept": 0.9375, "overlap": 0.4375},
                "matrices": {kind: {"rank": 1 + n, "overlap": 0.0625 * n} for n, kind in enumerate(kinds)},
            }
            for name in TASKS
        },
        "data": {
            "poems": [
                {
                    "source": "poems.jsonl",
                    "read": 40,
                    "kept": 27,
                    "dropped": {"chosen and rejected are the same": list(range(101, 114))},
                    "repaired": {"lone surrogate": [7]},
                }
            ]
        },
        "config": {"lora": {"r": 8, "alpha": 16.0}, "seed": seed, "strategy": {"name": method}},
        "versions": {"torch": "2.9.1"},
        "seconds": dict.fromkeys(TASKS, 12.0),
    }
    return {**run, **changes}


def joint_run() -> dict[str, Any]:
    run = make_run("joint")
    scores = matrix([[], [], [81.0, 82.0, 83.0]], 3)
    line = run["training"]["poems"]
    return run | {
        "scores": {"accuracy": scores},
        "summary": {"accuracy": {"last": around(82.0), "bwt": {"value": NAN, "low": NAN, "high": NAN}}},
        "training": {"joint": line},
        "consolidation": {},
        "seconds": {"joint": 44.0},
    }


class Page(HTMLParser):
    """Text, `<data>` values, and what tags refer to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: list[str] = []
        self.tags: list[str] = []
        self.references: list[tuple[str, str]] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append(name)
            if name in ("src", "href", "srcset", "xlink:href", "action", "poster"):
                self.references.append((tag, value or ""))
            if tag == "data" and name == "value":
                self.values.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def ahead(*pairs: tuple[str, str, float], a: int = 0, b: int = 1) -> list[dict[str, Any]]:
    """Differences between two runs whose intervals reach one to either side of the value."""
    return [
        {"a": a, "b": b, "score": score, "summary": key, "value": v, "low": v - 1, "high": v + 1}
        for score, key, v in pairs
    ]


def page(*runs: dict[str, Any]) -> Page:
    return Page(render_html(build_results(runs)))


def test_every_number_of_the_results_is_on_the_page(tmp_path: Path) -> None:
    write_report(build_results([make_run(), make_run("sequential", last=44.5)]), tmp_path)
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    present = {float(v) for v in shown.values}
    for run in results["runs"]:
        for metric in run["scores"]:
            cells = {v for row in run["scores"][metric]["R"] for v in row if v is not None}
            cells |= {s["value"] for s in run["summary"][metric].values() if s["value"] is not None}
            assert cells and cells <= present
        for commit in run["consolidation"].values():
            assert set(commit["summed"].values()) <= present
    for text in (
        "60.2",
        "65.0 to 69.0",
        "0.938",
        "rows 101, 102",
        "row 7",
        "poems.jsonl",
        "2.9.1",
        "lora.alpha",
    ):
        assert text in shown.text, text
    assert "113" in shown.text, "all row numbers, not only the first ten"
    assert "nan" not in shown.text.lower().split()


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render_html(build_results([make_run(), joint_run()]))
    shown = Page(html)
    links = {target for tag, target in shown.references if tag == "a"}
    assert {target for target in links if not target.startswith("#")} == {"results.json", "scores.csv"}
    ids = re.findall(r' id="([^"]+)"', html)
    assert {target[1:] for target in links if target.startswith("#")} <= set(ids)
    assert [one for one in shown.references if one[0] != "a"] == [("link", "data:,")]
    assert not re.search(r"https?://|@import|url\(", html)
    assert not [name for name in shown.attributes if name.startswith("on")], "handlers only in the one script"
    assert shown.tags.count("script") == 1


def test_text_of_the_results_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    quote = '"><img src=x onerror=alert(1)>'
    run = make_run(evil, tasks=[evil, quote, "code"], memory=quote, base_model=evil)
    run["training"] = {evil: run["training"]["poems"]}
    run["consolidation"] = {
        quote: {"summed": {evil: 1.0}, "matrices": {f"layers.0.{evil}": {"rank": 1, "overlap": 0.5}}}
    }
    run["data"] = {evil: [{"source": quote, "read": 1, "kept": 0, "dropped": {evil: [1]}, "repaired": {}}]}
    run["config"], run["versions"] = {evil: {quote: evil}}, {quote: evil}
    shown = Page(render_html(build_results([run], title=evil, created=quote)))
    assert shown.tags.count("script") == 1
    assert "img" not in shown.tags
    assert "onerror" not in shown.attributes
    assert evil in shown.text


def test_same_input_same_bytes_and_input_untouched(tmp_path: Path) -> None:
    runs = [make_run(), joint_run()]
    kept = copy.deepcopy(runs)
    first = [p.read_bytes() for p in write_report(build_results(runs), tmp_path / "a")]
    again = [p.read_bytes() for p in write_report(build_results(runs), tmp_path / "b")]
    assert first == again
    assert repr(runs) == repr(kept)
    stored = json.loads(first[1])
    from_stored = [p.read_bytes() for p in write_report(stored, tmp_path / "c")]
    assert from_stored == first, "results.json is enough to write it again"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["report.html", "results.json", "scores.csv"]


def test_missing_is_null_and_not_measured_never_zero(tmp_path: Path) -> None:
    run = make_run()
    run["scores"]["accuracy"]["R"][1][0] = NAN
    run["summary"]["accuracy"]["bwt"] = {"value": NAN, "low": NAN, "high": NAN}
    other = make_run("sequential")
    write_report(build_results([run, other]), tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    stored = json.loads(text)["runs"][0]
    assert stored["scores"]["accuracy"]["R"][1][0] is None
    assert stored["summary"]["accuracy"]["bwt"]["value"] is None
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "not measured" in shown.text
    assert "Not measured: FWT" in shown.text
    assert not {"0", "0.0"} & set(shown.values), "nothing measured is zero here"
    row = next(line for line in score_matrix_lines(run) if line.startswith("after facts"))
    assert row.split() == ["after", "facts", "70.8"]


def test_sections_without_data_are_left_out() -> None:
    shown = page({"method": "bare", "tasks": [], "scores": {}, "summary": {}})
    for heading in ("Training", "Consolidation", "Data", "Settings and versions", "Each task since it was learnt"):
        assert heading not in shown.texts
    assert "Not measured." in shown.text
    assert Page(render_html(build_results([]))).text.startswith("lifealign")
    assert score_matrix_lines(make_run(), "pass_rate") == ["Pass rate, %: lifealign, seed 0: not measured"]


def test_joint_has_one_row_named_after_its_commit() -> None:
    assert score_matrix_lines(joint_run())[1:] == [
        "             poems  facts  code",
        "after joint   81.0   82.0  83.0",
    ]
    shown = page(joint_run(), make_run())
    assert "joint" in shown.texts
    rows = list(csv.DictReader(io.StringIO(scores_csv(build_results([joint_run()])))))
    assert [(r["task"], r["value"], r["low"], r["high"]) for r in rows] == [
        ("poems", "81.0", "79.5", "83.5"),
        ("facts", "82.0", "80.5", "84.5"),
        ("code", "83.0", "81.5", "85.5"),
    ]


def test_csv_has_measured_cells_only() -> None:
    run = make_run()
    run["scores"] = {"accuracy": run["scores"]["accuracy"] | {"before": [41.0, None, 43.0]}}
    lines = scores_csv(build_results([run])).splitlines()
    assert lines[0] == "method,seed,metric,stage,task,value,low,high"
    assert lines[1:4] == [
        "lifealign,0,accuracy,before,poems,41.0,,",
        "lifealign,0,accuracy,before,code,43.0,,",
        "lifealign,0,accuracy,poems,poems,60.25,58.75,62.75",
    ]
    assert len(lines) == 1 + 2 + 6
    twins = scores_csv(build_results([make_run(), make_run(memory="runs/other")]))
    assert "lifealign, seed 0, other" in twins, "runs of one method and seed stay apart"


def bests(*runs: dict[str, Any], differences: list[dict[str, Any]]) -> dict[tuple[str, str], list[bool]]:
    panels = report_views.page(build_results(runs, differences=differences))["panels"]
    return {
        (p["name"], c["label"]): [row["cells"][i]["best"] for row in p["table"]["rows"]]
        for p in panels
        for i, c in enumerate(p["table"]["columns"])
    }


def test_best_needs_a_difference_whose_interval_excludes_zero() -> None:
    runs = [make_run(last=66.5), make_run("sequential", last=44.5)]
    found = ahead(
        ("accuracy", "last", 22.0), ("accuracy", "bwt", 0.5), ("accuracy", "forgetting", -3.0), ("nll", "last", 2.0)
    )
    best = bests(*runs, differences=found)
    assert best["accuracy", "Last"] == [True, False]
    assert best["accuracy", "BWT"] == [False, False], "the interval holds zero"
    assert best["accuracy", "Forgetting"] == [True, False], "less is better"
    assert best["nll", "Last"] == [False, True], "lower is better, and sequential has the lower one here"
    assert not any(map(any, bests(*runs, differences=[]).values())), "without differences nothing is best"
    assert not any(map(any, bests(make_run(), differences=[]).values()))
    third = [*runs, make_run("replay")]
    assert bests(*third, differences=found)["accuracy", "Last"] == [False] * 3, "not compared with the third"


def test_runs_of_different_tasks_are_not_ranked() -> None:
    found = ahead(("accuracy", "last", 22.0))
    other = make_run("sequential", tasks=["poems", "facts", "maths"])
    assert bests(make_run(), other, differences=found)["accuracy", "Last"] == [False, False]


def test_a_mean_over_some_of_its_cells_says_so_and_is_not_ranked() -> None:
    joint = joint_run()  # its Learnt is the last task's score only
    joint["summary"]["accuracy"]["learning_accuracy"] = around(83.0)
    runs = [make_run(), joint]
    found = ahead(("accuracy", "learning_accuracy", -9.0), ("accuracy", "last", -9.0))
    table = report_views.page(build_results(runs, differences=found))["panels"][0]["table"]
    column = {c["label"]: [row["cells"][i] for row in table["rows"]] for i, c in enumerate(table["columns"])}
    assert [c["partial"] for c in column["Learnt"]] == ["", "1 of 3 cells"]
    assert [c["best"] for c in column["Learnt"]] == [False, False]
    assert [c["partial"] for c in column["Last"]] == ["", ""]
    assert [c["best"] for c in column["Last"]] == [False, True]
    assert "1 of 3 cells" in page(*runs).text


def test_heat_has_its_middle_at_chance_or_where_the_task_was_learnt() -> None:
    run = make_run()
    run["scores"]["accuracy"]["R"][2][0] = 25.0
    panels = {p["name"]: p for p in report_views.page(build_results([run]))["panels"]}

    def shades(name: str) -> dict[float, tuple[str, str]]:
        rows = panels[name]["matrices"][0]["rows"]
        return {c["value"]: (c["side"], c["share"]) for r in rows for c in r["cells"] if c}

    accuracy, nll = shades("accuracy"), shades("nll")
    assert accuracy[80.0] == ("up", "0.600"), "30 of the 50 points above guessing"
    assert accuracy[25.0] == ("down", "0.500")
    assert nll[1.5] == ("", "0.000") and nll[1.75] == ("down", "1.000"), "lower is better, and it rose"


def test_the_first_screen_tells_what_was_kept() -> None:
    run = make_run(created="2026-11-27T10:00:00+00:00", memory="runs/support")
    run["scores"]["accuracy"] |= {"rows": [[12, None, None], [12, 12, None], [12, 12, 12]], "before": [50.0] * 3}
    run["scores"]["accuracy"]["R"] = [[100.0, None, None], [75.0, 50.0, None], [200 / 3, 58 + 1 / 3, 91 + 2 / 3]]
    gate = {"gate": "bwt.accuracy>=-10", "value": -12.5, "low": None, "high": None, "held": False}
    run["gates"] = {"after": "code", "now": True, "created": "2026-11-27T10:01:00+00:00", "gates": [gate]}
    states = [{"name": "forgotten", "label": "Forgotten", "text": ""}, {"name": "never", "label": "Never", "text": ""}]
    answers = {"page": "answers.html", "prompts": 9, "good_is": "x", "disagreements": 0, "states": states}
    answers["rows"] = [{"source": "lifealign", "task": "poems", "counts": [4, 0]}]
    html = render_html(build_results([run, make_run("sequential", last=44.4)], answers=answers))
    shown = Page(html)
    text = shown.text.split("Download")[0]
    for part in (
        "support: 3 tasks learnt, beside sequential0",
        "2026-11-27 · tiny",
        "Gate Failed bwt.accuracy>=-10 -12.5 failed checked 2026-11-27",
        "Kept 66% 95% interval 65 to 69, 36 rows",
        "guessing gives 50%",
        "sequential: 44.4%",
        "Learnt last: code 92% (11/12) before: 50% (6/12)",
        "Weakest: facts 58% (7/12) was 50% (6/12) when learnt",
        "poems −33 , facts +8 .",
    ):
        assert part in text, (part, text)
    assert ("a", "answers.html#show=forgotten&task=poems") in shown.references
    assert "needs two tasks" in page(make_run(tasks=["poems"], scores={"accuracy": matrix([[60.0]], 1)})).text


def test_few_rows_carry_no_interval_and_no_decimals() -> None:
    assert number(91 + 2 / 3, "accuracy", 12) == "92" and number(91.66, "accuracy", 5000) == "91.7"
    assert limits_text(60.0, 100.0, "accuracy", 7) == "" and limits_text(64.6, 100.0, "accuracy", 8) == "65 to 100"
    assert share(91 + 2 / 3, "accuracy", 12) == "11/12"
    assert share(91.0, "accuracy", 12) == "" == share(1.5, "nll", 12), "half a row and a mean are no share"


def test_seeds_are_averaged_only_where_nothing_else_differs() -> None:
    runs = [make_run(seed=s, last=v) for s, v in ((0, 60.0), (1, 66.0), (2, 63.0))]
    panel = report_views.page(build_results(runs))["panels"][0]
    (group,) = panel["seeds"]
    last = group["cells"][0]
    half = 4.3026527 * 3.0 / math.sqrt(3)  # s = 3 for 60, 63, 66
    assert (last["value"], last["low"], last["high"]) == pytest.approx((63.0, 63.0 - half, 63.0 + half))
    runs[2]["config"]["lora"] = {"r": 4}
    (group,) = report_views.page(build_results(runs))["panels"][0]["seeds"]
    assert group["seeds"] == [0, 1]
    assert [r["label"] for r in report_views.page(build_results(runs))["runs"]] == [
        "lifealign, seed 0",
        "lifealign, seed 1",
        "lifealign, seed 2",
    ]


def test_matrix_lines_are_aligned_and_fit_by_numbering() -> None:
    assert score_matrix_lines(make_run()) == [
        "Preference accuracy, %: lifealign, seed 0",
        "             poems  facts  code",
        "after poems   60.2",
        "after facts   50.5   70.8",
        "after code    55.1   65.0  80.0",
    ]
    names = [f"a-rather-long-task-name-number-{i}" for i in range(5)]
    run = make_run(tasks=names, training={})
    run["scores"] = {"accuracy": matrix([[50.0 + i] * (i + 1) for i in range(5)], 5)}
    lines = score_matrix_lines(run)
    assert "1 a-rather-long-task-name-number-0" in lines[0]
    assert all(len(line) < 120 for line in lines[1:])
    assert lines[1].split() == ["1", "2", "3", "4", "5"]


def test_summary_lines_name_every_run_and_value() -> None:
    lines = summary_lines(build_results([make_run(), joint_run()]))
    assert lines[0].split() == ["Preference", "accuracy,", "%", "Last", "AP", "BWT", "Forgetting", "Learnt"]
    assert "66.5 [65.0, 69.0]" in lines[1]
    assert "82.0 [80.5, 84.5]" in lines[2] and "not measured" in lines[2]
    assert lines[3] == "" and lines[4].startswith("NLL per token")
    assert summary_lines(build_results([])) == []


def test_numbers_for_people() -> None:
    assert number(-0.001, "accuracy") == "0.0", "no minus zero"
    assert number(0.00042) == "0.00042"
    assert number(2.0) == "2.000"
    assert number(None) == ""


def test_ticks_enclose_the_range_with_round_numbers() -> None:
    assert report_charts.ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert report_charts.ticks(75.0, 100.0) == [70.0, 80.0, 90.0, 100.0]
    for low, high in ((3.0, 3.0), (0.0, 0.0), (-7.3, 0.002), (1e-9, 2e-9)):
        found = report_charts.ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 8
    frame = report_charts.Frame((0, 1), (0, 1), (400, 200), right=10).view()
    assert [t["text"] for t in frame["ticks"]] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


def test_each_task_has_a_chart_with_all_runs() -> None:
    run, other = make_run(), make_run("sequential")
    run["scores"]["accuracy"]["R"] = [[60.0, 10.0, None], [60.0, 60.0, None], [60.0, 60.0, 60.0]]
    charts = report_charts.by_task("accuracy", [(run, "x"), (other, "y")], (10.0, 60.0))
    stages = {c["task"]: [[m["stage"] for m in line["marks"]] for line in c["lines"]] for c in charts}
    assert stages == {"poems": [[1, 2, 3]] * 2, "facts": [[2, 3]] * 2, "code": [[3]] * 2}
    assert all([t["text"] for t in c["frame"]["ticks"]][::4] == ["0", "100"] for c in charts), "an axis ends at 100%"


def test_layer_maps_place_matrices_by_kind_and_layer() -> None:
    rank, overlap = report_charts.layer_maps(make_run()["consolidation"])
    first = rank["maps"][0]
    assert [k["text"] for k in first["kinds"]] == ["self_attn.q_proj.A", "self_attn.q_proj.B"]
    assert [n["text"] for n in first["layers"]] == ["0", "1"]
    cell = {c["name"]: c for c in first["cells"]}
    a0, b1 = (cell[f"model.layers.{i}.self_attn.q_proj.lora_{side}"] for i, side in ((0, "A"), (1, "B")))
    assert a0["x"] < b1["x"] and a0["y"] < b1["y"]
    assert (b1["value"], b1["share"]) == (4, "1.00")
    assert (rank["top"], overlap["top"]) == (4, 0.1875)
    plain = report_charts.layer_maps({"t": {"matrices": {"head": {"rank": 1}}}})
    assert plain[0]["maps"][0]["kinds"][0]["text"] == "head"


def test_long_training_is_thinned_and_gaps_stay_gaps() -> None:
    lines = [{"stage": "sft", "loss": 2.0}] * 400 + [{"stage": "preference", "loss": 1.0, "margin": 0.5}] * 500
    (view,) = report_charts.training([{"training": {"t": lines}}], ["x"])
    assert view["parts"] == ["t, sft", "t"]
    loss, margin = view["charts"]
    assert (loss["title"], margin["title"]) == ("Loss", "Reward margin"), "no focal weight, no chart"
    assert len(loss["raw"]) == 2 and len(margin["raw"]) == 1
    assert sum(p.count("L") + 1 for p in loss["raw"]) <= 302


def test_torch_is_not_imported() -> None:
    code = "import sys; from lifealign.report.memories import build_results, render_html; render_html(build_results([])); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_directory_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        write_report(build_results([make_run()]), tmp_path / "file")
