"""The smallest difference that a design can see: by hand, by published tables, and found as often as stated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lifealign.studies import power
from lifealign.studies.config import PowerConfig
from lifealign.studies.design import power_document, power_line, power_lines, scored_rows
from lifealign.studies.stats import paired_p

PLANTED = {"planted": {"train_rows": 4, "validation_rows": 2, "test_rows": 5}}


@pytest.mark.parametrize(("seeds", "standardised"), [(3, 3.264), (5, 1.682), (10, 0.996), (34, 0.495)])
def test_effect_is_that_of_published_tables(seeds: int, standardised: float) -> None:
    """G*Power, t-test of matched pairs, two-sided 5%, power 80%: dz of n pairs (34 pairs are its answer for dz 0.5)."""
    assert power.effect(seeds) == pytest.approx(standardised, abs=5e-4)


def test_difference_of_a_design_by_hand() -> None:
    # 6 tasks of 60 rows at 90%: a cell has variance 100^2 * 0.09 / 60 = 15, the mean of six 15 / 6 = 2.5.
    assert power.row_variance("last", [60] * 6, 0.9) == pytest.approx(2.5)
    # BWT: five differences of two cells: 2 * 15 / 5.
    assert power.row_variance("bwt", [60] * 6, 0.9) == pytest.approx(6)
    # Rows of 30 and 60: (100^2 * 0.25 / 30 + 100^2 * 0.25 / 60) / 4 = 31.25.
    assert power.row_variance("last", [30, 60], 0.5) == pytest.approx(31.25)
    # sqrt(2 * (1 - 0.2) * (2.5 + 2^2)) = sqrt(10.4) = 3.2249; five seeds see 1.682 of them.
    found = power.seen("last", seeds=5, comparisons=1, rows=[60] * 6, accuracy=0.9, spread=2.0, correlation=0.2)
    assert found is not None and found.sd == pytest.approx(3.2249, abs=1e-4) and found.source == "assumption"
    assert found.difference == pytest.approx(5.424, abs=2e-3) == found.corrected == found.by_seeds[5]


def test_stated_difference_is_found_in_four_of_five_simulated_studies() -> None:
    """Rows drawn one by one, seeds that differ, two methods that share a part of what a seed does."""
    generator = np.random.default_rng(0)
    studies, seeds, tasks, rows, accuracy, spread = 1500, 5, 6, 60, 0.9, 2.0
    found = power.seen(
        "last", seeds=seeds, comparisons=1, rows=[rows] * tasks, accuracy=accuracy, spread=spread, correlation=0.0
    )
    assert found is not None and found.difference is not None

    def last(mean: float) -> np.ndarray:
        level = np.clip(mean + generator.normal(0, spread / 100, (studies, seeds)), 0, 1)
        right = generator.binomial(rows, level[..., None], (studies, seeds, tasks))
        return np.asarray(100 * right.mean(-1) / rows)

    half = found.difference / 200
    better, worse = last(accuracy + half), last(accuracy - half)
    p = [paired_p(dict(enumerate(a)), dict(enumerate(b))) for a, b in zip(better, worse, strict=True)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.8, abs=0.04)
    same = [paired_p(dict(enumerate(a)), dict(enumerate(b))) for a, b in zip(last(0.9), last(0.9), strict=True)]
    assert np.mean(np.array(same) < 0.05) == pytest.approx(0.05, abs=0.02)


def test_finished_pairs_replace_the_assumptions() -> None:
    # 1, 3: squares 2 about the mean, 1 degree of freedom; 0, 3, 6: 18 with 2; sqrt(20 / 3). One seed says nothing.
    pairs = [[1.0, 3.0], [0.0, 3.0, 6.0], [4.0]]
    assert power.measured_sd(pairs) == pytest.approx(math.sqrt(20 / 3))
    found = power.seen("last", seeds=3, comparisons=2, rows=None, accuracy=0.9, spread=50.0, pairs=pairs)
    assert found is not None and found.source == "finished runs" and found.pairs == 2 and found.spread is None
    assert found.difference == pytest.approx(3.264 * math.sqrt(20 / 3), abs=2e-3)
    assert found.corrected is not None and found.corrected > found.difference, "two comparisons"
    assert power.measured_sd([[4.0], []]) is None
    assert power.seen("last", seeds=3, comparisons=1, rows=None, accuracy=0.9) is None
    one = power.seen("last", seeds=1, comparisons=1, rows=[60], accuracy=0.9)
    assert one is not None and one.difference is None


def test_defaults_are_those_of_the_stored_study() -> None:
    """Pooled over the methods of results/main-table: variance over seeds minus that of the rows; covariance of pairs."""
    document = json.loads((Path(__file__).parents[2] / "results/main-table/results.json").read_text())
    by_method: dict[str, list[dict[str, list[list[float]]]]] = {}
    for run in document["runs"]:
        if run["strategy"] not in ("joint", "single"):
            by_method.setdefault(run["method"], []).append(run)
    assert len(by_method) == 19
    for key in power.SUMMARIES:
        values, noise = [], []
        for runs in by_method.values():
            values.append([run["summary"]["accuracy"][key] for run in runs])  # type: ignore[index]
            for run in runs:
                R = np.array(
                    [[np.nan if v is None else v for v in row] for row in run["scores"]["accuracy"]["R"]]  # type: ignore[index]
                )
                last, own = R[-1] / 100, np.diag(R) / 100
                cells = last * (1 - last) / 12
                if key == "bwt":
                    cells = (cells + own * (1 - own) / 12)[:-1]
                noise.append(1e4 * cells.sum() / len(cells) ** 2)
        table = np.array(values)
        spread = math.sqrt(table.var(axis=1, ddof=1).mean() - np.mean(noise))
        assert power.SPREAD[key] == pytest.approx(spread, abs=0.05)
        covariance = np.cov(table)
        pairs = [(i, j) for i in range(len(table)) for j in range(i)]
        shared = np.mean([covariance[p] for p in pairs]) / np.mean(np.diag(covariance))
        assert power.CORRELATION[key] == pytest.approx(shared, abs=0.005)


def test_rows_that_a_score_is_measured_on() -> None:
    config = {"stream": {**PLANTED, "order": [2, 1, 3]}, "evaluate": {"rows": None, "generations": 3}}
    assert scored_rows(config, 0, "accuracy") == [5, 5, 5]
    assert scored_rows(config, 0, "pass_rate") == [3, 3, 3]
    assert scored_rows(config, 0, "nll") is None, "its noise does not follow from its mean"
    assert scored_rows({**config, "evaluate": {"rows": 4}}, 0, "accuracy") == [4, 4, 4]
    files = [{"name": n, "train": {"path": "none.jsonl"}, "test_rows": t} for n, t in (("a", 7), ("b", 9), ("c", None))]
    assert scored_rows({"stream": {"tasks": files, "order": [2, 1, 3]}}, 0, "accuracy") == [9, 7, 40]
    unread = [{"name": "a", "train": {"path": "none.jsonl"}, "test": {"path": "no.jsonl"}}]
    assert scored_rows({"stream": {"tasks": unread}}, 0, "accuracy") is None


def test_power_in_words() -> None:
    options = PowerConfig(spread=2.0, correlation=0.2)
    none: dict[str, list[list[float]]] = {"last": [], "bwt": []}
    document = power_document("accuracy", options, seeds=5, rows=[60] * 6, comparisons=3, pairs=none)
    assert power_line(document).startswith("differences that 5 paired seeds can see: Last accuracy: 5.4 points or more")
    text = "\n".join(power_lines("mine", document))
    assert "study mine: 5 paired seeds, 6 tasks, 60 test rows a task" in text
    for part in ("90% of the rows are right", "standard deviation of 2 points", "correlated by 0.2", power.SOURCE):
        assert part in text
    assert "Holm's correction for 3 comparisons" in text and "two-sided paired t-test at 5% in 80%" in text
    finished = {"last": [[1.0, 3.0]], "bwt": [[1.0, 3.0]]}
    text = "\n".join(
        power_lines("mine", power_document("nll", options, seeds=2, rows=None, comparisons=1, pairs=finished))
    )
    assert "from 1 finished pairs of methods of this study" in text and "nats or more" in text and "assumed" not in text
    unknown = power_document("nll", options, seeds=2, rows=None, comparisons=1, pairs=none)
    assert "unknown before two seeds of two methods are finished" in power_line(unknown)
    single = power_document("accuracy", options, seeds=1, rows=[60], comparisons=1, pairs=none)
    assert "one seed has no interval" in power_line(single)
