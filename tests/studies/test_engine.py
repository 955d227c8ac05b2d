"""Studies on the tiny model: each run in a process of its own, ids from content, nothing repeated, nothing lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifealign.core.errors import ConfigError, StoreError
from lifealign.store.reader import MemoryReader
from lifealign.studies.engine import run_here, run_study
from lifealign.studies.plan import Plan, make_plan, named_orders
from lifealign.studies.worker import CONTEXT, RUN
from support.paths import ROOT
from support.study_runs import Write, in_second_task


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
    assert {found["metric"] for found in results["interference"].values()} == {"accuracy"}
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

    # A record that was cut off is written anew, from the memory that is there.
    record = next((tmp_path / "runs" / "runs").glob("*/record.json"))
    record.write_bytes(record.read_bytes()[:50])
    repaired, _, problems = run_study(path, out=out)
    assert problems == [] and json.loads(record.read_text())["status"] == "done"
    assert [r["summary"] for r in repaired["runs"]] == [r["summary"] for r in results["runs"]]

    # Another study of the same directory finds the runs, whatever it calls its method or its orders.
    chosen = {m: results["selection"][m]["chosen"] for m in ("sequential", "replay")}
    other = write("other", methods=[{"label": "ER", "strategy": "replay", "set": chosen["replay"]}], seeds=[0, 1, 2])
    document, lines, _ = run_study(other, dry_run=True)
    assert [e["run"].split(",")[2] for e in document["to_do"]] == [" seed 2"]
    assert document["to_do"][0]["seconds"] == pytest.approx(
        sum(r["seconds"] for r in trained(tmp_path, "replay")) / len(trained(tmp_path, "replay"))
    )


def test_trials_on_the_first_tasks_alone(write: Write, tmp_path: Path) -> None:
    path = write(grid={"train.learning_rate": [1e-3, 5e-3]}, selection={"tasks": 1}, methods=["sequential"])
    plan = make_plan(path)
    (method,) = plan.study.methods
    (trial,) = plan.selection_runs(method, plan.trials(method)[0])
    assert trial.config["stream"]["order"] == [1] and trial.config["evaluate"]["split"] == "validation"
    results, _, problems = run_study(path, out=tmp_path / "out")
    assert problems == []
    assert [r["tasks"] for r in results["runs"]] == [["one", "two"]]
    assert len(list((tmp_path / "runs" / "memories").glob("*/HEAD"))) == 2 + 1, "a shorter life is another memory"


def trained(tmp_path: Path, strategy: str) -> list[dict[str, Any]]:
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "runs").glob("*/record.json")]
    return [r for r in records if r["strategy"] == strategy and r["seconds"] is not None]


@contextmanager
def killing(runs: Path, when: Callable[[Path], Any], times: int = 1) -> Iterator[list[int]]:
    """Kills the study's run, by SIGKILL, as soon as `when(directory)` holds; yields the list of those killed."""
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005) and len(killed) < times:
            # Not active_children(): it reaps, and the study that waits for the same child would find no exit code.
            for child in list(multiprocessing.process._children):  # type: ignore[attr-defined]
                if child.pid is not None and child.pid not in killed and when(runs):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def scores(results: dict[str, Any], method: str = "replay") -> Any:
    return next(r["scores"] for r in results["runs"] if r["method"] == method)


def test_killed_run_goes_on_and_loses_only_its_time(write: Write, tmp_path: Path) -> None:
    path = write(methods=["replay"])
    whole, _, _ = run_study(write("whole", methods=["replay"], directory=str(tmp_path / "whole")), out=tmp_path / "w")
    with killing(tmp_path / "runs", in_second_task) as killed:
        results, _, problems = run_study(path, out=tmp_path / "out")
    assert len(killed) == 1 and problems == []
    assert scores(results) == scores(whole)
    (run,), (uninterrupted,) = results["runs"], whole["runs"]
    assert run["id"] == uninterrupted["id"] and run["state_bytes"] == uninterrupted["state_bytes"] > 0
    assert uninterrupted["seconds"] > 0 and run["seconds"] is None, "the time of the killed process is not known"
    log = (tmp_path / "runs" / "runs" / run["id"] / "log.txt").read_text()
    assert log.count("one: end of task") == 1, "the first task was not learnt again"
    (memory,) = (p.parent for p in (tmp_path / "runs" / "memories").glob("*/HEAD"))
    assert MemoryReader.open(memory).verify() == []


