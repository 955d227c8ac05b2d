"""What is printed after a task was learnt."""

from __future__ import annotations

import pytest

from lifealign.evaluation.differences import PointDifference, ScoreDifference, signed
from lifealign.evaluation.learnt import Learnt, certain, task_lines


def cell(value: float, rows: int = 12) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 25), "high": min(100.0, value + 10), "rows": rows}


def change(a: float, b: float, low: float, high: float, rows: int = 12) -> ScoreDifference:
    return ScoreDifference(a, b, b - a, low, high, rows)


CELLS = {
    "one": {"accuracy": cell(100.0), "nll": {"value": 2.5, "low": 2.0, "high": 3.0, "rows": 12}},
    "two": {"accuracy": cell(1100 / 12)},
    "three": {"accuracy": cell(50.0)},
    "new": {"accuracy": cell(75.0)},
}
SINCE = {
    "one": {"accuracy": change(100, 100, 0, 0)},
    "two": {"accuracy": change(100, 1100 / 12, -25, 0)},
    "three": {"accuracy": change(100, 50, -75, -25)},
    "new": {"accuracy": change(50, 75, 8, 42)},
}


def learnt(**changed: ScoreDifference) -> Learnt:
    tasks = SINCE | {name: {"accuracy": found} for name, found in changed.items()}
    since = PointDifference("0003-three", "0004-new", "test", tasks, {})
    return Learnt("m", "new", "0004-new", "three", CELLS, since, {"one": {"accuracy": 100.0}})


def test_the_new_task_comes_first_and_then_the_worst_change() -> None:
    assert learnt().lines() == [
        "Preference accuracy on held-out rows, %",
        "  task   learnt  before  now            change   rows",
        "  new       new      50  75 [50, 85]       +25   9/12",
        "  three       -     100  50 [25, 60]       -50   6/12",
        "  two         -     100  92 [67, 100]       -8  11/12",
        "  one       100     100  100 [75, 100]       0  12/12",
        "new: 50 before, 75 now: it is learnt.",
        "three fell by more than chance explains.",
        "Next:",
        "  lifealign diff m three new",
        "  lifealign rollback m three",
        "  lifealign report m --out report",
    ]
    assert all(len(line) <= 80 for line in learnt().lines())


def test_only_changes_that_are_certain_have_the_colour_of_a_gain_or_a_loss() -> None:
    marked = "\n".join(learnt().lines(lambda text, kind: f"<{kind} {text.strip()}>"))
    assert "<gain +25>" in marked and "<loss -50>" in marked and "<doubt -8>" in marked and marked.count("<") == 3


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (change(50, 58, -8, 25), "new: 50 before, 58 now: not clearly learnt; train longer"),
        (change(100, 100, 0, 0), "new: 100 before, 100 now: there was nothing left to learn."),
        (change(50, 100, 50, 50, rows=4), "new: 50 before, 100 now; 4 held-out rows cannot tell more: give more"),
    ],
)
def test_a_new_task_is_called_learnt_only_if_its_rows_show_it(found: ScoreDifference, sentence: str) -> None:
    assert any(line.startswith(sentence) for line in learnt(new=found).lines())


def test_falls_that_may_be_chance_are_called_so_and_none_is_told_too() -> None:
    steady = dict.fromkeys(("one", "two", "three"), change(50, 50, 0, 0))
    assert (
        "three fell, within what so few rows leave to chance."
        in learnt(**steady | {"three": change(100, 92, -25, 0)}).lines()
    )
    lines = learnt(**steady).lines()
    assert "No earlier task fell." in lines and '  lifealign generate m --prompt "..."' in lines
    assert not certain(change(100, 0, -100, -100, rows=7))


def test_every_score_is_listed_on_request_with_its_rows() -> None:
    assert task_lines({**CELLS, "bare": {}})[0] == "  one    accuracy 100 [75, 100], 12/12 rows"
    assert task_lines(CELLS, True)[0].endswith("; nll 2.500 [2.000, 3.000], 12 rows")
    assert task_lines({"few": {"accuracy": cell(100.0, 1)}, "bare": {}}) == [
        "  few   accuracy 100, 1/1 row",
        "  bare  not scored",
    ]
    assert [signed("accuracy", v, 12) for v in (8.3, -8.3, 0.0, 0.4)] == ["+8", "-8", "0", "0"]
