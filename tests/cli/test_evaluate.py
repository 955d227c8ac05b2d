"""`lifealign evaluate` and its gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import lifealign


def test_evaluate_passes_its_options_on(memory, fake):
    arguments = ("--task", "a", "--task", "b", "--split", "validation", "--as-of", "a", "--generations", "4")
    arguments += (
        "--text-metric",
        "chrf",
        "--text-metric",
        "bleu",
        "--guard-text",
        "t.txt",
        "--guard-choices",
        "q.jsonl",
    )
    assert lifealign("evaluate", memory, *arguments).exit_code == 0
    expected = ("evaluate", ["a", "b"], "validation", "a", 4, ["chrf", "bleu"], Path("t.txt"), Path("q.jsonl"))
    assert fake.calls == [expected]


def test_evaluate_without_options_scores_everything(memory, fake):
    result = lifealign("evaluate", memory, "--json")
    assert fake.calls == [("evaluate", None, "test", None, None, None, None, None)]
    # NaN is no JSON, and a missing score is not zero.
    assert json.loads(result.stdout) == {"scores": {"accuracy": None}, "gates": []}


def test_a_gate_that_holds(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "last>=80", "--gate", "bwt>=-2")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "accuracy 80.0",
        "gate last.accuracy>=80 held: 80.00 (Preference accuracy, %)",
        "gate bwt.accuracy>=-2 held: -1.50 (Preference accuracy, %)",
    ]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("bwt>=-1", "gate bwt.accuracy>=-1 failed: -1.50 (Preference accuracy, %)"),
        ("ap>=0", "gate ap.accuracy>=0 failed: ap.accuracy was not measured"),
        ("last.pass_rate>=0", "gate last.pass_rate>=0 failed: last.pass_rate was not measured"),
    ],
)
def test_a_gate_that_fails_ends_with_3(memory, fake, gate, message):
    result = lifealign("evaluate", memory, "--gate", "last>=80", "--gate", gate, "--json")
    assert result.exit_code == 3
    assert result.stderr == f"lifealign: {message}\n"
    assert [one["held"] for one in json.loads(result.stdout)["gates"]] == [True, False]


def test_a_malformed_gate_ends_with_2_before_any_work(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "bwt>>1")
    assert result.exit_code == 2
    assert "--gate 'bwt>>1'" in result.stderr
    assert fake.calls == []


def test_a_gate_judges_the_memory_as_it_is(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "bwt>=-1", "--as-of", "a")
    assert result.exit_code == 2
    assert "cannot be combined with --as-of" in result.stderr
    assert fake.calls == []


def test_an_unknown_split(memory, fake):
    result = lifealign("evaluate", memory, "--split", "train")
    assert result.exit_code == 2
    assert "--split 'train': allowed: test, validation" in result.stderr
