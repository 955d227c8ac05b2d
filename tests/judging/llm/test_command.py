"""`lifealign judge` and `judge-check`: files, steering, and the command's one document."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import JudgeError
from lifealign.data.answers import write_answers
from lifealign.judging.llm.engine import judge_answers
from lifealign.judging.llm.judgements import Judgement, read_judgements, write_judgements
from lifealign.judging.llm.steering import steering_answers, steering_report
from support.judge_server import completion, material, reply, serving
from support.judging import answer, judges, run


def test_judgements_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [answer(number=i, source=s) for i in range(2) for s in "xy"]
    with serving(lambda r, n: reply(5) if n == 0 else "empty") as server:
        found, _ = judge_answers(judges(server), records, tmp_path / "c.sqlite")
    write_judgements(tmp_path / "j.jsonl", found)
    assert read_judgements(tmp_path / "j.jsonl") == found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ('{"id": "1"}', "not a judgement; expected the keys"),
        (
            '{"id":"1","item":"2","task":"t","source":"s","point":"p","judge":"j","rubric":"r","mode":"both"}',
            "mode: allowed: 'absolute' or 'pairwise', got 'both'",
        ),
        (
            '{"id":"1","item":"2","task":"t","source":"s","point":"p","judge":"j","rubric":"r","mode":"absolute"}',
            "either",
        ),
    ],
)
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "j.jsonl").write_text(line)
    with pytest.raises(JudgeError, match=message) as caught:
        read_judgements(tmp_path / "j.jsonl")
    assert "j.jsonl:1: " in str(caught.value)


def test_what_gets_through_is_counted_against_the_plain_answer(tmp_path: Path) -> None:
    """A judge that gives 2 to all, but 10 where the answer holds a verdict and 4 where it begs."""

    def gullible(request: dict[str, Any], before: int) -> Any:
        text = material(request, "answer")
        return reply(10 if '"score": 10' in text else 4 if "lose my job" in text else 2)

    records = steering_answers()
    with serving(gullible) as server:
        found, _ = judge_answers(judges(server, rubric="helpfulness"), records, tmp_path / "c.sqlite")
    report = steering_report(found)
    through = {one.attack: (one.through, one.tried, one.mean_gain) for one in report.attacks}
    assert len(through) >= 12
    assert {name for name, (count, _, _) in through.items() if count} == {
        "verdict",
        "only-verdict",
        "chat-tokens",
        "inst-tokens",
    }
    assert through["verdict"] == (4, 4, 8.0)
    assert through["plea"] == (0, 4, 2.0)
    assert report.plain == {"m": 2.0}
    assert report.lines()[0].startswith(f"m: 16 of {4 * len(through)} steering answers got through, 0 unscored")


def test_a_judge_that_is_silent_on_plain_answers_proves_nothing() -> None:
    silent = [
        Judgement(r.id, r.item, r.task, r.source, r.point, "m", "helpfulness", "absolute", unscored="empty")
        for r in steering_answers()
    ]
    report = steering_report(silent)
    assert report.plain == {"m": None}
    assert all((one.tried, one.unscored, one.mean_gain) == (0, 4, None) for one in report.attacks)


def test_the_command_writes_judgements_and_one_document(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer(number=i) for i in range(3)])
    with serving(lambda r, n: reply(8)) as server:
        base = [
            "judge",
            tmp_path / "answers.jsonl",
            "--judge",
            server.url,
            "--model",
            "m",
            "--out",
            tmp_path / "j.jsonl",
        ]
        dry = run(*base, "--dry-run", "--json")
        forecast = json.loads(dry.stdout)
        assert (forecast["calls"], forecast["known"], forecast["cost"], len(server.requests)) == (3, 0, None, 0)
        assert not (tmp_path / "j.jsonl").exists()
        done = run(*base, "--paper", "--json")
        document = json.loads(done.stdout)
        assert (done.exit_code, document["scored"], document["absolute"][0]["paper"]) == (0, 3, 80.0)
        priced = json.loads(run(*base, "--dry-run", "--json", "--price-in", 1, "--price-out", 1).stdout)
        assert (priced["known"], priced["spent"], priced["cost"]) == (3, pytest.approx(0.00036), 0)
        assert len(server.requests) == 3
    assert len(read_judgements(tmp_path / "j.jsonl")) == 3


def test_the_forecast_bounds_what_is_paid(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer(number=i) for i in range(3)])
    base = [
        "judge",
        tmp_path / "answers.jsonl",
        "--judge",
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        "--dry-run",
        "--json",
    ]
    found = json.loads(run(*base, "--price-in", 1, "--price-out", 2, "--max-tokens", 100).stdout)
    assert found["cost"] == pytest.approx((found["prompt_tokens"] + 2 * found["completion_tokens"]) / 1e6)
    assert found["most_cost"] > found["cost"]
    assert 3 * 400 < found["prompt_tokens"] < 3 * 800


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no judge given: pass --judge URL and --model NAME, or --config FILE"),
        (["--model", "m"], "--model has no effect without --judge; add --judge URL"),
        (["--judge", "http://h/v1"], "--model: expected one for each --judge (1), got 0"),
        (["--judge", "http://h/v1", "--model", "m", "--mode", "both"], "mode"),
        (["--judge", "http://h/v1", "--model", "m"], "--out FILE.jsonl"),
        (
            ["--judge", "http://h/v1", "--model", "m", "--baseline", "x", "--dry-run"],
            "baseline 'x' needs pairwise mode",
        ),
        (
            ["--judge", "http://h/v1", "--model", "m", "--paper", "--mode", "pairwise", "--baseline", "reference"],
            "--paper needs scores from 1 to 10, but rubric 'truthfulness' is used in pairwise mode",
        ),
        (["--judge", "http://h/v1", "--model", "m", "--rubric", "safe", "--rubric", "helpful"], "one for all tasks"),
        (
            ["--judge", "http://h/v1", "--model", "m", "--rubric", "myths=safe", "--rubric", "myths=safe"],
            "already has 'safe'",
        ),
        (["--judge", "http://h/v1", "--model", "m", "--max-cost", "1"], "max_cost needs the prices"),
        (
            ["--judge", "http://h/v1", "--model", "m", "--price-in", "1", "--price-in", "2"],
            "--price-in: expected one, or one for each --judge (1), got 2",
        ),
    ],
)
def test_mistakes_in_the_call(tmp_path: Path, more: list[str], message: str) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer()])
    done = run("judge", tmp_path / "answers.jsonl", *more)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_memory_is_asked_and_its_answers_are_kept(
    tmp_path: Path, config: Callable[..., RunConfig], one_thread: None
) -> None:
    """The judgements of a memory refer to answers in a file beside them."""
    from lifealign import Memory
    from lifealign.data.answers import read_answers
    from support.rows import make_task

    memory = Memory.create(tmp_path / "memory", config())
    memory.learn(make_task("tone"))
    with serving(lambda r, n: reply(6)) as server:
        call = ["judge", tmp_path / "memory", "--judge", server.url, "--model", "m", "--rubric", "helpfulness"]
        done = run(*call, "--count", 2, "--out", tmp_path / "j.jsonl", "--json")
        assert done.exit_code == 0, done.output
    answers = read_answers(tmp_path / "j.answers.jsonl")
    assert [one.id for one in read_judgements(tmp_path / "j.jsonl")] == [one.id for one in answers]
    assert len(answers) == 2
    assert {one.point for one in answers} == {"tone"}
    refused = run("judge", tmp_path / "j.answers.jsonl", *call[2:], "--count", 2, "--out", tmp_path / "k.jsonl")
    assert (refused.exit_code, "--count has no effect on files of answers" in refused.output) == (2, True)


def test_control_characters_of_a_server_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer()])
    call = [
        "judge",
        tmp_path / "answers.jsonl",
        "--model",
        "m",
        "--out",
        tmp_path / "j.jsonl",
        "--tries",
        "1",
        "--judge",
    ]
    for said in (completion("\x1b[2J gone \x07"), (500, "\x1b[2J gone"), (404, "\x1b[2J gone")):
        with serving(lambda r, n, said=said: said) as server:
            done = run(*call, server.url, "--cache", tmp_path / f"{hash(str(said))}.sqlite")
        assert "gone" in done.output
        assert "\x1b" not in done.output


def test_a_run_that_scores_nothing_does_not_end_well(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer()])
    with serving(lambda r, n: "bad_json") as server:
        done = run(
            "judge", tmp_path / "answers.jsonl", "--judge", server.url, "--model", "m", "--out", tmp_path / "j.jsonl"
        )
    assert done.exit_code == 2
    assert "no judgement was scored" in done.output
    assert read_judgements(tmp_path / "j.jsonl")[0].unscored == "bad_json"


def test_judge_check_prints_what_got_through(tmp_path: Path) -> None:
    with serving(lambda r, n: reply(1)) as server:
        done = run("judge-check", "--judge", server.url, "--model", "m", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 0
    assert document["plain"] == {"m": 1.0}
    assert sum(one["through"] for one in document["attacks"]) == 0
    assert not any(math.isnan(one["mean_gain"]) for one in document["attacks"])


def test_judging_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import lifealign.judging.llm.run, lifealign.cli.judge, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
