"""The rule for pairs: which scored answers are compared, and what margin a pair keeps."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifealign.cli.app import app
from lifealign.core.config import SourceConfig
from lifealign.core.errors import ConfigError
from lifealign.core.source_config import PairRule
from lifealign.data.cleaning import Cleaned, clean
from lifealign.data.fixing import write_rows
from lifealign.data.load import load_rows, task_from_rows
from lifealign.data.prompts import Prompt, decoded
from lifealign.data.verdicts import Rules
from support.records import read, write_jsonl

RANKED = {"prompt": "a?", "responses": ["w", "x", "y", "z"], "scores": [1, 4.2, 4.0, 2]}
PAIR = {"prompt": "b?", "chosen": "c", "rejected": "d", "score_chosen": 3, "score_rejected": 2.5}
PLAIN = {"prompt": "e?", "chosen": "f", "rejected": "g"}


def ruled(records: list[dict[str, Any]], rule: str) -> Cleaned:
    return clean(records, "f", rules=Rules(PairRule.parse(rule)))


def pairs(found: Cleaned) -> list[tuple[str, str, float | None]]:
    return [(row.chosen, row.rejected, row.margin) for row in found.rows]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("best-worst", [("x", "w", None)]),
        ("best-worst 3", [("x", "w", 3.2)]),
        ("best-worst 3.2", []),
        ("all-above 0.2", [("x", "z", 2.2), ("x", "w", 3.2), ("y", "z", 2.0), ("y", "w", 3.0), ("z", "w", 1.0)]),
        (
            "all-above 0",
            [("x", "y", 0.2), ("x", "z", 2.2), ("x", "w", 3.2), ("y", "z", 2.0), ("y", "w", 3.0), ("z", "w", 1.0)],
        ),
        ("all-above 3", [("x", "w", 3.2)]),
        ("all-above 9", []),
    ],
)
def test_a_list_of_scored_answers(rule: str, expected: list[tuple[str, str, float | None]]) -> None:
    found = ruled([RANKED], rule)
    assert pairs(found) == expected
    assert set(found.numbers) <= {1} and found.report.read == 1 and found.report.kept == len(expected)
    above = rule.partition(" ")[2]
    assert found.report.dropped == ({} if expected else {f"no two scores differ by more than {above}": (1,)})


def test_pairs_with_scores_and_without() -> None:
    reversed_pair = {**PAIR, "prompt": "h?", "score_chosen": 1}
    margin = {"prompt": "i?", "chosen": "j", "rejected": "k", "margin": 2}
    ranks = {"prompt": "l?", "responses": ["m", "n", "o"], "ranks": [2, 1, 3]}
    verdict = {"prompt": "p?", "response_a": "q", "response_b": "r", "score_a": 1, "score_b": 2}
    records = [PAIR, PLAIN, reversed_pair, margin, ranks, verdict]
    found = ruled(records, "best-worst 0.4")
    assert pairs(found) == [("c", "d", 0.5), ("f", "g", None), ("j", "k", 2.0), ("n", "o", 2.0), ("r", "q", 1.0)]
    assert found.report.dropped == {"no two scores differ by more than 0.4": (3,)}
    assert found.report.doubtful == {}
    every = ruled(records, "all-above 1")
    assert pairs(every) == [("f", "g", None), ("j", "k", 2.0), ("n", "o", 2.0)]
    assert every.report.dropped == {"no two scores differ by more than 1": (1, 3, 6)}


def test_the_default_rule_changes_no_row_and_no_configuration() -> None:
    rows = clean([RANKED, PAIR], "f").rows
    assert [row.margin for row in rows] == [None, None]
    assert SourceConfig(path="f").model_dump() == {"path": "f", "recipe": None, "split": "train", "data_dir": None}
    assert clean([RANKED], "f").report.rules == ()


def test_answers_that_are_alike_leave_their_pair_out() -> None:
    twice = {"prompt": "a?", "responses": ["w", "x", "x"], "scores": [1, 2, 3]}
    found = ruled([twice], "all-above 0")
    assert pairs(found) == [("x", "w", 2.0)]
    assert found.report.dropped == {"equal answers": (1,), "duplicate row": (1,)}


def test_a_task_keeps_the_rule_and_never_parts_the_pairs_of_a_prompt(tmp_path) -> None:
    records = [{**RANKED, "prompt": f"{i}?"} for i in range(6)]
    path = write_jsonl(tmp_path / "f.jsonl", records)
    task = task_from_rows("t", path, test_rows=6, pairs="all-above  0.0")
    assert (len(task.train), len(task.test)) == (30, 6)
    assert not {row.prompt for row in task.train} & {row.prompt for row in task.test}
    by_default = task_from_rows("t", path, pairs="all-above 0")
    assert (len(by_default.train), len(by_default.test)) == (30, 6)  # a fifth would be 7
    few = task_from_rows("t", path, pairs="all-above 2", seed=1)  # three pairs of each of six prompts
    assert (len(few.train), len(few.test)) == (15, 3)
    assert task.reports[0].lines()[:2] == [f"{path}: read 6 rows, kept 36", "rule for pairs: all-above 0"]
    assert task.reports[0].to_json()["rules"] == ["pairs: all-above 0"]
    assert read(path, pairs="best-worst 1")[0][0].margin == 3.2
    assert SourceConfig(path="f", pairs="all-above 0.50").pairs == "all-above 0.5"


def test_fixed_pairs_with_margins_have_their_scores(tmp_path) -> None:
    found = ruled([RANKED, PAIR, PLAIN], "all-above 0.3")
    fixed = write_rows(tmp_path / "out.jsonl", found)
    assert (fixed.rows, fixed.not_written) == (7, ())
    assert read(tmp_path / "out.jsonl", pairs="all-above 0.3")[0] == found.rows


def test_the_command_line_takes_the_rules(tmp_path, capsys) -> None:
    from typer.testing import CliRunner

    path = write_jsonl(tmp_path / "f.jsonl", [RANKED, {"prompt": "s?", "response": "t", "stars": 5}])
    run = CliRunner().invoke
    found = run(app, ["check-data", path, "--pairs", "all-above 1", "--good-from", "4", "--json"])
    document = json.loads(found.stdout)
    assert document["report"]["rules"] == ["pairs: all-above 1", "labels: good from 4, bad below 4"]
    assert document["report"]["kinds"] == {"pair": 4, "desirable": 1}
    wrong = run(app, ["check-data", path, "--pairs", "best"])
    assert wrong.exit_code == 2 and "pairs: expected best-worst, 'best-worst MARGIN'" in wrong.stderr
    learn = run(app, ["learn", str(tmp_path / "m"), path, "--name", "t", "--base-model", "x", "--bad-to", "1"])
    assert learn.exit_code == 2 and "bad_to must be below good_from" in learn.stderr
    assert not (tmp_path / "m").exists()


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.integers(0, 3))
def test_all_above_is_every_pair_that_differs_enough(scores: list[int], above: int) -> None:
    record = {"prompt": "a?", "responses": [f"answer {i}" for i in range(len(scores))], "scores": scores}
    found = ruled([record], f"all-above {above}")
    expected = {
        (f"answer {i if a > b else j}", f"answer {j if a > b else i}", float(abs(a - b)))
        for (i, a), (j, b) in combinations(enumerate(scores), 2)
        if abs(a - b) > above
    }
    assert set(pairs(found)) == expected and len(found.rows) == len(expected)


def test_a_transform_gives_pairs_margins_of_calibrated_scores() -> None:
    """InfAlign's calibration (arXiv 2412.19792) within one row: each score's share of the row's answers below it, ties half."""
    record = {"prompt": "p", "responses": ["a", "b", "c", "d"], "scores": [10, 20, 20, 50]}
    (best,) = load_rows([record], "x", reward_transform="identity").rows
    assert (best.chosen, best.rejected, best.margin) == ("d", "a", 0.75)
    several = load_rows([record], "x", reward_transform="exp -5", pairs="all-above 15")
    assert [(r.chosen, r.rejected) for r in several.rows] == [("d", "b"), ("d", "c"), ("d", "a")]
    assert several.rows[0].margin == pytest.approx(math.exp(-2.5) - math.exp(-5 * 0.875), abs=1e-9)
    assert "rule for margins: calibrated scores, transformed by exp -5" in several.report.lines()
    kept = Prompt.of_text("p").with_answer(decoded("a", {"n": 2, "responses": ["a", "b"], "scores": [1.0, 0.0]}))
    assert load_rows([kept], "x").rows[0].chosen == "a"  # what `--best-of N --option keep=true` writes can be learnt
    with pytest.raises(ConfigError, match="expected identity, log or 'exp T'"):
        load_rows([record], "x", reward_transform="cube")
