"""A study finds a strategy from a file, and runs it anew when its code has changed."""

from __future__ import annotations

from pathlib import Path

from lifealign.studies.engine import run_study
from lifealign.studies.plan import make_plan
from support.paths import ROOT
from support.study_runs import Write


def test_changed_code_is_run_anew(write: Write, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text((ROOT / "examples/own_strategy/my_strategy.py").read_text())
    path = write(methods=["sequential", {"label": "mine", "strategy": f"{mine}:NearStart"}])
    results, _, problems = run_study(path, out=tmp_path / "out")
    assert problems == [] and [r["status"] for r in results["runs"]] == ["done", "done"]
    assert run_study(path, dry_run=True)[0]["to_do"] == []
    mine.write_text(mine.read_text() + "\n# changed\n")
    assert ["mine" in run["run"] for run in run_study(path, dry_run=True)[0]["to_do"]] == [True]
    assert make_plan(path).sources.keys() == {f"{mine}:NearStart"}
