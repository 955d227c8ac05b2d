"""The catalog: a score or summary is one entry, and everything that reports numbers follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lifealign.core.errors import ConfigError
from lifealign.core.registry import _Entry
from lifealign.evaluation import catalog, metrics
from lifealign.evaluation.answer_scores import score_answers
from lifealign.evaluation.catalog import Score, Summary
from lifealign.evaluation.gates import Gate, check_gates
from lifealign.evaluation.guard_results import guard_results
from lifealign.evaluation.outside import require
from lifealign.evaluation.results import ScoreTable, point_results
from lifealign.memory.row_scores import score_rows
from lifealign.report import views as report_views
from lifealign.report.memories import build_results, render_html
from lifealign.report.terminal import score_matrix_lines, summary_lines
from lifealign.store.layout import ROOT
from lifealign.studies import results as study_results
from lifealign.studies.config import SelectionConfig
from lifealign.studies.report.lines import groups
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.write import render_html as render_study

STAGES = ("0001-a", "0002-b")


@pytest.fixture
def hedging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of which less is better, computed from log-probs: the share of rows with more than 2 nats."""
    entry = Score(
        "Hedging",
        "Share of rows that hedge.",
        unit="%",
        better="lower",
        rate=True,
        of_pairs=lambda pairs: np.asarray(pairs.policy[:, 0] < -2, dtype=np.float64),
    )
    monkeypatch.setitem(catalog.BUILT_IN, "hedging", entry)


@pytest.fixture
def results(hedging: None) -> list[dict[str, Any]]:
    """Two runs of two tasks: means after each task, in percent, [[50], [x, 75]] with x 100 and 25."""
    return [_run("worse", [1.0, 1.0, 1.0, 1.0]), _run("better", [1.0, 0.0, 0.0, 0.0])]


def _run(method: str, last_of_a: list[float]) -> dict[str, Any]:
    rows = {
        "0001-a": {"a": {"hedging": [1.0, 1.0, 0.0, 0.0]}},
        "0002-b": {"a": {"hedging": last_of_a}, "b": {"hedging": [1.0, 1.0, 1.0, 0.0]}},
    }
    matrices, summaries, _ = point_results(ScoreTable(("a", "b"), STAGES, rows))
    return {
        "method": method,
        "seed": 0,
        "base_model": "tiny",
        "tasks": ["a", "b"],
        "scores": matrices,
        "summary": {name: {key: {"value": v} for key, v in found.items()} for name, found in summaries.items()},
    }


def test_a_new_score_is_computed_for_every_pair(hedging: None) -> None:
    pairs: Any = [SimpleNamespace(chosen_tokens=1, rejected_tokens=tokens) for tokens in (2, 1)]
    found = score_rows(torch.tensor([[-3.0, -1.0], [-1.0, -4.0]]), torch.zeros(2, 2), pairs, beta=0.5)
    assert found["hedging"] == [1.0, 0.0]
    assert found["margin"] == [-1.0, 1.5] and found["accuracy"] == [0.0, 1.0]
    assert found["nll"] == [3.0, 1.0] and found["likelihood_accuracy"] == [0.0, 1.0]
    assert "pass_rate" not in found and "chrf" not in found


def test_a_new_score_has_summaries_of_its_direction(results: list[dict[str, Any]]) -> None:
    worse = results[0]["summary"]["hedging"]
    assert worse["last"]["value"] == 87.5 and worse["bwt"]["value"] == 50
    assert worse["forgetting"]["value"] == 50, "more of what should be less is a loss"
    assert results[1]["summary"]["hedging"]["forgetting"]["value"] == -25


