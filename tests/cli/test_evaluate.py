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
        "--score",
        "mine.py:mine",
        "--guard-text",
        "t.txt",
        "--guard-choices",
        "q.jsonl",
        "--one-adapter",
    )
    assert lifealign("evaluate", memory, *arguments).exit_code == 0
    expected = (
        "evaluate",
        ["a", "b"],
        "validation",
        "a",
        4,
        ["chrf", "bleu"],
        ["mine.py:mine"],
        Path("t.txt"),
        Path("q.jsonl"),
        True,
    )
    assert fake.calls == [expected]


def test_evaluate_without_options_scores_everything(memory, fake):
    result = lifealign("evaluate", memory, "--json")
    assert fake.calls == [("evaluate", None, "test", None, None, None, None, None, None, False)]
    document = json.loads(result.stdout)
    # NaN is no JSON, and a missing score is not zero.
    assert document["unknown"] is None and document["gates"] == []


def test_the_one_adapter_is_scored_gated_and_compared(memory, fake):
    arguments = ("--one-adapter", "--gate", "last>=80", "--against", "production")
    assert lifealign("evaluate", memory, *arguments).exit_code == 0
    assert [call[-1] for call in fake.calls] == [True, True, "one", "one"]


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
        ("drop<=5", "gate drop.accuracy<=5 failed: 10.00 (Preference accuracy, %; tone)"),
        ("low(tone)>=80", "gate low(tone.accuracy)>=80 failed: 75.00 (Preference accuracy, %)"),
        (
            "ap>=0",
            "gate ap.accuracy>=0 failed: ap.accuracy was not measured: the scores that it needs were not taken; "
            "--no-value pass lets such a gate hold",
        ),
        (
            "pass_rate>=0",
            "gate last.pass_rate>=0 failed: last.pass_rate was not measured: give --generations N; a pass rate also "
            "needs a task with a rule; --no-value pass lets such a gate hold",
        ),
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


def test_a_gate_without_a_value_holds_if_asked_and_says_so(memory, fake):
    result = lifealign("evaluate", memory, "--gate", "ap>=0", "--no-value", "pass")
    assert result.exit_code == 0
    assert "gate ap.accuracy>=0 held without a value: ap.accuracy was not measured: " in result.stdout
    assert fake.calls[-1] == ("check", "test", None, "pass")


def test_against_scores_both_points_and_prints_the_difference(memory, fake):
    result = lifealign("evaluate", memory, "--against", "production", "--gate", "drop<=10", "--split", "validation")
    assert result.exit_code == 0
    assert [call[:4] for call in fake.calls] == [
        ("evaluate", ["tone"], "validation", "production"),  # `style` was learnt after that point
        ("evaluate", None, "validation", None),
        ("check", "validation", "production", "fail"),
        ("diff", "production", "now", "validation"),
    ]
    assert result.stdout.splitlines() == [
        "accuracy 80.0",
        "0001-tone -> 0002-style, test rows",
        "  tone   accuracy 90 -> 80: -10 [-20, 0] over 20 rows; gained 0, lost 1 (row 7)",
        "  law|x  learnt after 0001-tone, and not scored before",
        "gate drop.accuracy<=10 held: 10.00 (Preference accuracy, %; tone, since production)",
    ]


def test_a_page_is_written_whether_gates_hold_or_not(memory, fake, tmp_path):
    page = tmp_path / "gates.md"
    arguments = ("--gate", "drop<=5", "--gate", "ap>=0", "--against", "production", "--summary", page)
    assert lifealign("evaluate", memory, *arguments).exit_code == 3
    text = page.read_text()
    assert text.startswith("# ")
    assert "**2 of 2 gates failed.**" in text
    assert "| `drop.accuracy<=5` | 10.0 | [0.0, 20.0] | **failed** (tone, since production) |" in text
    assert "| tone | 80 [75, 85] |" in text
    assert "| tone | Preference accuracy, % | 90.0 | 80.0 | -10.0 [-20.0, 0.0] | 0 | 1 |" in text
    assert "law|x: learnt after 0001-tone, and not scored before." in text


def test_diff_prints_each_task_and_its_rows(memory, fake):
    assert "lost 1 (row 7)" in lifealign("diff", memory, "production", "now").stdout
    found = json.loads(lifealign("diff", memory, "a", "b", "--split", "validation", "--json").stdout)
    assert found["tasks"]["tone"]["accuracy"]["lost"] == [{"row": 7, "prompt": "hi"}]
    assert fake.calls == [("diff", "production", "now", "test"), ("diff", "a", "b", "validation")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--no-value", "maybe"), "--no-value 'maybe': allowed: pass, fail"),
        (("--against", "a", "--as-of", "b"), "--against checks the memory as it is now and cannot be combined"),
        (("--summary", "no/such/directory/page.md"), "--summary no/such/directory/page.md: give a file in a directory"),
        (("--summary", "."), "--summary .: give a file in a directory that exists"),
        (("--gate", "change>=0"), "--gate 'change>=0': change is since another point; give it with --against"),
        (("--gate", "law.accuracy>=0"), "unknown summary 'law'; allowed: last, "),
    ],
)
def test_options_that_cannot_be_used_end_with_2_before_any_work(memory, fake, arguments, message):
    result = lifealign("evaluate", memory, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert fake.calls == []


def test_diff_of_an_unknown_split(memory, fake):
    result = lifealign("diff", memory, "a", "b", "--split", "train")
    assert (result.exit_code, fake.calls) == (2, [])
    assert "--split 'train': allowed: test, validation" in result.stderr
