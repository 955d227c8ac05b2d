"""States of prompts, disagreement and the page's data, from answers whose verdicts are written down by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.core.errors import DataError
from lifealign.data.answers import AnswerRecord, write_answers
from lifealign.data.tasks import Message
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.opinions import Opinion, read_judgements, read_ratings
from lifealign.report.answers import build_threads, counts, criteria_of, page_document, render_page, state_of
from support.answers import life


@pytest.mark.parametrize(
    ("signs", "state"),
    [
        ("", "unknown"),
        (".", "unknown"),
        ("-", "never"),
        ("---", "never"),
        ("+", "kept"),
        ("+++", "kept"),
        ("+.+", "kept"),
        ("+-", "forgotten"),
        ("++-", "forgotten"),
        ("-+-", "passing"),
        ("+-+-", "forgotten"),
        ("-+-+-", "passing"),
        ("+-+", "recovered"),
        ("-+-+", "recovered"),
        ("-+", "later"),
        ("--+.+", "later"),
    ],
)
def test_state_of_a_prompt(signs: str, state: str) -> None:
    assert state_of([{"+": True, "-": False, ".": None}[sign] for sign in signs]) == state


def test_answers_before_the_task_have_no_part_in_its_state() -> None:
    # Task two is learnt at the third point: what it answered before, good or bad, is not forgotten and not learnt.
    records = life("a?", "++--", task="two") + life("b?", "--++", task="two")
    first, second = build_threads(records)
    assert [a.before for a in first.answers] == [True, True, False, False]
    assert (first.states["rule"], second.states["rule"]) == ("never", "kept")
    # Learnt in one go: the commit has no task's name, so all but the base model count.
    joint = [
        AnswerRecord.of("two", [Message("user", "c?")], "x", source="j", point=p, stage=s, scores={"pass_rate": 1.0})
        for p, s in (("joint", 3), ("base", 0))
    ]
    (thread,) = build_threads(joint)
    assert [(a.record.point, a.before) for a in thread.answers] == [("base", True), ("joint", False)]


def test_threads_counts_and_criteria() -> None:
    records = life("a?", "-+--") + life("b?", "-+-+") + life("a?", "-+++", source="other") + life("c?", "....")
    threads = build_threads(records[::-1])
    assert len(threads) == 4 and criteria_of(threads) == ["rule"]
    assert counts(threads, "rule") == {
        "one": {"forgotten": 1, "recovered": 1, "passing": 0, "never": 0, "later": 0, "kept": 1, "unknown": 1}
    }
    again = AnswerRecord.of("one", [Message("user", "a?")], "else", source="ours", point="one", stage=1)
    with pytest.raises(DataError, match="ours answered one prompt twice at 'one'"):
        build_threads([*records, again])


def test_verdicts_of_judge_people_and_the_pair() -> None:
    (answer, *_) = life("a?", "....")
    answer = AnswerRecord.of(
        "one", answer.prompt, "x", source="s", point="one", stage=1, scores={"accuracy": 0.5, "pass_rate": None}
    )
    opinions = [
        Opinion(answer.id, "judge", "a", score=9),
        Opinion(answer.id, "judge", "b", score=4),
        Opinion(answer.id, "judge", "c", unscored="refused"),  # not a zero: the mean stays 6.5
        Opinion(answer.id, "people", "d", score=7),
        Opinion("elsewhere", "people", "d", score=1),
    ]
    ((seen,),) = [t.answers for t in build_threads([answer], opinions)]
    assert seen.verdicts == {"rule": None, "judge": False, "people": True, "preference": False}
    assert len(seen.opinions) == 4
    assert build_threads([answer], opinions)[0].disagreement
    assert not build_threads([answer], opinions, good=6.5)[0].disagreement


def test_disagreement_about_a_pair() -> None:
    records = life("a?", "....") + life("b?", "....")
    x, y = records[1].id, records[3].id

    def threads(judges: list[str], people: list[str]) -> list[bool]:
        opinions = [
            side
            for who, outcomes in (("judge", judges), ("people", people))
            for outcome in outcomes
            for side in Opinion(x, who, "n", versus=y, outcome=outcome).both_sides()  # type: ignore[arg-type]
        ]
        return [t.disagreement for t in build_threads(records, opinions)]

    assert threads(["won", "won"], ["lost"]) == [True, False]
    assert threads(["won"], ["won"]) == [False, False]
    assert threads(["won"], ["tie"]) == [False, False]
    assert threads(["won", "lost"], ["lost"]) == [False, False]  # the judge's two positions cancel
    assert threads(["won"], ["lost", "lost", "won"]) == [True, False]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judgement(answer: str = "x", mode: Any = "absolute", **options: Any) -> dict[str, Any]:
    return Judgement(answer, "i", "one", "ours", "one", "m", "safe", mode, **options).to_json()


def test_judgements_and_ratings_from_files(tmp_path: Path) -> None:
    judgements = write(
        tmp_path / "j.jsonl",
        judgement(score=3, words="No.\u2028Never."),
        judgement(unscored="timeout"),
        judgement(unscored="bad_json", detail="Well, ..."),
        judgement(mode="pairwise", other="y", winner="b", words="Because."),
    )
    assert read_judgements(judgements) == [
        Opinion("x", "judge", "m", 3.0, words="No.\u2028Never.", rubric="safe"),
        Opinion("x", "judge", "m", unscored="every try timed out", rubric="safe"),
        Opinion("x", "judge", "m", unscored="the reply is not one JSON object", words="Well, ...", rubric="safe"),
        Opinion("x", "judge", "m", versus="y", outcome="lost", words="Because.", rubric="safe"),
        Opinion("y", "judge", "m", versus="x", outcome="won", words="Because.", rubric="safe"),
    ]
    ratings = write(
        tmp_path / "r.jsonl",
        {"annotator": "anna", "mode": "absolute", "answer": "x", "score": 8, "comment": "Fine"},
        {"annotator": "anna", "mode": "pairwise", "left": "x", "right": "y", "winner": "left", "score": None},
        {"annotator": "anna", "mode": "absolute", "answer": "x", "score": None, "flag": True},
    )
    assert read_ratings(ratings) == [
        Opinion("x", "people", "anna", 8.0, words="Fine"),
        Opinion("x", "people", "anna", versus="y", outcome="won"),
        Opinion("y", "people", "anna", versus="x", outcome="lost"),
    ]
    good = {"annotator": "anna", "mode": "pairwise", "left": "x", "right": "y", "winner": "left"}
    for row, said in [
        ({"mode": "absolute"}, "row 1: missing 'annotator'"),
        (good | {"right": None}, "row 1: missing 'right'"),
        (good | {"winner": "x"}, "winner: allowed: 'left', 'right' or 'tie', got 'x'"),
        (good | {"mode": "absolute", "score": 9}, "row 1: missing 'answer'"),
        (good | {"mode": "absolute", "answer": "x", "score": "9"}, "score: expected a number, got '9'"),
    ]:
        with pytest.raises(DataError, match=said):
            read_ratings(write(tmp_path / "bad.jsonl", row))


def test_texts_are_stored_once_and_end_no_script() -> None:
    records = life("</script><script>alert(1)</script>", "++++", answer="<!--<script> \u2028 &amp;")
    same = [AnswerRecord.of("one", r.prompt, "same", source="s", point=r.point, stage=r.stage) for r in records]
    threads = build_threads(records + same)
    page = render_page(threads, "A <b> & title")
    assert page.lower().count("</script") == 2 and "<title>A &lt;b&gt; &amp; title</title>" in page
    embedded = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None and "<" not in embedded[1]
    assert json.loads(embedded[1]) == json.loads(json.dumps(page_document(threads)))
    assert page_document(threads)["texts"].count("same") == 1


def test_command(tmp_path: Path) -> None:
    records = life("a?", "-+--") + life("b?", "-+++") + life("c?", "--++", task="two")
    write_answers(tmp_path / "a.jsonl", records)
    judged = write(tmp_path / "j.jsonl", judgement(records[0].id, score=9))
    out = tmp_path / "new" / "page.html"

    def call(*more: str) -> Any:
        return CliRunner().invoke(app, ["compare", str(tmp_path / "a.jsonl"), "--out", str(out), *more])

    document = json.loads(call("--task", "one", "--judgements", str(judged), "--json").stdout)
    assert document["prompts"] == 2 and document["disagreements"] == 0 and document["out"] == str(out)
    assert document["states"]["rule"]["one"]["forgotten"] == document["states"]["rule"]["one"]["kept"] == 1
    assert out.read_text().startswith("<!doctype html>")
    assert "  one: 1 forgotten, 1 kept\n  two: 1 kept\n" in call().stdout
    other = write(tmp_path / "o.jsonl", judgement("0" * 16, score=9))
    for more, said in [
        (["--task", "three"], "no answers for task 'three'; choose from: one, two"),
        (["--judgements", str(other)], "none of its 1 lines is about these answers"),
        (["--count", "3"], "--count, --max-new-tokens and --split have no effect on files of answers"),
        (["--out", "page.txt"], "expected a file name that ends in .html, got '.txt'"),
    ]:
        refused = call(*more)
        assert refused.exit_code == 2 and said in refused.stderr


def test_the_report_links_to_the_page(tmp_path: Path) -> None:
    from lifealign.report.answers import summary
    from lifealign.report.memories import build_results, render_html

    threads = build_threads(life("a?", "-+--") + life("b?", "-+++") + life("a?", "-+-+", source="other"))
    found = summary(threads, "answers.html")
    assert [(row["source"], row["task"], row["counts"]) for row in found["rows"]] == [
        ("ours", "one", [1, 0, 0, 0, 0, 1, 0]),
        ("other", "one", [0, 1, 0, 0, 0, 0, 0]),
    ]
    page = render_html(build_results([], answers=found))
    assert page.count('href="answers.html#show=forgotten&amp;task=one&amp;source=ours"') == 1
    assert "good is the task&#39;s rule" in page
    assert "answers.html" not in render_html(build_results([]))


def test_report_command_writes_it(tmp_path: Path, config: Any) -> None:
    from lifealign import Memory

    memory = Memory.create(config().memory, config())
    write_answers(tmp_path / "a.jsonl", life("a?", "-+--"))
    call = ["report", str(memory.path), "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*call, "--answers", str(tmp_path / "a.jsonl"), "--json"])
    assert json.loads(result.stdout)["answers"]["rows"][0]["counts"] == [1, 0, 0, 0, 0, 0, 0]
    assert (tmp_path / "report" / "answers.html").exists()
    refused = CliRunner().invoke(app, [*call, "--ratings", str(tmp_path / "a.jsonl")])
    assert refused.exit_code == 2 and "add --answers FILE" in refused.stderr
