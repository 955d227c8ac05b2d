"""Tags, notes, differences and gates of a real memory, whose scores are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError, DataError, StoreError
from lifealign.data.tasks import Task
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory
from lifealign.memory.life import NOTE_LENGTH, checked_note
from lifealign.store.layout import ROOT
from lifealign.strategies.configure import read_config
from support.rows import make_task, rows

NAMES = ("bread", "stars", "music")


@pytest.fixture(scope="module")
def made(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks that were learnt and a third that was rolled back; `production` is the first."""
    path = tmp_path_factory.mktemp("life") / "memory"
    base: dict[str, Any] = {
        "memory": str(path),
        "model": {"name": str(tiny_dir), "dtype": "float32"},
        "lora": {"r": 2, "alpha": 4},
        "strategy": {"name": "sequential"},
        "train": {"epochs": 1, "pairs_per_step": 4},
        "evaluate": {"before": False, "bootstrap": 200},
    }
    memory = Memory.create(path, read_config(None, base=base))
    for name in NAMES:
        memory.learn(make_task(name, train=6, test=4), note=f" from the {name} desk " if name != "stars" else None)
    memory.rollback("stars")
    memory.tag("bread", "production")
    return path


@pytest.fixture
def memory(made: Path, tmp_path: Path) -> Memory:
    from support.store import copy

    return Memory.open(copy(made, tmp_path / "memory"))


def put(memory: Memory, after: str, values: dict[str, Sequence[float]], **scores: dict[str, Sequence[float]]) -> None:
    """Replace the scores at a point: an evaluation with as many rows is preferred to an earlier one."""
    from lifealign.data.tasks import rows_sha256
    from lifealign.store.heldout import heldout

    known = {task.name: rows_sha256(task.test) for task in heldout(memory._store)}
    named = {"accuracy": values, **scores}
    tasks = {task for found in named.values() for task in found}
    record = {
        "kind": "row",
        "after": after,
        "options": {"split": "test", "rows": None, "generations": 0},
        "scores": [
            {
                "task": task,
                "rows": {name: list(found[task]) for name, found in named.items() if task in found},
                "answers": [],
                "rows_sha256": known[task],
                "floors": {},
            }
            for task in sorted(tasks)
        ],
    }
    with memory._store.writer() as store:
        store.append_evaluation(record)


@pytest.fixture
def scored(memory: Memory) -> Memory:
    """bread fell from 100 to 50, by rows 2 and 4; stars is at 75."""
    put(memory, "0001-bread", {"bread": [1, 1, 1, 1]}, nll={"bread": [1, 1, 1, 1]})
    put(
        memory,
        "0002-stars",
        {"bread": [1, 0, 1, 0], "stars": [0, 1, 1, 1]},
        nll={"bread": [2, 2, 2, 2], "stars": [4, 4, 4, 4]},
    )
    return memory


def test_a_tag_is_a_point_of_evaluate_generate_export_and_answers(memory: Memory, tmp_path: Path) -> None:
    from lifealign.memory.answering import Asked

    assert memory.evaluate(as_of="production").after == "0001-bread"
    prompt = ["how do I bake bread?"]
    options: dict[str, Any] = {"max_new_tokens": 4}
    assert memory.generate(prompt, as_of="production", **options) == memory.generate(prompt, as_of="bread", **options)
    assert {record.point for record in memory.answers(Asked(at=("production",), count=1))} == {"bread"}
    assert memory.export(tmp_path / "adapter", as_of="production").is_dir()
    assert memory.show("production")["tags"] == ["production"]


def test_notes_are_kept_with_the_commit_and_shown(memory: Memory) -> None:
    assert [(e["name"], e["note"]) for e in memory.log()] == [
        ("initial", None),
        ("bread", "from the bread desk"),
        ("stars", None),
        ("music", "from the music desk"),
    ]
    assert memory.show("bread")["note"] == "from the bread desk" and memory.show("stars")["note"] is None
    assert "note" not in memory._store.find("stars").meta, "a commit without a note has the bytes it always had"


