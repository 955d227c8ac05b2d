"""The guard of general ability against plain forwards of the model, and its columns against hand-made records."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lifealign import Memory
from lifealign.cli.app import app
from lifealign.core.errors import DataError
from lifealign.evaluation.gates import Gate, check_gates
from lifealign.evaluation.guard_results import guard_results
from lifealign.memory.guard import read_questions, text_windows
from lifealign.report.memories import build_results, render_html, scores_csv
from lifealign.store.layout import ROOT
from support.paths import ROOT as PROJECT
from support.rows import make_task

TEXT = "how do I bake bread at home? the answer is one short sentence. " * 3
QUESTIONS = [
    {"question": "how do I bake bread?", "choices": ["at home", "in one short sentence", "the bread"], "answer": i}
    for i in (0, 1, 2)
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    text, questions = tmp_path / "text.txt", tmp_path / "questions.jsonl"
    text.write_text(TEXT)
    questions.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return text, questions


@pytest.fixture
def memory(config: Any, files: tuple[Path, Path]) -> Memory:
    settings = [f"guard.text={files[0]}", "guard.window=24", "guard.stride=10", f"guard.choices={files[1]}"]
    made = config(*settings)
    memory = Memory.create(made.memory, made)
    results = [memory.learn(make_task(name)) for name in ("one", "two")]
    assert [results[1].scores[f"guard.{name}"] for name in memory.results()["guard"]] == [
        column["stages"][1]["value"] for column in memory.results()["guard"].values()
    ]
    return memory


def test_windows_by_hand() -> None:
    assert text_windows(range(10), 4, 2) == [
        ((0,), (1, 2, 3)),
        ((2, 3), (4, 5)),
        ((4, 5), (6, 7)),
        ((6, 7), (8, 9)),
    ]
    assert text_windows(range(4), 9, 3) == [((0,), (1, 2, 3))]
    assert text_windows(range(7), 4, 2)[-1] == ((3, 4, 5), (6,))  # the last one is short, its context is not
    assert text_windows([5], 4, 2) == []


def plain_logps(model: Any, context: list[int], new: list[int]) -> float:
    """Summed log-prob of `new` after `context`, by an ordinary forward."""
    ids = torch.tensor([[*context, *new]])
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=ids).logits[0].float(), -1)
    return float(sum(logps[len(context) + i - 1, token] for i, token in enumerate(new)))


def test_values_are_those_of_plain_forwards(memory: Memory) -> None:
    """After the last task, with the adapter on: per window and per question."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    model, tokenizer = session.model, session.encoder.tokenizer
    model.eval()
    records = [r for r in memory._store.evaluations() if r["kind"] == "guard"]
    now = {r["options"]["probe"]: r["scores"] for r in records if r["after"] == memory._store.head.directory}
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    expected = [-plain_logps(model, list(c), list(n)) for c, n in text_windows(ids, 24, 10)]
    assert now["text"]["nll"] == pytest.approx(expected, rel=1e-4)
    assert sum(now["text"]["tokens"]) == len(ids) - 1
    correct = []
    for q in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": q["question"]}], tokenize=False, add_generation_prompt=True
        )
        context = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        means = []
        for choice in q["choices"]:
            new = tokenizer(choice, add_special_tokens=False)["input_ids"]
            means.append(plain_logps(model, context, new) / len(new))
        correct.append(float(means.index(max(means)) == q["answer"]))
    assert now["choices"] == {"correct": correct, "left_out": 0} and sum(correct) == 1


def test_measured_before_any_task_and_after_each_once(memory: Memory) -> None:
    records = [(r["after"], r["options"]["probe"]) for r in memory._store.evaluations() if r["kind"] == "guard"]
    points = [m.directory for m in memory._store.lineage()]
    assert records == [(p, probe) for p in points for probe in ("text", "choices")] and len(records) == 6
    memory.evaluate()
    assert len([r for r in memory._store.evaluations() if r["kind"] == "guard"]) == 6
    # The base model's value is that of the adapter before training, which changes nothing.
    column = memory.results()["guard"]["perplexity"]
    assert column["before"]["value"] != column["stages"][1]["value"]
    assert column["summary"]["guard"] == column["stages"][1]
    tax = column["stages"][1]["value"] - column["before"]["value"]
    assert column["summary"]["tax"]["value"] == pytest.approx(tax)


class Records:
    """Evaluation records by hand."""

    def __init__(self, *records: tuple[str, str, dict[str, Any]], sha: str = "s") -> None:
        self.records = [
            {"kind": "guard", "after": after, "options": {"probe": probe, "path": "f", "sha256": sha}, "scores": scores}
            for after, probe, scores in records
        ]

    def evaluations_by_file(self) -> dict[str, dict[str, Any]]:
        return {f"{number}.json": record for number, record in enumerate([{"kind": "other"}, *self.records])}


