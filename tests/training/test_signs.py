"""Signs of a method: checked at the end of a task, said once, kept, and shown beside the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from torch import nn

from lifealign.core.config import RunConfig
from lifealign.data.tasks import Task
from lifealign.evaluation.results import read_scores, run_results
from lifealign.memory.learning import learn_task
from lifealign.report.memories import build_results, render_html
from lifealign.strategies import STRATEGIES
from lifealign.training.signs import Sign, limits_text, plain_diagnostics, unseen, unseen_lines, with_signs
from lifealign.training.strategy import History, Strategy
from support.lives import TASKS, start

MOVES = Sign("moved", "the penalty moves the weights", low=0.5)
KEEPS = Sign("kept", "few rows are kept", high=3)


@pytest.mark.parametrize(
    ("sign", "value", "holds", "limits"),
    [
        (MOVES, 0.5, True, "at least 0.5"),
        (MOVES, 0.4999, False, "at least 0.5"),
        (MOVES, math.nan, False, "at least 0.5"),
        (KEEPS, 3, True, "at most 3"),
        (KEEPS, 3.01, False, "at most 3"),
        (Sign("x", "x", 0.125, 0.25), 0.25, True, "0.125 to 0.25"),
        (Sign("x", "x", 0.125, 0.25), 0.26, False, "0.125 to 0.25"),
    ],
)
def test_limits_are_part_of_what_is_expected(sign: Sign, value: float, holds: bool, limits: str) -> None:
    assert (sign.holds(value), limits_text(asdict(sign))) == (holds, limits)


def test_values_are_read_from_the_diagnostics_and_their_sum() -> None:
    found = with_signs("mine", (MOVES, KEEPS), {"moved": None, "matrices": {"q": 1}, "summed": {"kept": 4}})
    assert [(s["key"], s["value"], s["holds"]) for s in found["signs"]] == [("moved", None, None), ("kept", 4, False)]
    assert [s["key"] for s in unseen(found)] == ["kept"]
    assert plain_diagnostics(found) == {"kept": 4, "signs": found["signs"]}
    assert unseen_lines("tone", "mine", found) == [
        "task tone: mine: few rows are kept: 4, expected at most 3; its scores say little of the method"
    ]


def test_a_method_without_signs_has_the_diagnostics_it_returned() -> None:
    assert with_signs("mine", (), {"rank": 2}) == {"rank": 2} and unseen({"rank": 2}) == []
    assert unseen_lines("tone", "mine", {"rank": 2}) == [] and plain_diagnostics({"rank": 2}) == {"rank": 2}


def test_a_sign_without_a_value_is_a_mistake_of_the_method() -> None:
    with pytest.raises(
        TypeError, match=r"strategy mine: its signs read \['kept'\], which its end_task does not return"
    ):
        with_signs("mine", (MOVES, KEEPS), {"moved": 1.0})


class Counts(Strategy):
    """Returns the number of tasks so far, of which it expects two."""

    signs = (Sign("tasks", "tasks follow one another", low=2),)

    def end_task(self, model: nn.Module, task: Task, history: History) -> Mapping[str, Any]:
        return {"tasks": len(history.tasks) + 1}


def test_in_a_life(config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    session, store = start(config(f"strategy.name={__file__}:Counts"))
    capsys.readouterr()
    results = []
    for task in TASKS[:2]:
        result, store = learn_task(session, store, task, session.config)
        results.append(result.to_json())
    name = session.config.strategy.name
    said = [line for line in capsys.readouterr().err.splitlines() if "little of the method" in line]
    assert said == [
        f"warning: task bread: {name}: tasks follow one another: 1, expected at least 2; its scores say little of the method"
    ]
    assert [s["holds"] for r in results for s in r["diagnostics"]["signs"]] == [False, True]
    stored = [store.load_document(m, "diagnostics.json") for m in store.lineage()[1:]]
    sign = {"key": "tasks", "says": "tasks follow one another", "low": 2, "high": None}
    assert stored[0] == {"tasks": 1, "signs": [{**sign, "value": 1, "holds": False}]}
    run = run_results(store, read_scores(store, "test"))
    assert run["signs"] == {"bread": stored[0]["signs"], "stars": stored[1]["signs"]}
    page = render_html(build_results([run]))
    assert page.count("tasks follow one another") == 2 and page.count("<strong>no</strong>") == 1
    del run["signs"]  # as results of older versions
    assert "Signs of the method" not in render_html(build_results([run]))


def test_every_sign_of_a_built_in_method_has_a_limit_and_one_sentence() -> None:
    for name, cls in STRATEGIES.items():
        signs = cls.signs if isinstance(cls.signs, tuple) else ()
        for sign in signs:
            assert sign.low is not None or sign.high is not None, name
            assert sign.says[0].islower() and sign.says[-1] != ".", name
