"""Gates: the grammar, the comparison, and what a missing value means."""

from __future__ import annotations

import math

import pytest

from lifealign.core.errors import ConfigError
from lifealign.evaluation.gates import Gate, check_gates

SUMMARY = {
    "accuracy": {"last": {"value": 80.0, "low": 70.0, "high": 90.0}, "bwt": {"value": -1.5}, "ap": {"value": math.nan}},
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
    ],
)
def test_the_grammar(text, gate):
    assert Gate.parse(text) == gate


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
        ("guard>=3", "guard and tax go with perplexity and choice_accuracy, all other"),
        ("last.perplexity<=3", "guard and tax go with perplexity and choice_accuracy"),
        ("last.acuracy>=3", "unknown score 'acuracy'; allowed: accuracy, margin, "),
        ("bwt>=x", "'x' is not a finite number"),
        ("bwt>==3", "'=3' is not a finite number"),
        ("bwt>=nan", "'nan' is not a finite number"),
        ("bwt>=inf", "'inf' is not a finite number"),
    ],
)
def test_what_is_no_gate(text, message):
    with pytest.raises(ConfigError) as caught:
        Gate.parse(text)
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
    ],
)
def test_the_comparison(text, held):
    (result,) = check_gates([Gate.parse(text)], SUMMARY)
    assert result.held is held
    assert ("held" if held else "failed") in result.line()


@pytest.mark.parametrize("text", ["ap<=100", "bwt.pass_rate<=100", "forgetting<=100", "last.margin<=100"])
def test_a_gate_without_a_value_fails(text):
    (result,) = check_gates([Gate.parse(text)], SUMMARY)
    assert not result.held
    assert result.to_json()["value"] is None
    assert "was not measured" in result.line()