def test_columns_by_hand() -> None:
    log2, log4 = math.log(2), math.log(4)
    store = Records(
        (ROOT, "text", {"nll": [10 * log2, 30 * log2], "tokens": [10, 30]}),
        ("0001-a", "text", {"nll": [10 * log2, 30 * log4], "tokens": [10, 30]}),
        (ROOT, "choices", {"correct": [1.0, 1.0, 0.0, 0.0], "left_out": 2}),
        ("0002-b", "choices", {"correct": [1.0, 0.0, 0.0, 0.0], "left_out": 2}),
    )
    found = guard_results(store, ["0001-a", "0002-b"], 200)  # type: ignore[arg-type]
    text, choices = found["perplexity"], found["choice_accuracy"]
    # (10 log 2 + 30 log 4) / 40 nats a token: 2^(70/40).
    assert text["before"]["value"] == pytest.approx(2.0) and text["before"]["low"] == pytest.approx(2.0)
    assert text["stages"][0]["value"] == pytest.approx(2**1.75)
    assert text["stages"][0]["low"] == pytest.approx(2.0) and text["stages"][0]["high"] == pytest.approx(4.0)
    assert math.isnan(text["stages"][1]["value"]) and math.isnan(text["summary"]["tax"]["value"])  # not measured
    assert [cell["value"] for cell in choices["stages"]] == [pytest.approx(math.nan, nan_ok=True), 25.0]
    assert choices["before"]["value"] == 50.0
    tax = choices["summary"]["tax"]
    assert tax["value"] == 25.0 and tax["low"] == 0.0 and tax["high"] <= 75.0  # one question of four was lost
    assert (choices["rows"], choices["left_out"]) == (4, 2)


def test_another_file_is_another_column() -> None:
    old = Records((ROOT, "choices", {"correct": [1.0], "left_out": 0})).records
    store = Records(("0001-a", "choices", {"correct": [0.0, 1.0], "left_out": 0}), sha="other")
    store.records = [*old, *store.records]
    column = guard_results(store, ["0001-a"], 20)["choice_accuracy"]  # type: ignore[arg-type]
    assert math.isnan(column["before"]["value"]) and column["stages"][0]["value"] == 50.0
    assert guard_results(Records(), ["0001-a"], 20) == {}  # type: ignore[arg-type]
    # Tasks learnt in one go have one stage.
    joint = guard_results(store, ["0001-a", "0001-a"], 20)["choice_accuracy"]  # type: ignore[arg-type]
    assert [math.isnan(cell["value"]) for cell in joint["stages"]] == [True, False]


def test_report_csv_and_gates(memory: Memory) -> None:
    results = build_results([memory.results()])
    guard = results["runs"][0]["guard"]
    page = render_html(results)
    for column in guard.values():
        for cell in (column["before"], *column["stages"], column["summary"]["tax"]):
            assert f'<data value="{cell["value"]}">' in page
    lines = [line for line in csv.DictReader(io.StringIO(scores_csv(results))) if line["task"] == "guard"]
    assert [(line["metric"], line["stage"]) for line in lines] == [
        (metric, stage) for metric in ("perplexity", "choice_accuracy") for stage in ("before", "one", "two")
    ]
    assert float(lines[2]["value"]) == guard["perplexity"]["stages"][1]["value"]
    value = guard["perplexity"]["summary"]["guard"]["value"]
    gates = [
        Gate.parse(t)
        for t in (f"guard.perplexity<={value + 1}", f"guard.perplexity<={value - 1}", "tax.choice_accuracy<=100")
    ]
    assert [r.held for r in check_gates(gates, memory.summary())] == [True, False, True]


def test_evaluate_guards_a_memory_that_was_made_without(config: Any, files: tuple[Path, Path]) -> None:
    made = config()
    memory = Memory.create(made.memory, made)
    memory.learn(make_task("one"))
    assert "guard" not in memory.results() and "General ability" not in render_html(build_results([memory.results()]))
    call = ["evaluate", str(memory.path), "--guard-choices", str(files[1]), "--gate"]
    result = CliRunner().invoke(app, [*call, "tax.choice_accuracy<=100", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and list(document["guard"]) == ["choice_accuracy"]
    assert document["guard"]["choice_accuracy"]["rows"] == 3
    result = CliRunner().invoke(app, [*call, "tax.perplexity<=100"])
    assert result.exit_code == 3 and "tax.perplexity was not measured" in result.stderr
    assert "guard.choice_accuracy: before any task" in result.stdout


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "no 'question'"),
        ({"question": " ", "choices": ["a", "b"], "answer": 0}, "question must be non-blank text"),
        ({"question": "q", "choices": "ab", "answer": 0}, "choices must be a list of non-blank texts"),
        ({"question": "q", "choices": ["a", "a"], "answer": 0}, "two or more choices, all different"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "two or more choices, all different"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "answer must be a position from 0 to 1, got 2"),
        ({"question": "q", "choices": ["a", "b"], "answer": "A"}, "answer must be a position from 0 to 1, got 'A'"),
    ],
)
def test_questions_that_are_none(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"q.jsonl: row 2: .*{said}"):
        read_questions(str(path))


def test_the_examples_are_what_their_users_read() -> None:
    import yaml

    root = PROJECT
    questions = read_questions(str(root / "examples" / "guard" / "questions.jsonl"))
    # Every position is the right one equally often: a model that always takes one of them gets a quarter.
    assert [sum(q.answer == i for q in questions) for i in range(4)] == [8, 8, 8, 8]
    task = yaml.safe_load((root / "examples" / "lm_eval" / "lifealign_guard.yaml").read_text())
    assert task["dataset_kwargs"]["data_files"]["test"] == "examples/guard/questions.jsonl"
    assert len((root / "examples" / "guard" / "text.txt").read_text(encoding="utf-8")) > 2000
