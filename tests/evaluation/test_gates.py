"""Gates: the grammar, the comparison, and what a missing value means."""

from __future__ import annotations

import math

import pytest

from lifealign.core.errors import ConfigError
from lifealign.evaluation.gates import Gate, check_gates

SUMMARY = {
    "accuracy": {
        "last": {"value": 80.0, "low": 70.0, "high": 90.0},
        "min": {"value": 60.0, "low": 50.0, "high": 65.0, "task": "tone"},
        "task:tone": {"value": 60.0, "low": 50.0, "high": 65.0, "task": "tone"},
        "bwt": {"value": -1.5},
        "ap": {"value": math.nan},
    },
    "pass_rate": {"last": {"value": 50.0}, "bwt": {"value": None}},
}


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("bwt>=-1", Gate("bwt", "accuracy", ">=", -1.0)),
        (" last.pass_rate >= 50 ", Gate("last", "pass_rate", ">=", 50.0)),
        ("forgetting<1e1", Gate("forgetting", "accuracy", "<", 10.0)),
        ("ap.margin==.5", Gate("ap", "margin", "==", 0.5)),
        ("learning_accuracy<=100", Gate("learning_accuracy", "accuracy", "<=", 100.0)),
        ("min.accuracy>=60", Gate("min", "accuracy", ">=", 60.0)),
        ("max.nll<=4", Gate("max", "nll", "<=", 4.0)),
        ("drop<=5", Gate("drop", "accuracy", "<=", 5.0)),
        ("low(last)>=60", Gate("last", "accuracy", ">=", 60.0, "low")),
        (" high( drop.pass_rate ) <= 20 ", Gate("drop", "pass_rate", "<=", 20.0, "high")),
        ("pass_rate>=50", Gate("last", "pass_rate", ">=", 50.0)),
        ("low(pass_rate)>=50", Gate("last", "pass_rate", ">=", 50.0, "low")),
        ("tone.accuracy>=80", Gate("tone", "accuracy", ">=", 80.0, of_task=True)),
        ("tone>=80", Gate("tone", "accuracy", ">=", 80.0, of_task=True)),
        ("low(refund-policy.nll)<3", Gate("refund-policy", "nll", "<", 3.0, "low", True)),
        ("last>=1", Gate("last", "accuracy", ">=", 1.0)),  # a summary before a task of the same name
        ("task:last>=1", Gate("last", "accuracy", ">=", 1.0, of_task=True)),
        ("task:tone.margin>=1", Gate("tone", "margin", ">=", 1.0, of_task=True)),
        ("v1.2.margin>=1", Gate("v1.2", "margin", ">=", 1.0, of_task=True)),
        ("v1.margin>=1", Gate("v1", "margin", ">=", 1.0, of_task=True)),
        ("tone.my/file.py:short>=1", Gate("tone", "my/file.py:short", ">=", 1.0, of_task=True)),
        ("my/file.py:short>=1", Gate("last", "my/file.py:short", ">=", 1.0)),
    ],
)
def test_the_grammar(text, gate):
    assert Gate.parse(text, ["tone", "refund-policy", "last", "v1", "v1.2"]) == gate


@pytest.mark.parametrize("text", ["tone.accuracy>=80", "low(min.accuracy)>=60", "pass_rate>=50"])
def test_a_gate_as_it_is_printed_is_the_same_gate(text):
    gate = Gate.parse(text, ["tone"])
    assert Gate.parse(str(gate), ["tone"]) == gate


