"""Drift of a tiny memory: values against plain forwards of the model, records that are reused, gates, and columns of R."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lifealign import DriftAsked, Memory
from lifealign.cli.app import app
from lifealign.core.errors import ConfigError, DataError
from lifealign.evaluation.measures.branching import nucleus
from lifealign.evaluation.measures.shift import divergence, ranks
from lifealign.evaluation.results import read_scores
from lifealign.memory.policies import Policies
from lifealign.memory.session import Session
from lifealign.store.layout import DRIFT_RECORD
from support.rows import make_task

SMALL = DriftAsked(count=2, samples=3, max_new_tokens=5)


@pytest.fixture(scope="module")
def memory(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Memory:
    from lifealign.testing import tiny_config

    made = tiny_config(tiny_dir, tmp_path_factory.mktemp("drift") / "memory", "train.learning_rate=0.02")
    memory = Memory.create(made.memory, made)
    for name in ("one", "two"):
        memory.learn(make_task(name))
    memory.drift(SMALL)
    return memory


def records(memory: Memory) -> list[dict[str, Any]]:
    return [r for r in memory._store.evaluations() if r["kind"] == DRIFT_RECORD]


def plain(session: Session, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Any:
    """The distribution at each token of an answer, by an ordinary forward."""
    with torch.no_grad():
        logits = session.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
    return torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].numpy()


def test_values_are_those_of_plain_forwards(memory: Memory) -> None:
    """At the newest point, of the first task: the three measures, computed again from answers and whole forwards."""
    session, store = memory.loaded(), memory._store
    policies, lineage = Policies(session, store), memory._store.lineage()
    rows = make_task("one").test[:2]
    prompts = policies.prompt_ids([r.prompt for r in rows], list(rows))
    found = {}
    for material in ("nucleus", "samples", "greedy"):
        policies.use(lineage[2], "one")
        answers = policies.answers(prompts, material, 3, 5, 0, "")  # type: ignore[arg-type]
        assert [len(own) for own in answers] == [1 if material == "greedy" else 3] * 2
        at = {}
        for policy, point in (("now", lineage[2]), ("previous", lineage[1]), ("base", lineage[0])):
            policies.use(point, "one")
            at[policy] = [[plain(session, p, a) for a in own] for p, own in zip(prompts, answers, strict=True)]
        found[material] = answers, at
    stored = {
        r["options"]["measure"]: r["scores"][0]["values"] for r in records(memory) if r["after"] == lineage[2].directory
    }
    entropies = [[nucleus(one).entropy.mean() for one in own] for own in found["nucleus"][1]["now"]]
    assert np.log(stored["branching"]["branching_factor"]) == pytest.approx(np.mean(entropies, 1), rel=0.05)
    kl = [np.mean([divergence(a, b).sum() for a, b in zip(now, base, strict=True)]) for now, base in zip(*(found["samples"][1][p] for p in ("now", "base")), strict=True)]  # fmt: skip
    assert stored["ledger"]["kl_total"] == pytest.approx(kl, rel=1e-3)
    for k, (now, base) in enumerate(zip(*(found["greedy"][1][p] for p in ("now", "base")), strict=True)):
        assert now[0].argmax(1).tolist() == list(found["greedy"][0][k][0])
        assert stored["shift"]["unshifted_share"][k] == pytest.approx((ranks(now[0], base[0]) == 1).mean())


def test_every_point_is_measured_once(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons begin with the first task. A repeated call computes nothing, and another setting is another record."""
    points = [m.directory for m in memory._store.lineage()]
    taken = [(r["after"], r["options"]["measure"]) for r in records(memory)]
    assert taken == [(points[0], "branching"), *((p, m) for p in points[1:] for m in ("branching", "shift", "ledger"))]
    monkeypatch.setattr(Memory, "_session", lambda *_: pytest.fail("the model is not needed"))
    again = memory.drift(SMALL)
    assert len(records(memory)) == len(taken)
    branching = again.results["measures"]["branching"]
    assert again.results["points"] == ["base", "one", "two"] and branching["tasks"] == ["one", "two"]
    assert [cell["rows"] for cell in branching["all"]["branching_factor"]] == [4, 4, 4]
    ledger = again.results["measures"]["ledger"]
    steps = [cell["value"] for cell in ledger["all"]["kl_step"][1:]]
    assert ledger["all"]["kl_total"][1]["value"] == pytest.approx(
        steps[0]
    )  # the point before the first task is the base
    assert ledger["summary"][2]["kl_spent"]["value"] == pytest.approx(sum(steps))
    assert "Branching factor" in "\n".join(again.lines())


