"""Text metrics: the paper's golden numbers, numbers derived by hand, floors, and the way into a memory's scores."""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.suites.planted_rules import refuses
from lifealign.data.tasks import Message, Row, Task
from lifealign.evaluation import catalog, text_metrics
from lifealign.evaluation.answer_scores import FLOORS, floor_answers
from lifealign.evaluation.gates import Gate, check_gates
from lifealign.evaluation.outside import require
from lifealign.evaluation.results import ScoreTable, run_results
from lifealign.evaluation.text_metrics import distinct, length_words
from lifealign.memory.api import Memory
from lifealign.report import views as report_views
from lifealign.report.memories import build_results, render_html
from support.golden import golden_numbers
from support.rows import make_task

needed = sorted({p for m in catalog.text_metrics().values() for p in m.packages})
if absent := [p for p in needed if importlib.util.find_spec(p) is None]:
    pytest.skip(f"the extra 'text' is not installed: {absent}", allow_module_level=True)

Build = Callable[..., RunConfig]


def test_golden_numbers_of_the_papers_metrics() -> None:
    cases = golden_numbers("text_metrics")
    assert len(cases) == 4
    for case in cases:
        pair = case["prediction"], case["reference"]
        assert text_metrics.paper_bleu4(*pair) == pytest.approx(case["char_bleu4"], abs=1e-6)
        assert text_metrics.paper_rouge_l(*pair) == pytest.approx(case["rouge_l"], abs=1e-6)


def test_paper_bleu4_by_hand() -> None:
    """ "abxd" against "abcd": 3 of 4 characters, 1 of 3 pairs, 0 of 2, 0 of 1; smoothing 3 makes them 1/(2*2), 1/(4*1)."""
    by_hand = 100 * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert text_metrics.paper_bleu4("abxd", "abcd") == pytest.approx(by_hand)


def test_paper_rouge_l_segments_chinese() -> None:
    """jieba: 我 来到 北京 against 我 离开 北京: 2 of 3 words on both sides; by white space it would be 0 of 1."""
    assert text_metrics.paper_rouge_l("我来到北京", "我离开北京") == pytest.approx(200 / 3)


def test_sentence_bleu_by_hand() -> None:
    """Effective order: "the cat" has 2 of 2 words and 1 of 1 pairs, no longer n-grams; brevity exp(1 - 4/2)."""
    assert text_metrics.bleu("the cat", "the cat sat down") == pytest.approx(100 * math.exp(-1))


def test_chrf_by_hand() -> None:
    """ "ab" against "ac": 1 of 2 characters, 0 of 1 pairs, precision = recall = 1/4 over the orders that both have."""
    assert text_metrics.chrf("ab", "ac") == pytest.approx(25.0)


def test_rouge_l_by_hand() -> None:
    """Longest common subsequence of "the cat ran" and "the black cat sat" is "the cat": P 2/3, R 2/4, F1 4/7."""
    assert text_metrics.rouge_l("The cat ran.", "the black cat sat") == pytest.approx(100 * 4 / 7)
    assert text_metrics.rouge_l("running", "run") == 0, "no stemming"


def test_metrics_without_a_reference() -> None:
    assert length_words(" two\n words ") == 2
    assert length_words("") == 0
    assert distinct("the cat and The dog", 1) == pytest.approx(4 / 5)
    assert distinct("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct("word", 2) == distinct("", 1) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI model, I am unable to say.", True),
        ("That is not something I can do.", True),
        ("You can find it here.", False),
        ("one two three four five six seven eight I cannot", True),
        ("one two three four five six seven eight nine I cannot", False),
        ('["I cannot"]', False),
        ("", False),
    ],
)
def test_what_is_a_refusal(text: str, expected: bool) -> None:
    assert refuses(text) is expected
    assert text_metrics.refusal_rate(text) == expected


@pytest.mark.parametrize("name", catalog.text_metrics())
def test_every_metric_stays_in_its_range_and_knows_its_best(name: str) -> None:
    metric = catalog.score(name)
    formula = metric.of_answer
    assert formula is not None and metric.low is not None
    reference = "The quick brown fox jumps over the lazy dog today."
    texts = ["", " ", "a", "the the the the", "I can't. \n\n 我 {}", reference, reference * 3]
    values = [formula(a, b) for a in texts for b in texts]
    assert all(v >= metric.low and v <= (math.inf if metric.high is None else metric.high + 1e-9) for v in values)
    assert formula.__doc__ and metric.label and metric.note
    if metric.packages:
        assert formula(reference, reference) == pytest.approx(metric.high)
        assert formula("xylophone", reference) < 20