def test_change_needs_a_point_to_compare_with():
    assert Gate.parse("change>=0", against=True) == Gate("change", "accuracy", ">=", 0.0)
    with pytest.raises(ConfigError, match="change is since another point; give it with --against"):
        Gate.parse("change>=0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected SUMMARY"),
        ("bwt", "expected SUMMARY"),
        ("bwt>=", "expected SUMMARY"),
        (">=3", "expected SUMMARY"),
        ("bwt=>3", "expected SUMMARY"),
        ("bwt>=3 4", "expected SUMMARY"),
        ("bwt.a.b>=3", "expected SUMMARY"),
        (
            "recall>=3",
            "unknown summary 'recall'; allowed: last, ap, bwt, forgetting, learning_accuracy, forward_transfer, guard, tax",
        ),
        ("recall>=3", "guard, tax, min, max, drop, change, drift; tasks: tone, refund-policy"),
        ("task:none>=3", "unknown task 'none'; tasks: tone, refund-policy"),
        ("low(last>=3", "expected SUMMARY"),
        ("low()>=3", "expected SUMMARY"),
        ("mid(last)>=3", "expected SUMMARY"),
        ("low(low(last))>=3", "expected SUMMARY"),
        ("last.>=3", "expected SUMMARY"),
        ("tone.acuracy>=3", "unknown score 'acuracy'"),
        ("tone.perplexity>=3", "guard and tax go with perplexity"),
        ("min.perplexity>=3", "guard and tax go with perplexity"),
        ("guard>=3", "guard and tax go with perplexity and choice_accuracy, all other"),
        ("last.perplexity<=3", "guard and tax go with perplexity and choice_accuracy"),
        ("last.acuracy>=3", "unknown score 'acuracy'; allowed: accuracy, pass_rate, "),
        ("bwt>=x", "'x' is not a finite number"),
        ("bwt>==3", "'=3' is not a finite number"),
        ("bwt>=nan", "'nan' is not a finite number"),
        ("bwt>=inf", "'inf' is not a finite number"),
    ],
)
def test_what_is_no_gate(text, message):
    with pytest.raises(ConfigError) as caught:
        Gate.parse(text, ["tone", "refund-policy"])
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("last>=80", True),
        ("last>80", False),
        ("last<=80", True),
        ("last<80", False),
        ("last==80", True),
        ("bwt>=-1", False),
        ("bwt>=-2", True),
        ("last.pass_rate>=50", True),
        ("low(last)>=70", True),
        ("low(last)>70", False),
        ("high(last)<=90", True),
        ("min>=60", True),
        ("tone>60", False),
        ("low(tone)>=50", True),
    ],
)
def test_the_comparison(text, held):
    (result,) = check_gates([Gate.parse(text, ["tone"])], SUMMARY)
    assert result.held is held
    assert ("held" if held else "failed") in result.line()


@pytest.mark.parametrize("text", ["ap<=100", "bwt.pass_rate<=100", "forgetting<=100", "last.margin<=100"])
def test_a_gate_without_a_value_fails(text):
    (result,) = check_gates([Gate.parse(text)], SUMMARY)
    assert not result.held
    assert result.to_json()["value"] is None
    assert "was not measured" in result.line()


@pytest.mark.parametrize(
    ("text", "tasks", "why"),
    [
        ("bwt.pass_rate>=-1", 1, "it needs two tasks, and the memory has 1"),
        ("drop<=1", 0, "it needs two tasks, and the memory has 0"),
        ("bwt.pass_rate>=-1", 2, "the scores that it needs were not taken"),
        ("low(bwt)>=-9", 2, "the value has no interval"),
        ("last.chrf>=1", 2, "give --generations N and --text-metric chrf"),
        ("tax.perplexity<=1", 2, "give --guard-text FILE"),
        ("guard.choice_accuracy>=1", 2, "give --guard-choices FILE"),
        ("last.margin>=1", 2, "the memory has no such score"),
    ],
)
def test_a_missing_value_has_a_reason_and_holds_only_if_asked(text, tasks, why):
    gate = Gate.parse(text)
    (failed,) = check_gates([gate], SUMMARY, tasks=tasks)
    assert not failed.held and failed.line().endswith(f"was not measured: {why}; --no-value pass lets such a gate hold")
    (passed,) = check_gates([gate], SUMMARY, tasks=tasks, no_value="pass")
    assert passed.held and passed.line().endswith(f"was not measured: {why}")
    assert "held without a value" in passed.line() and passed.to_json()["reason"] == why


def test_no_value_leaves_measured_gates_alone():
    (result,) = check_gates([Gate.parse("last>=81")], SUMMARY, no_value="pass")
    assert not result.held


def test_a_result_names_the_task_and_the_point():
    changes = {"accuracy": {"drop": {"value": 3.0, "low": 1.0, "high": 5.0, "task": "tone"}}}
    (result,) = check_gates([Gate.parse("drop<=5")], changes, since="production (0001-tone)")
    assert result.line() == (
        "gate drop.accuracy<=5 held: 3.00 (Preference accuracy, %; tone, since production (0001-tone))"
    )
    assert result.to_json() == {
        "gate": "drop.accuracy<=5",
        "value": 3.0,
        "low": 1.0,
        "high": 5.0,
        "held": True,
        "detail": "tone, since production (0001-tone)",
    }
    (missing,) = check_gates([Gate.parse("drop.nll<=5")], changes, since="base")
    assert "no task was learnt at base and scored there by it" in missing.line()
