"""Studies on the tiny model: each run in a process of its own, ids from content, nothing repeated, nothing lost."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import rows
from lifealign import study_worker
from lifealign.errors import ConfigError
from lifealign.study import Here, Records, Study, run_here, run_study
from lifealign.study_plan import Plan, make_plan, named_orders
from lifealign.study_results import build

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def rows_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rows")
    for name in ("one", "two"):
        lines = [json.dumps(r.to_json()) for r in rows(name, 14)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines))
    return directory


@pytest.fixture
def write(tiny_dir: Path, rows_dir: Path, tmp_path: Path) -> Write:
    """A study file: two methods on two tasks; keys of the call replace those of the file."""

    def build(name: str = "small", **keys: Any) -> Path:
        tasks = [
            {"name": n, "train": {"path": f"{rows_dir}/{n}.jsonl"}, "validation_rows": 2, "test_rows": 4}
            for n in ("one", "two")
        ]
        base = {
            "model": {"name": str(tiny_dir), "dtype": "float32"},
            "lora": {"r": 2, "alpha": 4},
            "data": {"max_length": 256},
            "train": {"epochs": 1, "pairs_per_step": 4, "learning_rate": 5e-3, "checkpoint_every": 1},
            "stream": {"tasks": tasks},
        }
        study = {
            "name": name,
            "directory": str(tmp_path / "runs"),
            "base": base,
            "methods": ["sequential", "replay"],
            "seeds": [0],
            **keys,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(study))
        return path

    return build


def run_id(plan: Plan, method: str = "sequential", **axes: Any) -> str:
    runs = plan.reported_runs({m.label: plan.trials(m)[0] for m in plan.study.methods})
    return next(r.id for r in runs if r.method == method and all(getattr(r, k) == v for k, v in axes.items()))


def test_methods_orders_seeds_and_a_grid(write: Write, tmp_path: Path) -> None:
    path = write(
        orders=["given", "reversed"],
        seeds=[0, 1],
        grid={"train.learning_rate": [1e-3, 5e-3]},
        baseline="sequential",
    )
    out = tmp_path / "out"
    results, lines, problems = run_study(path, out=out)
    assert problems == []
    assert json.loads((out / "results.json").read_text())["runs"] == json.loads(json.dumps(results["runs"]))
    assert len(results["runs"]) == 2 * 2 * 2
    assert {r["status"] for r in results["runs"]} == {"done"}
    assert results["orders"] == {"given": ["one", "two"], "reversed": ["two", "one"]}
    assert [r["tasks"] for r in results["runs"] if r["order"] == "reversed"] == [["two", "one"]] * 4
    for method in ("sequential", "replay"):
        selection = results["selection"][method]
        values = [trial["value"] for trial in selection["trials"]]
        assert [trial["settings"]["train.learning_rate"] for trial in selection["trials"]] == [1e-3, 5e-3]
        best = selection["trials"][values.index(max(values))]["settings"]
        assert selection["chosen"] == best
        assert all(r["settings"] == best for r in results["runs"] if r["method"] == method)
    # The trial's memory is taken over by the reported run of its seed: the cost stands in both.
    assert len(list((tmp_path / "runs" / "memories").glob("*/HEAD"))) == 2 * (2 + 3)
    assert all(r["seconds"] > 0 and 0.05 < r["peak_memory_gb"] < 8 for r in results["runs"])
    assert all(r["seconds"] > r["train_seconds"] > 0 for r in results["runs"])
    replay, sequential = (results["cost"][m]["state_bytes"] for m in ("replay", "sequential"))
    assert replay > sequential
    row = next(r for r in results["table"] if (r["method"], r["order"]) == ("replay", "given"))
    assert row["seeds"] == [0, 1]
    values = {r["seed"]: r for r in results["runs"] if (r["method"], r["order"]) == ("replay", "given")}
    assert row["metrics"]["nll"]["last"]["values"] == [values[s]["summary"]["nll"]["last"] for s in (0, 1)]
    R = values[1]["scores"]["nll"]["R"]
    assert values[1]["summary"]["nll"]["bwt"] == pytest.approx(R[1][0] - R[0][0])
    assert results["table"][0]["difference"] is None
    assert any("replay" in line for line in lines)

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    again, _, _ = run_study(path, out=out)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "nothing is done twice"
    assert json.dumps(again) == json.dumps(results)
    document, lines, _ = run_study(path, dry_run=True)
    assert document["to_do"] == [] and document["seconds"] == 0

    # Another study of the same directory finds the runs, whatever it calls its method or its orders.
    chosen = {m: results["selection"][m]["chosen"] for m in ("sequential", "replay")}
    other = write("other", methods=[{"label": "ER", "strategy": "replay", "set": chosen["replay"]}], seeds=[0, 1, 2])
    document, lines, _ = run_study(other, dry_run=True)
    assert [e["run"].split(",")[2] for e in document["to_do"]] == [" seed 2"]
    assert document["to_do"][0]["seconds"] == pytest.approx(
        sum(r["seconds"] for r in trained(tmp_path, "replay")) / len(trained(tmp_path, "replay"))
    )


def trained(tmp_path: Path, strategy: str) -> list[dict[str, Any]]:
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "runs").glob("*/record.json")]
    return [r for r in records if r["strategy"] == strategy and r["seconds"] is not None]