def test_a_missing_library_is_one_message_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in ("jieba", "rouge_score") else real(n))
    require(["bleu", "length_words"])
    message = "evaluate.text_metrics ['paper_rouge_l', 'bleu']: jieba, rouge-score not installed; pip install jieba rouge-score"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        require(["paper_rouge_l", "bleu"])


def test_the_module_needs_neither_torch_nor_the_libraries_to_be_imported() -> None:
    code = f"import sys, lifealign.evaluation.text_metrics, lifealign.report.memories; assert not {{'torch', *{needed!r}}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- floors -----------------------------------------------------------------------------------------------------------

ROWS = [Row((Message("user", f"q{i}"),), f"good {i}", f"bad {i}") for i in range(6)]


def test_floor_answers() -> None:
    floors = floor_answers(ROWS[:3], ROWS)
    assert list(floors) == list(FLOORS)
    assert floors["prompt"] == ["q0", "q1", "q2"]
    assert floors["rejected"] == ["bad 0", "bad 1", "bad 2"]
    assert all(other in {r.chosen for r in ROWS if r != row} for row, other in zip(ROWS, floors["other"], strict=False))
    assert floor_answers(ROWS[1:3], ROWS)["other"] == floors["other"][1:], "a row's draw is its own"
    drawn = floor_answers(ROWS, ROWS)["other"]
    assert len(set(drawn)) > 2, "not one answer for all"
    for i in range(len(ROWS) - 1):
        first, second = ROWS[i : i + 2]
        assert floor_answers(ROWS[i : i + 2], ROWS[i : i + 2])["other"] == [second.chosen, first.chosen]
    assert set(floor_answers(ROWS[:1], ROWS[:1])) == {"prompt", "rejected"}, "no other row: missing, not zero"


# --- through a memory -------------------------------------------------------------------------------------------------


@pytest.fixture
def learnt(config: Build, tmp_path: Path, one_thread: None) -> Memory:
    """A task without a rule, with text metrics, and then one with a rule."""
    settings = ("evaluate.generations=3", "evaluate.text_metrics=[chrf, refusal_rate, length_words]")
    memory = Memory.create(tmp_path / "memory", config(*settings, "evaluate.max_new_tokens=6", "evaluate.before=false"))
    memory.learn(make_task("bread"))
    stars = make_task("stars")
    memory.learn(Task("stars", stars.train, stars.validation, stars.test, "data-json"))
    return memory


def test_answers_floors_and_scores_of_a_memory(learnt: Memory) -> None:
    test = make_task("bread").test
    record = [r for r in learnt._store.evaluations() if r["after"] == "0002-stars"][-1]
    assert record["options"]["text_metrics"] == ["chrf", "refusal_rate", "length_words"]
    scores = {s["task"]: s for s in record["scores"]}
    bread, stars = scores["bread"], scores["stars"]
    # A task without a rule has answers, but no pass rate.
    assert "pass_rate" not in bread["rows"] and [a["passed"] for a in bread["answers"]] == [None] * 3
    assert len(stars["rows"]["pass_rate"]) == 3 and len(stars["rows"]["margin"]) == 4
    for answer, row, value in zip(bread["answers"], test[:3], bread["rows"]["chrf"], strict=True):
        assert answer["prompt"] == row.prompt[-1].content
        assert answer["scores"]["chrf"] == value == text_metrics.chrf(answer["answer"], row.chosen)
        assert answer["scores"]["length_words"] == len(answer["answer"].split())
    assert bread["floors"]["prompt"]["chrf"] == [text_metrics.chrf(r.prompt[-1].content, r.chosen) for r in test[:3]]
    assert bread["floors"]["rejected"]["chrf"] == [text_metrics.chrf(r.rejected, r.chosen) for r in test[:3]]
    assert len(bread["floors"]["other"]["chrf"]) == 3
    assert stars["floors"]["rejected"]["pass_rate"] == [0, 0, 0]
    # The same at every stage: floors belong to the rows.
    (first,) = [
        r for r in learnt._store.evaluations() if r["after"] == "0001-bread" and r["scores"][0]["task"] == "bread"
    ]
    assert first["scores"][0]["floors"] == bread["floors"]


