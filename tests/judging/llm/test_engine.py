"""Judging against a scripted server: what is counted, what is paid, and what goes wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.core.errors import JudgeError
from lifealign.data.answers import write_answers
from lifealign.judging.llm.config import read_judge_config
from lifealign.judging.llm.engine import judge_answers
from lifealign.judging.llm.judgements import Judgement, read_judgements
from lifealign.judging.llm.summary import summarise
from support.judge_server import completion, material, reply, serving, winner
from support.judging import HELPFULNESS, answer, judges

KEY = "sk-test-0123456789abcdefSECRET"


# --- against a server ---


def longest_wins(request: dict[str, Any], before: int) -> Any:
    a, b = material(request, "answer A"), material(request, "answer B")
    return winner("A" if len(a) > len(b) else "B")


def test_pairwise_agreement_win_rate_and_bias(tmp_path: Path) -> None:
    """Four pairs. Two where the judge sees quality in both orders (one won, one lost), one where it takes whatever stands
    first, one of equal answers, which is not asked. So: win rate (1 + 0 + .5 + .5) / 4 = 50%, orders agree in 3 of 4, and
    the first shown wins in 4 of 6 verdicts."""

    def judge(request: dict[str, Any], before: int) -> Any:
        a, b = material(request, "answer A"), material(request, "answer B")
        return winner("A" if "first" in a + b or "good" in a else "B")

    pairs = [("good", "bad"), ("bad", "good"), ("first", "second"), ("same", "same")]
    records = [
        answer(text, source=who, number=i) for i, pair in enumerate(pairs) for text, who in zip(pair, "xy", strict=True)
    ]
    with serving(judge) as server:
        found, totals = judge_answers(judges(server, mode="pairwise", baseline="y"), records, tmp_path / "c.sqlite")
        assert totals.calls == len(server.requests) == 6
    (row,) = summarise(found).pairwise
    assert (row["answers_of"], row["against"], row["task"]) == ("x@now", "y@now", "myths")
    assert (row["wins"], row["ties"], row["losses"]) == (1, 2, 1)
    assert row["win_rate"]["value"] == 50.0
    assert row["orders_agree"] == 75.0
    assert row["first_wins"] == pytest.approx(100 * 4 / 6)
    assert [one.winner for one in found] == ["a", "a", "b", "b", "a", "b", "tie", "tie"]


def test_length_control_stands_beside_the_win_rate(tmp_path: Path) -> None:
    """A judge that takes the longer answer: ours is longer in 15 of 20 pairs. 75% raw, much less for equal lengths."""
    records = []
    for i in range(20):
        records += [
            answer("word " * (30 if i % 4 else 10), source="x", number=i),
            answer("word " * 20, source="y", number=i),
        ]
    with serving(longest_wins) as server:
        found, _ = judge_answers(judges(server, mode="pairwise", baseline="y"), records, tmp_path / "c.sqlite")
    (row,) = summarise(found).pairwise
    assert row["win_rate"]["value"] == 75.0
    assert 50 < row["length_controlled"]["value"] < 72
    assert row["orders_agree"] == 100.0


def test_a_panel_means_scores_and_counts_votes(tmp_path: Path) -> None:
    """Judges of 4, 7 and 10 mean 7; in pairwise two of three are a majority."""

    def judge(request: dict[str, Any], before: int) -> Any:
        model = request["model"]
        if "winner" in request["messages"][-1]["content"]:
            good_first = "good" in material(request, "answer A")
            return winner("A" if good_first == (model != "j3") else "B")
        if model == "j3" and "sky 1" in material(request, "conversation"):
            return "empty"
        return reply({"j1": 4, "j2": 7, "j3": 10}[model])

    records = [answer("good", source="x"), answer("bad", source="y"), answer("good", source="x", number=1)]
    with serving(judge) as server:
        judges = [{"url": server.url, "model": f"j{i}"} for i in (1, 2, 3)]
        scored, _ = judge_answers(read_judge_config(None, {"judges": judges}), records, tmp_path / "c.sqlite")
        pairs, _ = judge_answers(
            read_judge_config(None, {"judges": judges, "mode": "pairwise", "baseline": "y"}),
            records,
            tmp_path / "c.sqlite",
        )
    rows = {(row["judge"], row["answers_of"]): row for row in summarise(scored, paper=True).absolute}
    assert rows["panel", "x@now"]["score"]["value"] == 7.0
    assert rows["panel", "x@now"]["paper"] == 70.0
    assert (rows["panel", "x@now"]["answers"], rows["panel", "x@now"]["scored"]) == (2, 1), (
        "one judge was silent on one"
    )
    assert rows["panel", "x@now"]["unscored"] == {"a judge's score is missing": 1}
    assert (rows["j3", "x@now"]["scored"], rows["j3", "x@now"]["unscored"]) == (1, {"empty": 1})
    assert summarise(scored).agreement["absolute"]["value"] < 0, "three judges that never agree"
    votes = {row["judge"]: row["win_rate"]["value"] for row in summarise(pairs).pairwise}
    assert votes == {"j1": 100.0, "j2": 100.0, "j3": 0.0, "panel": 100.0}


def test_an_unscored_answer_is_left_out_of_the_mean_and_counted(tmp_path: Path) -> None:
    scores = {0: reply(2), 1: reply(4), 2: "out_of_scale", 3: reply(6)}
    with serving(lambda r, n: scores[int(material(r, "conversation")[-2])]) as server:
        found, totals = judge_answers(judges(server), [answer(number=i) for i in range(4)], tmp_path / "c.sqlite")
    summary = summarise(found)
    (row,) = summary.absolute
    assert row["score"]["value"] == 4.0, "not (2+4+0+6)/4"
    assert row["unscored"] == summary.unscored == {"out_of_scale": 1}
    assert "unscored: 1 out_of_scale (the score is not on the rubric's scale), e.g. score 11" in "\n".join(
        summary.lines()
    )
    assert (totals.prompt_tokens, totals.completion_tokens) == (400, 80), "an unscored reply is paid for all the same"


def test_a_row_without_a_reference_is_not_asked(tmp_path: Path) -> None:
    with serving(lambda r, n: reply()) as server:
        found, totals = judge_answers(judges(server), [answer(reference=None)], tmp_path / "c.sqlite")
        assert (found[0].unscored, totals.calls, len(server.requests)) == ("no_reference", 0, 0)


def test_equal_questions_are_asked_and_paid_once(tmp_path: Path) -> None:
    records = [answer("same", source="x"), answer("same", source="y")]
    with serving(lambda r, n: reply(8)) as server:
        found, totals = judge_answers(judges(server), records, tmp_path / "c.sqlite")
        assert len(server.requests) == 1
    assert [one.score for one in found] == [8, 8]
    assert [one.prompt_tokens for one in found] == [100, 0]
    assert totals.prompt_tokens == 100


def test_costs_add_up_and_unknown_is_not_zero(tmp_path: Path) -> None:
    """100 prompt tokens at 2 a million and 20 completion tokens at 5: 0.0003 a call."""
    records = [answer(number=i) for i in range(3)]
    priced = {"url": "", "model": "m", "price_in": 2, "price_out": 5}
    with serving(lambda r, n: reply(usage=None if "sky 2" in material(r, "conversation") else (100, 20))) as server:
        panel = {"judges": [{**priced, "url": server.url}]}
        found, totals = judge_answers(read_judge_config(None, panel), records[:2], tmp_path / "c.sqlite")
        assert [one.cost for one in found] == [pytest.approx(0.0003)] * 2
        assert totals.cost == pytest.approx(0.0006)
        found, totals = judge_answers(read_judge_config(None, panel), records, tmp_path / "c.sqlite")
        assert (totals.known, found[2].cost, found[2].prompt_tokens) == (2, None, None)
        assert (totals.cost, totals.uncounted) == (None, 1)
        found, totals = judge_answers(judges(server), records[:2], tmp_path / "c.sqlite")
        assert (totals.cost, found[0].cost) == (None, None), "no price given"


def test_max_cost_is_never_exceeded_and_a_later_run_goes_on(tmp_path: Path) -> None:
    """A try is only sent if the most that it can cost still fits, and what it did cost frees the rest."""
    records = [answer(number=i) for i in range(40)]
    with serving(lambda r, n: reply()) as server:
        judge = {"url": server.url, "model": "m", "price_in": 1000, "price_out": 1000}

        def run(limit: float | None) -> tuple[list[Judgement], Any]:
            settings = read_judge_config(None, {"judges": [judge], "max_cost": limit, "max_tokens": 20})
            return judge_answers(settings, records, tmp_path / "c.sqlite")

        found, totals = run(5.0)  # a call costs 0.12, and at most about 2.5
        short = sum(one.unscored == "max_cost" for one in found)
        assert 0 < short < 40
        assert totals.cost == pytest.approx(0.12 * (40 - short))
        assert totals.cost <= 5.0
        again, same = run(5.0)
        assert (again, same.tries) == (found, 0), "what earlier runs paid counts"
        found, totals = run(None)
        assert (totals.known, totals.cost) == (40 - short, pytest.approx(4.8))
        assert max(server.paid.values()) == 1


@pytest.mark.parametrize(
    ("refused", "message", "left"),
    [
        ("response_format", "Unknown parameter: 'response_format'", ["response_format"]),
        ("temperature", "'temperature' does not support 0 with this model", ["temperature"]),
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", ["max_tokens"]),
    ],
)
def test_a_server_is_asked_without_what_it_does_not_take(
    tmp_path: Path, refused: str, message: str, left: list[str]
) -> None:
    def judge(request: dict[str, Any], before: int) -> Any:
        return (400, json.dumps({"error": {"message": message}})) if refused in request else reply(9)

    with serving(judge) as server:
        found, totals = judge_answers(judges(server), [answer(number=i) for i in range(12)], tmp_path / "c.sqlite")
        assert [one.score for one in found] == [9] * 12
        assert totals.left_out == {"m": left}
        assert ("max_completion_tokens" in server.requests[-1]) == (refused == "max_tokens")
        assert totals.unanswered == 0


def test_a_template_without_system_messages_gets_one_user_message(tmp_path: Path) -> None:
    def judge(request: dict[str, Any], before: int) -> Any:
        roles = [m["role"] for m in request["messages"]]
        return reply() if roles == ["user"] else (400, '{"error": "System role not supported"}')

    with serving(judge) as server:
        found, _ = judge_answers(judges(server), [answer()], tmp_path / "c.sqlite")
        assert found[0].score == 7
        assert HELPFULNESS.name != "" and "You judge answers" in server.requests[-1]["messages"][0]["content"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_run_with_one_message(tmp_path: Path, status: int) -> None:
    with serving(lambda r, n: (status, '{"error": {"message": "no such thing"}}')) as server:
        records = [answer(number=i) for i in range(50)]
        with pytest.raises(JudgeError, match=f"HTTP {status} for model 'm': .*no such thing"):
            judge_answers(judges(server), records, tmp_path / "c.sqlite")
        assert len(server.requests) <= 16, "the other calls were not sent after that"


def test_no_server_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1:9/v1: no server answers"):
        judge_answers(judges("http://127.0.0.1:9/v1"), [answer()], tmp_path / "c.sqlite")


def test_a_server_that_drips_is_given_up(tmp_path: Path) -> None:
    """A byte each 0.2 s never lets the time between two bytes run out."""
    with serving(lambda r, n: "drip") as server:
        start = time.monotonic()
        found, totals = judge_answers(judges(server, timeout=0.7, tries=1), [answer()], tmp_path / "c.sqlite")
        assert time.monotonic() - start < 5
    assert (found[0].unscored, totals.unanswered) == ("timeout", 1)


def test_judges_that_agree_have_an_alpha_of_one(tmp_path: Path) -> None:
    with serving(lambda r, n: reply(1 + int(material(r, "conversation")[-2]))) as server:
        judges = [{"url": server.url, "model": name} for name in ("j1", "j2")]
        settings = read_judge_config(None, {"judges": judges})
        found, _ = judge_answers(settings, [answer(number=i) for i in range(4)], tmp_path / "c.sqlite")
    summary = summarise(found)
    assert summary.agreement["absolute"]["value"] == 1.0
    assert any("Krippendorff's alpha 1.00" in line for line in summary.lines())


def test_two_processes_do_not_share_a_cache(tmp_path: Path) -> None:
    from lifealign.judging.llm.cache import open_cache

    with open_cache(tmp_path / "c.sqlite"), pytest.raises(JudgeError, match="another process"):
        judge_answers(judges("http://127.0.0.1:9/v1"), [answer()], tmp_path / "c.sqlite")


def test_a_cache_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").write_text("not a database, but long enough to be taken for one" * 10)
    with pytest.raises(JudgeError, match=r"c\.sqlite: cannot use this cache of calls"):
        judge_answers(judges("http://127.0.0.1:9/v1"), [answer()], tmp_path / "c.sqlite")


# --- keys ---


def test_the_key_is_in_no_file_output_or_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server repeats the key in verdicts, in broken replies and in errors."""
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-provider")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-provider")
    write_answers(tmp_path / "answers.jsonl", [answer(number=i) for i in range(4)])
    said: list[Any] = [
        completion(json.dumps({"explanation": f"Your key is {KEY}", "score": 3})),
        completion(f"no verdict, but {KEY}"),
        (500, f"error for Bearer {KEY}"),
        (200, f'{{"broken": "{KEY}'),
    ]
    with serving(lambda r, n: said[int(material(r, "conversation")[-2])]) as server:
        call = ["judge", str(tmp_path / "answers.jsonl"), "--judge", server.url, "--model", "m", "--key-env", "MY_KEY"]
        call += ["--tries", "1", "--cache", str(tmp_path / "c.sqlite"), "--out", str(tmp_path / "out.jsonl")]
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 0, done.output
        assert {h["authorization"] for h in server.headers} == {f"Bearer {KEY}"}, "the server did get it"
        assert not any("another-provider" in json.dumps(h) for h in server.headers)
        said[2] = (401, f"Incorrect key provided: {KEY}")
        denied = CliRunner().invoke(app, call)
        assert denied.exit_code == 2
        assert "HTTP 401" in denied.output
    everything = done.output + denied.output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert KEY not in everything
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    words = [one.words for one in read_judgements(tmp_path / "out.jsonl")]
    assert words[0] == "Your key is [key]"


def test_without_the_variable_no_key_of_another_provider_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-provider")
    monkeypatch.delenv("LIFEALIGN_JUDGE_KEY", raising=False)
    with serving(lambda r, n: reply()) as server:
        judge_answers(judges(server), [answer()], tmp_path / "c.sqlite")
        assert server.headers[0]["authorization"] == "Bearer none"


def test_a_variable_that_holds_no_key_is_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFEALIGN_JUDGE_KEY", "gëheim geheim")
    with pytest.raises(JudgeError, match="LIFEALIGN_JUDGE_KEY: not a key") as caught:
        judge_answers(judges("http://127.0.0.1:9/v1"), [answer()], tmp_path / "c.sqlite")
    assert "heim " not in str(caught.value)
