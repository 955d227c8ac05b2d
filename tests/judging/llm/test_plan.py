"""Which questions are asked, and what a configuration may hold."""

from __future__ import annotations

import pytest

from lifealign.core.errors import ConfigError, JudgeError
from lifealign.data.suites.planted_rules import TASKS
from lifealign.judging.llm.config import read_judge_config
from lifealign.judging.llm.plan import plan, unused_rubrics
from lifealign.judging.rubrics import rubric_for
from support.judge_server import material
from support.judging import answer, judges
from support.paths import ROOT

# --- which questions there are ---


def test_a_task_without_a_rubric_is_refused() -> None:
    with pytest.raises(JudgeError, match="no rubric for task 'tone'; give --rubric"):
        plan(judges("http://127.0.0.1:9/v1"), [answer(task="tone")])
    assert len(plan(judges("http://127.0.0.1:9/v1", rubrics={"tone": "helpful"}), [answer(task="tone")])) == 1
    with pytest.raises(JudgeError, match="no answers for task 'tine'"):
        plan(judges("http://127.0.0.1:9/v1", rubrics={"tine": "helpful"}), [answer()])
    shared = judges("http://127.0.0.1:9/v1", rubrics={"tone": "helpful", "other": "helpful"})
    assert len(plan(shared, [answer(task="tone")])) == 1 and unused_rubrics(shared, ["tone"]) == ["other"]


def test_pairs_are_asked_in_both_orders_against_the_baseline() -> None:
    records = [answer("one", source="x"), answer("two", source="y"), answer("three", source="z"), answer("4", number=9)]
    asks = plan(judges("http://127.0.0.1:9/v1", mode="pairwise", baseline="y"), records)
    assert [(a.answer.source, a.other.source if a.other else None, a.swapped) for a in asks] == [
        ("x", "y", False),
        ("x", "y", True),
        ("z", "y", False),
        ("z", "y", True),
    ]
    first, second = (a.call.messages[1]["content"] for a in asks[:2])
    assert material({"messages": [{"content": first}]}, "answer A") == "one"
    assert material({"messages": [{"content": second}]}, "answer A") == "two"


@pytest.mark.parametrize("name", ["y", "y@then", "@then", "then"])
def test_a_baseline_is_a_source_a_point_or_both(name: str) -> None:
    records = [answer("one", source="x"), answer("two", source="y", point="then")]
    asks = plan(judges("http://h/v1", mode="pairwise", baseline=name), records)
    assert [ask.answer.source for ask in asks] == ["x", "x"]


def test_the_reference_may_be_the_baseline() -> None:
    asks = plan(judges("http://127.0.0.1:9/v1", mode="pairwise", baseline="reference"), [answer()])
    assert [(a.other.answer, a.other.source) for a in asks if a.other] == [("It is blue.", "reference")] * 2


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("w", "matches no answers; choose one of: x@now, y@now"),
        ("now", "matches answers of x@now and y@now"),
        ("y@then", "'y@then' matches no answers"),
    ],
)
def test_a_baseline_that_is_nobody_is_refused(baseline: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        plan(judges("http://x/v1", mode="pairwise", baseline=baseline), [answer(source="x"), answer(source="y")])


def test_pairwise_needs_two_answers_to_a_prompt() -> None:
    with pytest.raises(JudgeError, match="no prompt has one of x@now and another"):
        plan(judges("http://x/v1", mode="pairwise"), [answer(source="x"), answer(source="y", number=1)])


# --- configuration ---


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2hunter2@host/v1", "http://host/v1?api_key=hunter2hunter2", "hunter2hunter2", "ftp://h/v1"],
)
def test_a_url_with_a_key_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"judges\.0\.url") as caught:
        judges(url)
    assert "hunter2" not in str(caught.value)


def test_mistakes_in_the_configuration() -> None:
    judge = {"url": "http://h/v1", "model": "m"}
    for tree, message in [
        ({"judges": [judge, judge]}, "names must be unique"),
        ({"judges": [{**judge, "name": "panel"}]}, "unique and not 'panel'"),
        ({"judges": [{**judge, "price_in": 1}]}, "give both price_in and price_out"),
        ({"judges": [judge], "max_cost": 1}, "max_cost needs the prices of every judge"),
        ({"judges": [judge], "mode": "absolute", "baseline": "x"}, "baseline has no effect in mode absolute"),
        ({"judges": [judge], "tempo": 1}, "tempo: unknown key"),
        ({"judges": []}, "judges"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_judge_config(None, tree)


def test_the_example_says_what_the_defaults_say() -> None:
    example = read_judge_config(ROOT / "examples" / "judge-planted.yaml", {})
    assert {task: rubric.name for task in TASKS if (rubric := rubric_for(task))} == example.rubrics
    assert example.judges[0].cost(10, 10) == 0.0