def test_run_killed_again_and_again_is_a_failure_of_its_own(write: Write, tmp_path: Path) -> None:
    with killing(tmp_path / "runs", lambda runs: any(runs.glob("runs/*/log.txt")), times=3) as killed:
        results, _, problems = run_study(write(), out=tmp_path / "out")
    assert len(killed) == 3
    assert [r["status"] for r in results["runs"]] == ["failed", "done"]
    assert "killed 3 times, the last time by SIGKILL" in results["runs"][0]["error"] and len(problems) == 1
    results, _, problems = run_study(write(), out=tmp_path / "out")
    assert [r["status"] for r in results["runs"]] == ["done", "done"] and problems == []


def _study(path: Path, out: Path, directory: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(directory)
    run_study(path, out=out)


def test_killed_study_goes_on(write: Write, tmp_path: Path) -> None:
    path, out, runs = write(), tmp_path / "out", tmp_path / "runs"
    place = (str(Path.cwd()), dict(os.environ))
    study = CONTEXT.Process(target=_study, args=(path, out, *place))
    study.start()
    deadline = time.monotonic() + 120
    while not (any(runs.glob("runs/*/record.json")) and in_second_task(runs)):  # in the second run
        assert time.monotonic() < deadline and study.is_alive()
        time.sleep(0.005)
    study.kill()
    study.join()
    unfinished = json.loads((out / "results.json").read_text())
    assert [r["status"] for r in unfinished["runs"]] == ["done", "pending"]
    assert unfinished["table"][0]["method"] == "sequential" and len(unfinished["table"]) == 1
    first = next(runs.glob("runs/*/record.json"))
    stamp = first.stat().st_mtime_ns
    results, _, problems = run_study(path, out=out)
    assert problems == [] and [r["status"] for r in results["runs"]] == ["done", "done"]
    assert first.stat().st_mtime_ns == stamp
    second = runs / "runs" / results["runs"][1]["id"]
    assert (second / "log.txt").read_text().count("one: end of task") == 1


def test_a_method_that_fails_does_not_stop_the_rest(write: Write, tmp_path: Path) -> None:
    wrong = {"lora.target_modules": ["no_such_layer"]}
    methods = [{"label": "bad", "strategy": "sequential", "set": wrong, "grid": {"train.epochs": [1, 2]}}, "replay"]
    results, _, problems = run_study(write(methods=methods, unequal_trials=True), out=tmp_path / "out")
    bad, replay = results["runs"]
    assert replay["status"] == "done", replay["error"]
    assert bad["status"] == "failed" and bad["id"] is None
    assert "no_such_layer" in bad["error"] and "every trial failed" in bad["error"]
    assert [t["value"] for t in results["selection"]["bad"]["trials"]] == [None, None]
    assert results["selection"]["bad"]["chosen"] is None
    assert [row["method"] for row in results["table"]] == ["replay"]
    assert len(problems) == 1 and problems[0].startswith("bad, given, seed 0")


def test_bug_in_a_run_and_a_run_without_end(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text("{}")
    reason = run_here(tmp_path, None)
    assert reason is not None and reason.startswith("KeyError: 'memory' (exit code 1")
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert run_here(tmp_path, 0.001) == "not finished within 0.001 s (`timeout`)"


def test_ids_are_of_what_matters(write: Write, tmp_path: Path, rows_dir: Path) -> None:
    plan = make_plan(write(methods=["replay"], orders=["given", "reversed"], seeds=[0, 1], models=["a", "b"]))
    ids = {r.id for r in plan.reported_runs({"replay": {}})}
    assert len(ids) == 8
    variants = {"strategy.beta": 0.2, "train.epochs": 2, "lora.r": 4, "sft.epochs": 1, "strategy.replay_capacity": 2999}
    methods: list[Any] = ["replay", *({"label": k, "strategy": "replay", "set": {k: v}} for k, v in variants.items())]
    # A default that is written out is the same run.
    methods.append({"label": "written", "strategy": "replay", "set": {"strategy.beta": 0.1, "strategy.loss": "dpo"}})
    plan = make_plan(write(methods=methods))
    by_label = {r.method: r.id for r in plan.reported_runs({m.label: {} for m in plan.study.methods})}
    assert by_label["written"] == by_label["replay"]
    assert len(set(by_label.values())) == len(variants) + 1
    tree = yaml.safe_load(write().read_text())["base"]
    same = {**tree, "stream": {**tree["stream"], "name": "another name"}}
    fewer = {**tree, "evaluate": {"rows": 1}}
    original, renamed, scored = (make_plan(write("x", base=b)) for b in (tree, same, fewer))
    assert run_id(original) == run_id(renamed) != run_id(scored)
    memories = [p.reported_runs({"sequential": {}, "replay": {}})[0].memory_id for p in (original, scored)]
    assert memories[0] == memories[1], "what is scored does not change the weights"
    for source in ("one", "two"):
        (tmp_path / f"{source}.jsonl").write_text((rows_dir / f"{source}.jsonl").read_text())
    moved = json.loads(json.dumps(tree).replace(str(rows_dir), str(tmp_path)))
    before = run_id(make_plan(write("y", base=moved)))
    (tmp_path / "one.jsonl").write_text((rows_dir / "one.jsonl").read_text().replace("right", "wrong"))
    assert run_id(make_plan(write("y", base=moved))) != before, "other rows in the same file are another run"


def test_orders() -> None:
    assert named_orders("given", 3) == {"given": (1, 2, 3)}
    assert named_orders("reversed", 3) == {"reversed": (3, 2, 1)}
    assert named_orders("order3", 6) == {"order3": (3, 1, 6, 4, 2, 5)}
    every = named_orders("all", 3)
    assert len(every) == 6 and every["2-3-1"] == (2, 3, 1)
    drawn = named_orders("random:5", 3)
    assert list(drawn) == [f"random{i}" for i in range(1, 6)] and len(set(drawn.values())) == 5
    assert list(named_orders("random:2", 3).items()) == list(drawn.items())[:2]
    for name, count in (("order1", 5), ("all", 7), ("random:7", 3), ("random:0", 3), ("sorted", 6)):
        with pytest.raises(ConfigError):
            named_orders(name, count)


def test_an_order_is_of_the_tasks_that_base_names(write: Write) -> None:
    tree = yaml.safe_load(write().read_text())["base"]
    tree["stream"] = {"planted": {"train_rows": 4}, "order": [4, 2, 6]}
    plan = make_plan(write(base=tree, orders=["given", "reversed"]))
    assert plan.task_order("given") == ["see-a-professional", "how-to-steps", "myths"]
    assert plan.orders["reversed"] == (6, 2, 4)


def test_sweep_reports_every_point(write: Write, tmp_path: Path) -> None:
    methods = [{"label": "ours", "strategy": "lifealign"}]
    path = write(
        methods=methods, sweep={"strategy.theta": [0.5, 1.0], "strategy.overlap_scale": [0.0]}, baseline="ours"
    )
    plan = make_plan(path)
    runs = plan.reported_runs({"ours": {}})
    assert [r.settings for r in runs] == [
        {"strategy.theta": 0.5},
        {"strategy.theta": 1.0},
        {"strategy.overlap_scale": 0.0},
    ]
    assert len({r.id for r in runs}) == 3
    results, _, _ = run_study(path, out=tmp_path / "out")
    assert [row["method"] for row in results["table"]] == ["ours theta=0.5", "ours theta=1.0", "ours overlap_scale=0.0"]
    assert {r["method"] for r in results["runs"]} == {"ours"}
    assert results["axes"] == {"strategy.theta": [0.5, 1.0], "strategy.overlap_scale": [0.0]}


def test_mistakes_are_reported_together(write: Write) -> None:
    tree = yaml.safe_load(write().read_text())["base"]
    tree["train"]["epoch"] = 3
    path = write(
        base={**tree, "memory": "x"},
        methods=["replay", "replay", {"label": "x", "set": {"training.epochs": 1}}],
        seeds=[0, -1],
        seed=3,
        selection={"metric": "last.acuracy"},
        timeout=0,
    )
    with pytest.raises(ConfigError) as caught:
        run_study(path)
    text = str(caught.value)
    assert all(line.startswith(str(path)) for line in text.splitlines())
    for part in (
        "base.train.epoch: unknown key (did you mean 'epochs'?)",
        "base: memory is set by the study; leave it out",
        "seed: unknown key (did you mean 'seeds'?)",
        "'training.epochs' is not a setting of a method (did you mean 'train'?)",
        "seeds: values must differ and seeds must be 0 or more, got [0, -1]",
        "selection.metric: expected SUMMARY.SCORE",
        "timeout: must be greater than 0, got 0",
    ):
        assert part in text, text


def test_nothing_is_chosen_by_a_score_of_which_no_value_is_better(write: Write) -> None:
    with pytest.raises(
        ConfigError, match=r"selection\.metric: settings cannot be chosen by length_words: neither higher"
    ):
        run_study(write(selection={"metric": "last.length_words"}))


def test_mistakes_of_methods_are_reported_together(write: Write) -> None:
    methods = [
        "replai",
        {"label": "a", "strategy": "replay", "set": {"strategy.replay_shar": 0.5}},
        {"label": "b", "strategy": "lifealign", "sweep": {"strategy.theta": [0.5, 2.0]}},
    ]
    path = write(methods=methods, orders=["given", "order1"])
    with pytest.raises(ConfigError) as caught:
        run_study(path, dry_run=True)
    first, second, third, fourth = str(caught.value).splitlines()
    assert "order1 is an order of six tasks, but the stream has 2" in first
    assert "method 'replai': strategy.name: unknown strategy 'replai' (did you mean 'replay'?)" in second
    assert "method 'a': strategy.replay_shar: unknown key (did you mean 'replay_share'?)" in third
    assert "method 'b': strategy.theta: must be at most 1, got 2.0" in fourth


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"methods": ["replay", {"label": "x", "grid": {"train.epochs": [1, 2]}}]}, "(replay 1, x 2)"),
        ({"baseline": "replya"}, "did you mean 'replay'?"),
        (
            {"grid": {"train.epochs": [1]}, "sweep": {"train.epochs": [2]}},
            "train.epochs is in both the grid and the sweep of sequential; keep one",
        ),
        ({"methods": ["replay", "replay"]}, "replay more than once"),
        ({"methods": [{"label": "x", "set": {"evaluate.rows": 1}}]}, "is not a setting of a method"),
        ({"methods": [{"label": "x", "set": {"strategy.name": "replay"}}]}, "as the method's `strategy`"),
        ({"grid": {"train.epochs": []}}, "at least one value and none twice, got []"),
        ({"base": {"model": {"name": "x"}}}, "base.stream: missing"),
        ({"base": {"stream": {"planted": {}}, "evaluate": {"split": "test"}}}, "evaluate.split is set by the study"),
        (
            {"base": {"stream": {"planted": {"validation_rows": 0}}}, "grid": {"train.epochs": [1, 2]}},
            "validation_rows is 0, but a grid needs validation rows",
        ),
    ],
)
def test_mistakes_of_a_study(write: Write, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(write(**keys))
    assert message in str(caught.value)


def test_two_studies_do_not_share_a_directory_at_once(write: Write, tmp_path: Path) -> None:
    import filelock

    (tmp_path / "runs").mkdir()
    with filelock.FileLock(tmp_path / "runs" / ".study.lock"), pytest.raises(StoreError, match="another study"):
        run_study(write(), out=tmp_path / "out")


def test_command(write: Write, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lifealign.cli.app import app

    found = CliRunner().invoke(app, ["study", str(write()), "--dry-run", "--json"])
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    assert [e["run"].split(",")[0] for e in document["to_do"]] == ["sequential", "replay"]
    assert document["unknown"] == 2 and document["to_do"][0]["seconds"] is None
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"
    found = CliRunner().invoke(app, ["study", str(tmp_path / "none.yaml")])
    assert found.exit_code == 2 and "none.yaml: no such file" in found.stderr


def test_listing_needs_no_torch() -> None:
    code = "import sys, lifealign.studies.engine, lifealign.studies.ray_engine; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/studies/*.yaml")), ids=lambda p: p.stem)
def test_examples_are_correct(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"query": f"Which of {i}?", "chosen": "This.", "rejected": "That."} for i in range(9)]
    for name in ("HC3", "hh-rlhf-harmless-base", "hh-rlhf-helpful-base", "safe-rlhf", "TruthfulQA"):
        for split in ("train", "test"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.json").write_text(json.dumps(rows))
    monkeypatch.setenv("LIFEALIGN_DATA", str(tmp_path))
    assert make_plan(path).cells()
