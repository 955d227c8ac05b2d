"""Marks of a study's tables: best, second, missing, differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lifealign.studies.report.cells import Cell, ranked
from lifealign.studies.report.latex import latex
from lifealign.studies.report.markdown import markdown
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.views import pareto
from lifealign.studies.report.write import checked, read_results, render_html, runs_csv, table_csv
from support.paths import ROOT
from support.study_document import make_study
from support.study_page import table_named

EARLIER = {"ablation", "backbones", "controls", "controls-sft", "main-table", "orders", "real-five", "theta-lambda"}
"""Results of programs that did not record themselves yet."""


@pytest.fixture
def study() -> dict[str, Any]:
    return make_study()


@pytest.mark.parametrize(
    ("values", "higher", "ranks"),
    [
        (((3.0, 3.1, 3.2), (1.0, 1.2, 1.1), (2.0, 2.2, 2.1)), True, (1, 0, 0)),
        (((3.0, 3.1, 3.2), (1.0, 1.2, 1.1), (2.0, 2.2, 2.1)), False, (0, 1, 0)),
        (((2.0, 2.0, 2.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)), True, (0, 0, 0)),  # a tie
        (((3.0, 1.0, 3.5), (2.0, 2.5, 1.0), (0.0, 0.1, 0.2)), True, (0, 0, 0)),  # ahead by the mean alone
        (((3.0,), (1.0,)), True, (0, 0)),  # one seed has no interval
        (((3.0, 3.0), ()), True, (0, 0)),  # nothing to compare with
    ],
)
def test_best_needs_paired_differences_without_zero(
    values: tuple[tuple[float, ...], ...], higher: bool, ranks: tuple[int, ...]
) -> None:
    held = [Cell(f"{sum(v) / len(v):.1f}", sum(v) / len(v)) if v else Cell(None) for v in values]
    assert tuple(c.rank for c in ranked(held, [dict(enumerate(v)) for v in values], higher)) == ranks


def test_what_lacks_seeds_or_cells_says_so_and_is_not_ranked(study: dict[str, Any]) -> None:
    main = table_named(study, "main-given")
    assert [(c.above, c.label) for c in main.columns[:3]] == [
        ("Preference accuracy, %", k) for k in ("BWT", "Last", "AP")
    ]
    by_row = dict(main.rows)
    # One of the last row's 3 cells was not measured with one of 3 seeds; BWT needs 4 cells a run. AP needs all 6,
    # and is not computed from fewer.
    notes = ["11 of 12 cells", "8 of 9 cells", "2 of 3 seeds, 17 of 18 cells"]
    assert [c.note for c in by_row["replay"][:3]] == notes
    assert [c.rank for c in by_row["replay"][:3]] == [0, 0, 0]
    assert [by_row[m][1].rank for m in ("lifealign", "sequential")] == [1, 0]
    # NLL is whole: less is better, and a positive BWT is a loss.
    assert [[c.rank for c in by_row[m][3:]] for m in by_row] == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    other = dict(table_named(study, "main-reversed").rows)
    assert other["sequential"][1].note == "2 of 3 seeds"


def test_differences_carry_their_sign_and_a_star_where_the_corrected_test_finds_them(study: dict[str, Any]) -> None:
    for line in study["table"]:
        line["strategy"] = line["method"]
    found = {"mean": 0.5, "low": 0.25, "high": 0.75, "p": 0.04, "holm": 0.08}
    study["table"][2]["difference"]["accuracy"]["last"] = found
    study["table"][4]["difference"]["accuracy"]["last"] |= {"p": 0.001, "holm": 0.002}
    table = table_named(study, "difference-accuracy-given")
    rows = dict(table.rows)
    assert [rows[m][0].text for m in ("replay", "sequential")] == ["+0.5", "-17.5*"]
    assert rows["replay"][0].values == "p = 0.04; corrected: 0.08"
    assert "lifealign" not in rows
    assert "interval, which is not corrected" in table.note and "corrected (Holm)" in table.note


def test_results_of_earlier_programs_are_tested_from_the_values_of_their_seeds(study: dict[str, Any]) -> None:
    """They have no p-values. Last of sequential - lifealign is -17.5 with every seed, so it has no spread."""
    rows = dict(table_named(study, "difference-accuracy-given").rows)
    assert rows["sequential"][0].text == "-17.5*" and "corrected: 0" in rows["sequential"][0].values
    last = study["table"][4]["metrics"]["accuracy"]["last"]
    last["values"] = [55.0, 20.0, 90.0]
    assert dict(table_named(study, "difference-accuracy-given").rows)["sequential"][0].text == "-17.5"


def as_upper_bound(study: dict[str, Any]) -> None:
    for run in study["runs"]:
        if run["method"] == "lifealign":
            run["strategy"] = "joint"


def test_upper_bounds_are_apart_and_not_ranked(study: dict[str, Any]) -> None:
    as_upper_bound(study)
    table = table_named(study, "main-given")
    assert [name for name, _ in table.rows] == ["replay", "sequential", "lifealign"] and table.apart == 1
    assert table.starts_apart("lifealign") and not table.starts_apart("replay")
    rows = dict(table.rows)
    assert {cell.rank for cell in rows["lifealign"]} == {0} and rows["replay"][3].rank == 1
    assert table.footnotes() == {"upper bound: it sees all rows at once": "a"} and table.marks("lifealign") == "a"
    text = markdown(table)
    assert "| lifealign <sup>a</sup> |" in text and text.endswith(
        "<sup>a</sup> upper bound: it sees all rows at once\n"
    )
    lines = latex(table).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(r"lifealign\textsuperscript{a}"))
    assert lines[at - 1] == r"\midrule" and r"\textsuperscript{a} upper bound" in lines[-1]
    assert '<tr class="apart own" data-apart><th scope="row">lifealign<sup>a</sup></th>' in render_html(study)
    points = {p["method"]: p["front"] for p in pareto(checked(study))[0]["points"]}
    assert not points["lifealign"] and points["replay"]


def made(study: dict[str, Any], method: str, commit: str, processor: str = "Chip", **more: Any) -> None:
    for run in study["runs"]:
        if run["method"] == method:
            run["program"] = {"version": "1", "commit": commit, "modified": False, "code": "c0de"}
            run["machine"] = {"processor": processor, "cores": 2, "threads": 1, "accelerator": None}
            run |= more


def test_rows_of_other_commits_or_machines_are_marked(study: dict[str, Any]) -> None:
    assert (
        "All runs made by: earlier program (commit, code and machine not recorded)."
        in table_named(study, "main-given").note
    )
    for method in ("lifealign", "replay", "sequential"):
        made(study, method, "0123456789abcdef")
    table = table_named(study, "main-given")
    assert "All runs made by: commit 0123456789 on Chip, 2 cores, 1 thread." in table.note and not table.remarks
    made(study, "replay", "fedcba9876543210")
    made(study, "sequential", "0123456789abcdef", "Other")
    for name in ("main-given", "summary-accuracy-given", "cost"):
        table = table_named(study, name)
        assert [table.marks(name) for name, _ in table.rows] == ["a", "b", "c"] and "All runs" not in table.note
        assert list(table.footnotes()) == [
            "made by: commit 0123456789 on Chip, 2 cores, 1 thread",
            "made by: commit fedcba9876 on Chip, 2 cores, 1 thread",
            "made by: commit 0123456789 on Other, 2 cores, 1 thread",
        ]
    del study["runs"][0]["program"], study["runs"][0]["machine"]
    assert " and by commit" in next(iter(table_named(study, "main-given").footnotes()))


def test_a_method_that_was_not_itself_is_marked(study: dict[str, Any]) -> None:
    sign = {"task": "poems", "key": "k", "says": "prompts choose more entries", "value": 4, "low": 5, "high": None}
    run = next(r for r in study["runs"] if (r["method"], r["order"]) == ("replay", "given"))
    run["signs"] = [sign, {**sign, "task": "code"}]
    table = table_named(study, "main-given")
    (remark,) = table.remarks["replay"]
    assert remark == "not itself in 1 of 3 runs: prompts choose more entries: 4 in task code, expected at least 5"


def test_cost_has_steps_and_rows_kept_and_compares_times_of_one_machine(study: dict[str, Any]) -> None:
    table = table_named(study, "cost")
    assert [c.label for c in table.columns] == ["Run, s", "Training, s", "Peak memory, GB", "State kept, MB"]
    assert "Relative: left out where the machine differs" in table.note
    for cost in study["cost"].values():
        cost |= {"steps": 81.0, "rows_kept": 12.0, "machines": ["Chip"]}
    table = table_named(study, "cost")
    cells = dict(zip([c.label for c in table.columns], dict(table.rows)["lifealign"], strict=True))
    assert [cells[k].text for k in ("Steps", "Rows kept a task", "Relative")] == ["81", "12.0", "1.50"]
    assert "left out" not in table.note


def test_chosen_on_validation_is_said_only_where_something_was_chosen(study: dict[str, Any]) -> None:
    assert "Hyper-parameters chosen on" in render_html(study)
    study["selection"] = {}
    assert "Hyper-parameters chosen on" not in render_html(study)


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*/results.json")), ids=lambda p: p.parent.name)
def test_stored_results_of_earlier_programs_are_still_read(path: Path) -> None:
    results = read_results(path)
    tables = all_tables(results)
    recorded = path.parent.name not in EARLIER
    assert tables["main"] and tables["cost"]
    assert ("All runs made by: commit" if recorded else "not recorded") in tables["main"][0].note
    assert ("Steps" in [c.label for c in tables["cost"][0].columns]) == recorded
    assert runs_csv(results) and table_csv(results) and render_html(results)
    tested = [f for r in results["table"] for by in (r["difference"] or {}).values() for f in by.values()]
    assert all("p" in f for f in tested)


def test_order_sensitivity_is_the_spread_and_is_not_ranked(study: dict[str, Any]) -> None:
    table = table_named(study, "orders-accuracy")
    last = [i for i, c in enumerate(table.columns) if c.above == "Last"]
    rows = {name: [held[i].text for i in last] for name, held in table.rows}
    # The reversed order starts 1.25 higher; sequential lacks the best seed there: 56.25 instead of 56.5.
    assert rows["lifealign"] == ["1.2", "72.8", "74.0"]
    assert rows["sequential"] == ["1.0", "55.2", "56.2"]
    assert {name: held[last[0]].rank for name, held in table.rows} == {"lifealign": 0, "replay": 0, "sequential": 0}