def test_columns_of_r_gates_and_the_report(memory: Memory, tmp_path: Path) -> None:
    results = memory.results()
    R = results["scores"]["branching_factor"]["R"]
    assert all(value > 1 for row in R for value in row) and results["scores"]["branching_factor"]["before"]
    one = read_scores(memory._store, "test", one_adapter=True)  # drift is measured on the policy alone
    assert not any("branching_factor" in cell for row in one.rows.values() for cell in row.values())
    assert "shifted_share" in results["summary"]
    call = ["drift", str(memory.path), "--count", "2", "--samples", "3", "--max-new-tokens", "5", "--json"]
    gates = [
        "kl_total<=1000",
        "drift.branching_factor>=1",
        "branching_factor>=1",
        "one.shifted_share<=100",
        "kl_spent<=0",
    ]
    done = CliRunner().invoke(app, [*call, *(part for gate in gates for part in ("--gate", gate))])
    document = json.loads(done.stdout)
    assert done.exit_code == 3 and [g["held"] for g in document["gates"]] == [True] * 4 + [False]
    assert "gate drift.kl_spent<=0 failed" in done.stderr
    done = CliRunner().invoke(app, ["report", str(memory.path), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text()
    assert done.exit_code == 0 and page.count("KL of the task, two: ") == 3  # all prompts, and each task's
    for name in ("kl_totl", "drift.kl_totl"):
        done = CliRunner().invoke(app, [*call, "--gate", f"{name}<=1"])
        assert done.exit_code == 2 and "kl_totl" in done.stdout


def test_principles_read_the_held_out_pairs(memory: Memory) -> None:
    found = memory.drift(DriftAsked(measures=["principles"], at=["base", "now"])).results["measures"]["principles"]
    count = 2 * len(make_task("one").test)
    assert [cell and cell["rows"] for cell in found["all"]["preference"]] == [count, None, count]
    assert sum(found["summary"][2]["pairs"].values()) == count and list(found["columns"]) == ["preference"]
    assert found["summary"][1] == {} and "discrepancy_base" in found["summary"][2]


def test_a_file_of_prompts_and_a_strangers_measure(memory: Memory, tmp_path: Path) -> None:
    """The measure is kept with its words and its origin, and is read from the records without its file."""
    prompts, mine = tmp_path / "prompts.jsonl", tmp_path / "mine.py"
    prompts.write_text('{"prompt": "how do I bake?"}\n')
    mine.write_text('def tokens(seen):\n    """How long answers are."""\n    return {"tokens": len(seen.answers[0])}\n')
    asked = DriftAsked([f"{mine}:tokens"], ["now"], prompts=str(prompts), samples=2, max_new_tokens=4)
    found = memory.drift(asked).results["measures"][f"{mine}:tokens"]
    assert found["tasks"] == ["prompts"] and 1 <= found["all"]["tokens"][2]["value"] <= 4
    assert found["meaning"] == "How long answers are."
    own = records(memory)[-1]
    assert own["described"][f"{mine}:tokens"]["origin"]["path"] == str(mine)
    mine.unlink()
    assert memory.results()["drift"]["measures"][f"{mine}:tokens"] == found
    memory.score_notes()
    assert "tokens" not in memory.results()["scores"]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (DriftAsked(count=0), ConfigError, "count=0: allowed: 1 <= count"),
        (DriftAsked(samples=1), ConfigError, "samples=1: allowed: 2 <= samples"),
        (DriftAsked(split="train"), ConfigError, "split 'train'"),
        (DriftAsked(["shfit"]), ConfigError, "unknown drift measure 'shfit' .did you mean 'shift'"),
        (DriftAsked(prompts="nowhere.jsonl"), DataError, "nowhere.jsonl: no such file"),
        (
            DriftAsked(["principles"], prompts="nowhere.jsonl"),
            ConfigError,
            "principles reads pairs of held-out rows, and",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    memory: Memory, asked: DriftAsked, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "_session", lambda *_: pytest.fail("the model is not needed"))
    with pytest.raises(error, match=message):
        memory.drift(asked)


def test_a_routed_memory_answers_through_its_router(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point's prompts go through the router of that point; points are put in place again without the disk."""
    made = config("strategy.route=true")
    memory = Memory.create(made.memory, made)
    for name in ("one", "two"):
        memory.learn(make_task(name))
    used: list[int] = []
    routed = Session.routed

    def counted(self: Session, prompts: Any) -> Any:
        used.append(self._routed[1].index if self._routed else 0)
        return routed(self, prompts)

    monkeypatch.setattr(Session, "routed", counted)
    memory.drift(DriftAsked(["shift"], ["now"], count=1, max_new_tokens=3))
    # For each task: answers of point 2, then the distributions of point 2, of the base, which routes nothing, and of point 1.
    assert used == [2, 2, 0, 1] * 2


def test_a_planted_token_is_among_those_that_shifted_most(config: Any) -> None:
    """Trained to answer "zzz", the model's most shifted tokens contain the planted one (URIAL's own test)."""
    from dataclasses import replace

    made = config("sft.epochs=20", "sft.learning_rate=0.02", "train.learning_rate=1e-6", "lora.r=8")
    memory = Memory.create(made.memory, made)
    task = make_task("one")
    memory.learn(replace(task, train=tuple(replace(r, chosen="zzz") for r in task.train)))
    found = memory.drift(DriftAsked(["shift"], count=3, max_new_tokens=4)).results["measures"]["shift"]
    assert "z" in [text for text, _ in found["tallies"]["shifted tokens"][-1]]
