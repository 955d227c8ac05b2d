"""Which code, commit and machine made a run, and when a finished run is done again."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.progress import NullProgress
from lifealign.studies import plan, program, ray_engine
from lifealign.studies.engine import run_study
from lifealign.studies.plan import strategy_code
from lifealign.studies.worker import PROGRAM, RECORD, RUN
from support.study_runs import Write


class Said(NullProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def records(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = (json.loads(p.read_text()) for p in (tmp_path / "runs" / "runs").glob("*/record.json"))
    return {record["strategy"]: record for record in found}


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the program of now differ in the code of one strategy's file."""

    def change(strategy: str) -> None:
        def code(name: str) -> dict[str, str]:
            found = strategy_code(name)
            return {**found, f"strategies/{name}.py": "0"} if name == strategy else found

        monkeypatch.setattr(plan, "strategy_code", code)

    return change


def test_layout_and_comments_are_no_code() -> None:
    def text(source: str) -> str:
        return program.code_text(ast.parse(source))

    plain = text("class A:\n    x: int = 1\n    def f(self):\n        return self.x + 1\n")
    same = '"""About."""\n# why\nclass A:\n    """What."""\n    x: int = 1\n    """It."""\n\n    def f(self):\n        "doc"\n        return (self.x +\n            1)\n'
    assert text(same) == plain
    for other in ("self.x - 1", "self.y + 1", "self.x + 2", "self.x + 1.0", "-(self.x + 1)"):
        assert text(f"class A:\n    x: int = 1\n    def f(self):\n        return {other}\n") != plain
    assert text("x = 1\ndel x") != text("x = 1\nx")
    assert text("f('a')") != text("f()") and text("x = None") != text("x = 'None'")


def test_code_of_a_strategy_is_its_files_and_the_loop() -> None:
    replay, lifealign = strategy_code("replay"), strategy_code("lifealign")
    assert {"strategies/replay.py", "training/loop.py", "training/losses.py", "data/splits.py"} <= replay.keys()
    assert "strategies/lifealign.py" not in replay and "strategies/lifealign.py" in lifealign
    assert not any(name.startswith(("report/", "studies/", "cli/", "store/")) for name in replay)
    assert program.changed_files(replay, lifealign) == sorted(replay.keys() ^ lifealign.keys())
    assert program.together(replay) != program.together(lifealign)
    outside = strategy_code("some/file.py:Mine")
    assert outside.keys() < replay.keys(), "code from outside is in the id"


def test_commit_is_that_of_a_tracked_file_only(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"ls-files": "x", "status": " M src/lifealign/a.py", "rev-parse": "abc"}
    monkeypatch.setattr(program, "_git", lambda command, *_: told.get(command))
    program._commit.cache_clear()
    assert program.program() == {"version": program.__version__, "commit": "abc", "modified": True}
    told.pop("ls-files")
    program._commit.cache_clear()
    assert program.program()["commit"] is None
    program._commit.cache_clear()


def test_machine_for_people() -> None:
    assert program.machine(None, 1)["cores"] >= 1 and program.machine()["processor"]
    kind = {"processor": "Chip 9", "cores": 2, "threads": 1, "accelerator": None}
    assert program.machine_text(kind) == "Chip 9, 2 cores, 1 thread"
    assert program.machine_text({**kind, "accelerator": "H1"}) == "Chip 9, 2 cores, 1 thread, H1"


def test_a_changed_method_is_done_again_and_an_unknown_one_is_marked(
    write: Write, tmp_path: Path, changed: Any
) -> None:
    path, out = write(), tmp_path / "out"
    first, _, problems = run_study(path, out=out)
    assert problems == []
    before = records(tmp_path)
    assert before["replay"][PROGRAM]["files"] == strategy_code("replay")
    assert before["replay"]["machine"]["cores"] >= 1 and before["replay"]["libraries"]["torch"]
    # 14 rows of which 2 validate and 4 test: 8 are trained on, 4 a step, in each of two tasks; replay adds some.
    assert before["sequential"]["steps"] == 4 and before["sequential"]["rows_kept"] == 0
    assert before["replay"]["steps"] >= 4 and before["replay"]["rows_kept"] > 0
    (run,) = (r for r in first["runs"] if r["method"] == "replay")
    assert run["program"]["code"] == program.together(strategy_code("replay")) and "files" not in run["program"]
    assert run["machine"] == before["replay"]["machine"] and run["steps"] == before["replay"]["steps"]

    # An earlier program wrote no code into its records.
    old = tmp_path / "runs" / "runs" / before["sequential"]["id"] / RECORD
    old.write_text(json.dumps({k: v for k, v in before["sequential"].items() if k not in (PROGRAM, "machine")}))
    changed("replay")
    listed, lines, _ = run_study(path, dry_run=True)
    assert [e["run"].split(",")[0].split()[0] for e in listed["to_do"]] == ["replay"]
    again = "1 finished runs were made by other code, so they are done again; changed since: strategies/replay.py"
    assert again in lines and listed["to_do"][0]["seconds"] == before["replay"]["seconds"]

    kept = Said()
    results, _, _ = run_study(path, out=out, keep_finished=True, progress=kept)
    assert records(tmp_path)["replay"] == before["replay"] and {r["status"] for r in results["runs"]} == {"done"}
    assert "1 of them made by other code than that of now" in kept.lines[-1]

    said = Said()
    results, _, problems = run_study(path, out=out, progress=said)
    assert problems == [] and again in said.lines
    assert any("1 of them made by an earlier program, which did not record its code" in line for line in said.lines)
    after = records(tmp_path)
    assert after["replay"]["id"] == before["replay"]["id"] and PROGRAM not in after["sequential"]
    assert program.changed_files(before["replay"][PROGRAM]["files"], after["replay"][PROGRAM]["files"]) == [
        "strategies/replay.py"
    ]
    memories = {p.parent.name for p in (tmp_path / "runs" / "memories").glob("*/HEAD")}
    assert len(memories) == 3, "the memory of the other code is left as it was"
    by_method = {r["method"]: r for r in results["runs"]}
    assert by_method["sequential"]["program"] is None and by_method["replay"]["program"] is not None


def test_another_lifealign_on_another_machine_is_refused(tmp_path: Path) -> None:
    files = strategy_code("replay")
    (tmp_path / RUN).write_text(json.dumps({"strategy": "replay", PROGRAM: {"files": files}}))
    assert ray_engine.other_code(tmp_path) is None
    (tmp_path / RUN).write_text(
        json.dumps({"strategy": "replay", PROGRAM: {"files": {**files, "training/loop.py": "0"}}})
    )
    reason = ray_engine.other_code(tmp_path)
    assert reason is not None and "training/loop.py differs" in reason and "install the same version" in reason