def test_learning_again_with_another_note_keeps_the_first_and_says_so(
    memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    from lifealign.core.progress import make_progress

    memory.rollback("bread")
    task = make_task("bread", train=6, test=4)
    memory.learn(task, progress=make_progress())
    assert "was committed before" not in capsys.readouterr().err
    memory.learn(task, note="other", progress=make_progress())
    assert "0001-bread was committed before, with the note 'from the bread desk'" in capsys.readouterr().err
    assert memory.show("bread")["note"] == "from the bread desk"


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("", "note of 0 characters: allowed: 1 to 1000"),
        (" \n", "note of 0 characters: allowed: 1 to 1000"),
        ("x" * (NOTE_LENGTH + 1), "note of 1001 characters"),
        ("a\x1b[31m", r"'\\x1b' is a control character"),
        ("a\tb", r"'\\t' is a control character"),
    ],
)
def test_a_note_that_cannot_be_kept(note: str, message: str, memory: Memory) -> None:
    with pytest.raises(ConfigError, match=message):
        memory.learn(Task("next", rows("next", 6)), note=note)
    assert len(memory.log()) == 4


def test_a_note_may_have_lines() -> None:
    assert checked_note(" März\nüber 40 ") == "März\nüber 40" and checked_note(None) is None


def test_no_task_is_learnt_under_the_name_of_a_tag(memory: Memory) -> None:
    evaluations = len(memory._store.evaluations())
    with pytest.raises(DataError, match=r"'production' is a tag of this memory \(0001-bread\)"):
        memory.learn(Task("production", rows("next", 6)), settings=["evaluate.before=true"])
    assert len(memory.log()) == 4 and len(memory._store.evaluations()) == evaluations


def test_tasks_up_to_a_point(memory: Memory) -> None:
    assert memory.tasks() == ["bread", "stars"]
    assert memory.tasks("production") == ["bread"] and memory.tasks("base") == []


def test_diff_counts_the_rows_gained_and_lost(scored: Memory) -> None:
    found = scored.diff("production", "now")
    bread = found.tasks["bread"]["accuracy"]
    assert (found.a, found.b, bread.a, bread.b, bread.difference, bread.rows) == (
        "0001-bread",
        "0002-stars",
        100.0,
        50.0,
        -50.0,
        4,
    )
    assert bread.low == -100.0 and bread.high == 0.0  # of 4 rows, 2 fell
    tests = make_task("bread", train=6, test=4).test
    assert bread.gained == [] and bread.lost == [{"row": n, "prompt": tests[n - 1].prompt[-1].content} for n in (2, 4)]
    nll = found.tasks["bread"]["nll"]
    assert (nll.difference, nll.low, nll.high, nll.gained, nll.lost) == (1.0, 1.0, 1.0, None, None)
    assert found.missing == {"stars": "learnt after 0001-bread, and not scored before"} and found.later == ["stars"]
    assert found.lines()[1].startswith("  bread  accuracy 100 -> 50: -50 over 4 rows; ")
    assert found.lines()[1].endswith("gained 0, lost 2 (rows 2, 4)")
    back = scored.diff("now", "production").tasks["bread"]["accuracy"]
    assert back.difference == 50.0 and back.lost == [] and [row["row"] for row in back.gained or ()] == [2, 4]
    json.dumps(found.to_json())


def test_diff_of_points_without_scores_says_how_to_get_them(scored: Memory) -> None:
    found = scored.diff("bread", "now", "validation")
    assert found.tasks == {} and "not scored at both points; run lifealign evaluate" in found.missing["bread"]
    assert scored.diff(ROOT, "now").missing["bread"] == "learnt after 0000-initial, and not scored before"
    with pytest.raises(StoreError, match="no task 'music'"):
        scored.diff("music", "now")


