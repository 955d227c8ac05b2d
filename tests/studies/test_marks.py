"""Marks of a study's tables: best, second, missing, differences."""

from __future__ import annotations

from typing import Any

import pytest

from lifealign.studies.report.cells import ranked
from support.study_document import make_study
from support.study_page import cells, table_named


@pytest.fixture
def study() -> dict[str, Any]:
    return make_study()


@pytest.mark.parametrize(
    ("texts", "higher", "ranks"),
    [
        (("3.00", "1.00", "2.00"), True, (1, 0, 2)),
        (("3.00", "1.00", "2.00"), False, (0, 1, 2)),
        (("-1.50", "-0.25", None), True, (2, 1, 0)),
        (("2.00", "2.00", "1.00"), True, (1, 1, 0)),  # two are best, so there is no second
        (("2.00", "1.00", "1.00"), True, (1, 2, 2)),
        (("2.00", None, None), True, (0, 0, 0)),  # nothing to compare with
    ],
)
def test_best_and_second(texts: tuple[str | None, ...], higher: bool, ranks: tuple[int, ...]) -> None:
    assert tuple(c.rank for c in ranked(cells(*texts), higher)) == ranks


def test_what_lacks_seeds_or_cells_says_so_and_is_not_ranked(study: dict[str, Any]) -> None:
    main = table_named(study, "main-given")
    assert [(c.above, c.label) for c in main.columns[:3]] == [
        ("Preference accuracy, %", k) for k in ("BWT", "Last", "AP")
    ]
    by_row = dict(main.rows)
    # One of the last row's 3 cells was not measured with one of 3 seeds; BWT needs 4 cells a run, AP all 6.
    assert [c.note for c in by_row["replay"][:3]] == ["11 of 12 cells", "8 of 9 cells", "17 of 18 cells"]
    assert [c.rank for c in by_row["replay"][:3]] == [0, 0, 0]
    assert [by_row[m][1].rank for m in ("lifealign", "sequential")] == [1, 2]
    # NLL is whole: less is better, and a positive BWT is a loss.
    assert [[c.rank for c in by_row[m][3:]] for m in by_row] == [[1, 1, 1], [2, 2, 2], [0, 0, 0]]
    other = dict(table_named(study, "main-reversed").rows)
    assert other["sequential"][1].note == "2 of 3 seeds"


def test_differences_carry_their_sign_and_a_star_where_the_interval_excludes_zero(study: dict[str, Any]) -> None:
    study["table"][2]["difference"]["accuracy"]["last"] = {"mean": 0.5, "low": -0.25, "high": 1.25}
    rows = dict(table_named(study, "difference-accuracy-given").rows)
    assert [rows[m][0].text for m in ("replay", "sequential")] == ["+0.50", "-17.50*"]
    assert "lifealign" not in rows


def test_order_sensitivity_is_the_spread_and_less_is_better(study: dict[str, Any]) -> None:
    table = table_named(study, "orders-accuracy")
    last = [i for i, c in enumerate(table.columns) if c.above == "Last"]
    rows = {name: [held[i].text for i in last] for name, held in table.rows}
    # The reversed order starts 1.25 higher; sequential lacks the best seed there: 56.25 instead of 56.5.
    assert rows["lifealign"] == ["1.25", "72.75", "74.00"]
    assert rows["sequential"] == ["1.00", "55.25", "56.25"]
    assert {name: held[last[0]].rank for name, held in table.rows} == {"lifealign": 2, "replay": 2, "sequential": 1}