def test_a_new_score_is_in_the_terminal_and_on_the_page(results: list[dict[str, Any]]) -> None:
    assert score_matrix_lines(results[0], "hedging")[0].startswith("Hedging, %: worse")
    assert summary_lines(build_results(results))[0].startswith("Hedging, %  Last")
    (panel,) = report_views.page(build_results(results))["panels"]
    assert (panel["label"], panel["note"], panel["lower"]) == ("Hedging, %", "Share of rows that hedge.", True)
    ahead = {"a": 0, "b": 1, "score": "hedging", "summary": "last", "value": 37.5, "low": 30.0, "high": 40.0}
    (panel,) = report_views.page(build_results(results, differences=[ahead]))["panels"]
    best = {row["label"]: [cell["best"] for cell in row["cells"]] for row in panel["table"]["rows"]}
    last = [column["label"] for column in panel["table"]["columns"]].index("Last")
    assert best["better"][last] and not best["worse"][last]
    html = render_html(build_results(results))
    assert "Share of rows that hedge." in html and ">87.5<" in html and "Lower is better here" in html


def test_a_new_score_can_be_a_gate(results: list[dict[str, Any]]) -> None:
    gates = [Gate.parse("last.hedging<=90"), Gate.parse("forgetting.hedging<=10")]
    held, failed = check_gates(gates, results[0]["summary"])
    assert held.held and held.line() == "gate last.hedging<=90 held: 87.50 (Hedging, %)"
    assert not failed.held


def _study(results: list[dict[str, Any]]) -> dict[str, Any]:
    """A study's document of these runs, with the table that a study makes of them."""
    found = []
    for run in results:
        values = {name: {key: cell["value"] for key, cell in s.items()} for name, s in run["summary"].items()}
        costs = dict.fromkeys(study_results.COSTS)
        entry = {**run, "strategy": run["method"], "order": "given", "model": "tiny", "status": "done", "settings": {}}
        found.append({**entry, **costs, "id": run["method"], "error": None, "summary": values})
    rows = [study_results.Group(r["method"], r["method"], {}, "given", "tiny", {0: r}) for r in found]
    return {"study": "s", "runs": found, "table": study_results._table(rows, None), "baseline": None}


def test_a_new_score_is_in_a_studys_tables(results: list[dict[str, Any]]) -> None:
    document = _study(results)
    (main,) = all_tables(document)["main"]
    assert {column.above for column in main.columns} == {"Hedging, %"}
    last = [column.label for column in main.columns].index("Last")
    assert {name: cells[last].text for name, cells in main.rows} == {"worse": "87.5", "better": "50.0"}
    assert groups(document) and "Hedging, %" in render_study(document)
    assert SelectionConfig(metric="last.hedging").metric == "last.hedging"
    assert catalog.best_is_lowest("hedging", "last") and catalog.best_is_lowest("hedging", "forgetting")


def test_without_the_entry_nothing_knows_it() -> None:
    with pytest.raises(ConfigError, match="unknown score 'hedging'"):
        Gate.parse("last.hedging<=90")
    assert "hedging" not in catalog.scores()
    unknown = catalog.score("hedging")
    assert (unknown.title, unknown.note, unknown.unit, unknown.better) == ("hedging", "", "", "higher")


def test_a_new_text_metric_scores_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"evaluate.text_metrics: unknown text metric 'shouting'; allowed: bleu, "):
        require(["shouting"])
    entry = Score("Shouting", "Capitals.", better="lower", of_answer=lambda answer, _: float(answer.isupper()))
    monkeypatch.setattr(catalog.TEXT_METRICS, "_entries", {**catalog.TEXT_METRICS._entries, "shouting": _Entry(entry)})
    monkeypatch.setitem(catalog.BUILT_IN, "shouting", entry)
    monkeypatch.setattr(catalog, "_met", {})
    require(["shouting"])
    assert score_answers(["shouting"], ["AH", "oh"], ["", ""]) == {"shouting": [1.0, 0.0]}
    assert "shouting" in catalog.scores() and "shouting" in catalog.text_metrics()