def test_diff_compares_the_rows_that_both_points_scored(scored: Memory) -> None:
    put(scored, "0002-stars", {"bread": [1, 0, 1, 0]}, pass_rate={"bread": [1, 0]})
    put(scored, "0001-bread", {"bread": [1, 1, 1, 1]}, pass_rate={"bread": [0, 0, 1]})
    found = scored.diff("bread", "stars").tasks["bread"]["pass_rate"]
    assert (found.a, found.b, found.rows) == (0.0, 50.0, 2)
    assert [row["row"] for row in found.gained or ()] == [1]


@pytest.mark.parametrize(
    ("text", "against", "value", "held"),
    [
        ("min.accuracy>=60", None, 50.0, False),
        ("max>=75", None, 75.0, True),
        ("max.nll<=3", None, 4.0, False),
        ("drop<=49", None, 50.0, False),
        ("drop.nll<=1", None, 1.0, True),  # of a loss: it rose by 1
        ("bread.accuracy>=51", None, 50.0, False),
        ("stars>=75", None, 75.0, True),
        ("low(bread)>=16", None, 15.003898915214958, False),  # Wilson, 2 of 4: (3.92 - 1.96 sqrt(1.96)) / 7.84
        ("high(drop)<=100", None, 100.0, True),
        ("last>=62", None, 62.5, True),
        ("drop<=50", "production", 50.0, True),
        ("change>=-49", "production", -50.0, False),
        ("change.nll<=1", "production", 1.0, True),
        ("low(change)>=-99", "production", -100.0, False),
        ("drop<=0", "now", 0.0, True),
    ],
)
def test_gates_have_the_values_of_the_scores(
    scored: Memory, text: str, against: str | None, value: float, held: bool
) -> None:
    gate = Gate.parse(text, scored.tasks(), against=against is not None)
    (result,) = scored.check([gate], against=against)
    assert result.value == pytest.approx(value) and result.held is held


def test_a_gate_names_the_task_that_decides(scored: Memory) -> None:
    gates = [Gate.parse(text) for text in ("min>=60", "max.nll<=3", "drop<=5")]
    assert [result.detail for result in scored.check(gates)] == ["bread", "stars", "bread"]
    (since,) = scored.check(gates[2:], against="production")
    assert since.detail == "bread, since production (0001-bread)"


def test_the_outcome_of_gates_is_kept_once_for_reports(scored: Memory) -> None:
    gates = [Gate.parse("min>=60")]
    scored.check(gates)
    assert "gates" not in scored.results(), "kept only if asked for"
    for _ in range(2):
        scored.check(gates, keep=True)
    assert [record["kind"] for record in scored._store.evaluations()].count("gates") == 1
    kept = scored.results()["gates"]
    assert (kept["after"], kept["now"]) == ("stars", True)
    assert [(gate["gate"], gate["value"], gate["held"]) for gate in kept["gates"]] == [
        ("min.accuracy>=60", 50.0, False)
    ]
    assert scored.verify() == []
    scored.rollback("bread")
    assert "gates" not in scored.results(), "that point is no longer in the lineage"


def test_memories_beside_each_other_are_paired_over_their_rows(scored: Memory) -> None:
    same = scored.beside([scored])
    assert {(d["a"], d["b"], d["value"], d["low"], d["high"]) for d in same} == {(0, 1, 0.0, 0.0, 0.0)}
    assert ("accuracy", "last") in {(d["score"], d["summary"]) for d in same}
    assert scored.beside([]) == []


def test_the_first_month_has_no_backward_transfer_and_no_drop(scored: Memory) -> None:
    scored.rollback("bread")
    gates = [Gate.parse("bwt>=-1"), Gate.parse("drop<=1"), Gate.parse("min>=90")]
    assert [result.held for result in scored.check(gates)] == [False, False, True]
    assert [result.held for result in scored.check(gates, no_value="pass")] == [True, True, True]
    (against_base,) = scored.check([Gate.parse("drop<=1")], against="base")
    assert not against_base.held and "no task was learnt at base (0000-initial)" in against_base.why


def test_a_memory_without_a_task_has_no_values(scored: Memory) -> None:
    scored.rollback("base")
    results = scored.check([Gate.parse("min>=1"), Gate.parse("bwt>=0")])
    assert [result.value for result in results] == [None, None]