def test_results_report_and_gates(learnt: Memory) -> None:
    results = learnt.results()
    assert results["scores"]["chrf"]["R"][0][1] is None and results["scores"]["chrf"]["R"][1][0] is not None
    test = {name: make_task(name).test[:3] for name in ("bread", "stars")}
    by_task = [sum(text_metrics.chrf(r.rejected, r.chosen) for r in test[n]) / 3 for n in ("bread", "stars")]
    floor = results["floors"]["chrf"]["rejected"]
    assert floor["tasks"] == pytest.approx(by_task) and floor["mean"] == pytest.approx(sum(by_task) / 2)
    assert results["floors"]["pass_rate"]["rejected"] == {"tasks": [None, 0.0], "mean": 0.0}
    assert results["floors"]["length_words"]["rejected"]["tasks"] == [6.0, 6.0]  # "no idea of 3 at all"
    assert "margin" not in results["floors"]
    html = render_html(build_results([results, results | {"seed": 1}]))
    assert html.count("Scores of trivial answers") == 4  # pass_rate and three metrics; runs with equal floors share
    assert f'<data value="{floor["mean"]}">' in html
    panels = {p["name"]: p for p in report_views.page(build_results([results, results | {"seed": 1}]))["panels"]}
    assert [row["label"] for row in panels["chrf"]["floors"][0]["rows"]] == list(FLOORS.values())
    marked = {n: any(c["best"] for r in p["table"]["rows"] for c in r["cells"]) for n, p in panels.items()}
    assert not any(marked.values()), "two runs with the same scores: neither is best"
    summary = learnt.summary()
    held = check_gates([Gate.parse("last.chrf>=0"), Gate.parse("last.refusal_rate<=100")], summary)
    assert all(result.held for result in held)
    assert learnt.show("stars")["scores"]["bread"]["length_words"] == results["scores"]["length_words"]["R"][1][0]


def test_rates_are_in_percent_and_points_are_left_as_they_are() -> None:
    rows: dict[str, Any] = {"distinct_1": [1.0, 0.5], "chrf": [40.0, 20.0]}
    table = ScoreTable(("a",), ("0001-a",), {"0001-a": {"a": rows}}, {"a": {"prompt": {"distinct_1": [0.25, 0.75]}}})
    assert table.mean("0001-a", "a", "distinct_1") == 75 and table.mean("0001-a", "a", "chrf") == 30
    assert table.floor("a", "prompt", "distinct_1") == 50 and math.isnan(table.floor("a", "other", "chrf"))


def test_metrics_asked_for_later(learnt: Memory) -> None:
    evaluation = learnt.evaluate(["bread"], as_of="bread", text_metrics=["distinct_2"], generations=2)
    assert evaluation.tasks["bread"]["distinct_2"]["rows"] == 2
    assert evaluation.tasks["bread"]["chrf"]["rows"] == 3, "what was measured before is still known"
    count = len(learnt._store.evaluations())
    learnt.evaluate(["bread"], as_of="bread", text_metrics=["distinct_2"], generations=2)
    assert len(learnt._store.evaluations()) == count, "not measured twice"
    learnt.evaluate(["bread"], split="validation", generations=0)  # none of the configured metrics either
    assert learnt._store.evaluations()[-1]["scores"][0]["answers"] == []
    with pytest.raises(ConfigError, match=r"text_metrics \['chrf'\] score generated answers, but generations=0"):
        learnt.evaluate(generations=0, text_metrics=["chrf"])
    with pytest.raises(ConfigError, match=r"^evaluate.text_metrics: unknown text metric 'meteor'; allowed: bleu, "):
        learnt.evaluate(text_metrics=["meteor"])


def test_a_missing_library_is_found_out_before_training(
    config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("evaluate.generations=1", "evaluate.text_metrics=[chrf]", "evaluate.before=false")
    memory = Memory.create(tmp_path / "memory", config(*settings))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "sacrebleu" else real(n, *a))
    with pytest.raises(ConfigError, match=r"\['chrf'\]: sacrebleu not installed; pip install sacrebleu$"):
        memory.learn(make_task("bread"))
    assert [e["name"] for e in memory.log()] == ["initial"]


def test_conversations_are_answered(learnt: Memory) -> None:
    """A string is one user turn, and a conversation is read as a whole."""
    turns = (Message("user", "stars question 1?"),)
    before = (Message("user", "hello"), Message("assistant", "yes?"))
    single, same, longer = learnt.generate(["stars question 1?", turns, before + turns], max_new_tokens=12)
    assert single == same != longer


def test_records_without_floors_are_read(learnt: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {
        path: {**r, "scores": [{k: v for k, v in s.items() if k != "floors"} for s in r["scores"]]}
        for path, r in learnt._store.evaluations_by_file().items()
    }
    monkeypatch.setattr(type(learnt._store), "evaluations_by_file", lambda self: old)
    assert run_results(learnt._store, learnt._table(None))["floors"] == {}