def test_a_new_score_of_general_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Score("Surprise", "Nats.", "nats", "lower", of_probe=lambda samples: samples["nll"].mean(-1), probe="text")
    monkeypatch.setitem(catalog.BUILT_IN, "surprise", entry)
    options = {"probe": "text", "path": "f", "sha256": "s"}
    records = [
        {"kind": "guard", "after": after, "options": options, "scores": {"nll": nll, "tokens": [1, 1]}}
        for after, nll in ((ROOT, [1.0, 2.0]), ("0001-a", [2.0, 4.0]))
    ]
    store: Any = SimpleNamespace(evaluations_by_file=lambda: dict(enumerate(records)))
    summary = guard_results(store, ["0001-a"], 50)["surprise"]["summary"]
    assert summary["guard"]["value"] == 3 and summary["tax"]["value"] == 1.5
    gate = Gate.parse("tax.surprise<=1")
    assert not check_gates([gate], {"surprise": summary})[0].held
    assert "surprise" not in catalog.scores()


@pytest.fixture
def worst(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = Summary(
        "Worst", "lowest score after the last task", lambda R, *_: float(np.nanmin(R[-1])), lambda n: [(n - 1, 0)]
    )
    monkeypatch.setitem(catalog.SUMMARIES, "worst", entry)
    yield


def test_a_new_summary_is_everywhere(worst: None, results: list[dict[str, Any]]) -> None:
    assert results[0]["summary"]["hedging"]["worst"]["value"] == 75
    assert "Worst" in summary_lines(build_results(results))[0]
    assert "lowest score after the last task" in render_html(build_results(results))
    assert Gate.parse("worst.hedging<=80").summary == "worst"
    assert "Worst" in [column.label for table in all_tables(_study(results))["details"] for column in table.columns]


def test_every_entry_is_complete() -> None:
    for name, score in catalog.BUILT_IN.items():
        formulas = [f for f in (score.of_pairs, score.of_answer, score.of_probe) if f is not None]
        assert len(formulas) == (name not in ("pass_rate", "follow", *catalog.DRIFT_SCORES)), name
        assert score.label and score.note.endswith("."), name
        assert score.note.count("ower is better") == (score.better == "lower"), name
        assert bool(score.probe) == (score.of_probe is not None), name
        if score.rate:
            assert (score.unit, score.low, score.high, score.scale) == ("%", 0, 1, 100.0), name
    for name, summary in catalog.SUMMARIES.items():
        R = metrics.as_matrix([[60.0, 30.0, 20.0], [50.0, 70.0, 40.0], [55.0, 65.0, 80.0]])
        value = summary.of(R, [10.0, 20.0, 30.0], ())
        assert math.isfinite(value), name
        # A summary depends on the cells that it names, and on no other.
        for k in range(3):
            for j in range(3):
                changed = R.copy()
                changed[k, j] += 50 if summary.loss else 1
                assert ((k, j) in summary.cells(3)) or summary.of(changed, [10.0, 20.0, 30.0], ()) == value, (
                    name,
                    k,
                    j,
                )


def test_intervals_of_levels_end_where_the_score_ends() -> None:
    wide = metrics.Interval(98.0, 93.0, 103.0)
    assert catalog.within("pass_rate", "last", wide) == (98, 93, 100)
    assert catalog.within("accuracy", "ap", metrics.Interval(1.0, -2.0, 4.0)) == (1, 0, 4)
    assert catalog.within("pass_rate", "bwt", metrics.Interval(1.0, -2.0, 4.0)) == (1, -2, 4), "a difference"
    assert catalog.within("margin", "last", wide) == wide and catalog.within("nll", "last", wide) == wide
    assert all(math.isnan(v) for v in catalog.within("accuracy", "last", metrics.Interval(*[math.nan] * 3)))


def test_the_pass_rate_comes_right_after_accuracy() -> None:
    assert list(catalog.scores())[:2] == ["accuracy", "pass_rate"]
    assert catalog.in_order(["mine", "nll", "pass_rate", "nll", "accuracy"]) == ["accuracy", "pass_rate", "nll", "mine"]
