"""A study's processes find a score and a text metric from a file, choose settings by one, and report without the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lifealign import register_score
from lifealign.core.errors import ConfigError
from lifealign.evaluation import catalog
from lifealign.studies.config import load_study
from lifealign.studies.engine import run_study
from lifealign.studies.plan import make_plan
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.write import read_results, write_study_report
from support.paths import ROOT
from support.study_runs import Write


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    entries = dict(catalog.SCORES._entries), dict(catalog.TEXT_METRICS._entries)
    yield
    catalog.SCORES._entries, catalog.TEXT_METRICS._entries = entries
    catalog._met.clear()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_scores.py"
    path.write_text((ROOT / "examples/own_score/my_scores.py").read_text())
    return path


def measuring(path: Path, **evaluate: object) -> Path:
    """The study file, with this in its base's section `evaluate`."""
    study = yaml.safe_load(path.read_text())
    study["base"]["evaluate"] = evaluate
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def test_a_file_in_the_runs_of_a_study_its_ids_and_its_report(write: Write, tmp_path: Path, mine: Path) -> None:
    score, metric = f"{mine}:short_wins", f"{mine}:shouting"
    given = {"generations": 1, "max_new_tokens": 3}
    path = write(
        methods=["sequential"],
        grid={"train.epochs": [1, 2]},
        selection={"metric": f"last.{metric}"},
    )
    measuring(path, **given, scores=[score], text_metrics=[metric])
    results, _, problems = run_study(path, out=tmp_path / "out")
    assert problems == [] and [r["status"] for r in results["runs"]] == ["done"]
    assert {score, metric} <= set(results["runs"][0]["summary"]) and set(results["outside"]) == {score, metric}
    assert results["selection"]["sequential"]["metric"] == f"last.{metric}"
    assert run_study(path, dry_run=True)[0]["to_do"] == []
    before = make_plan(path)
    assert set(before.sources) == {f"score {score}", f"score {metric}"}
    mine.write_text(mine.read_text() + "\n# changed\n")
    assert run_study(path, dry_run=True)[0]["to_do"] != [], "changed code is another run"
    one, other = (plan.reported_runs({"sequential": {"train.epochs": 1}})[0] for plan in (before, make_plan(path)))
    assert one.id != other.id and one.memory_id == other.memory_id, "what is scored is no part of what is learnt"
    mine.unlink()
    catalog._met.clear()
    document = read_results(tmp_path / "out" / "results.json")
    columns = {column.above for column in all_tables(document)["main"][0].columns}
    assert {"Short answer wins, %", "Shouting, %"} <= columns
    write_study_report(document, tmp_path / "report")
    assert "Short answer wins, %" in (tmp_path / "report" / "study.html").read_text()


def test_one_registered_by_call_is_handed_to_the_processes(write: Write, tmp_path: Path, mine: Path) -> None:
    from lifealign.core.origin import load_file

    load_file(mine)
    path = measuring(write(methods=["sequential"]), scores=["short_wins"])
    results, _, problems = run_study(path, out=tmp_path / "out")
    assert problems == [] and "short_wins" in results["runs"][0]["summary"]
    assert results["outside"]["short_wins"]["label"] == "Short answer wins"


def test_studies_without_them_keep_their_ids(write: Write) -> None:
    (run,) = make_plan(write(methods=["sequential"])).reported_runs({"sequential": {}})
    assert "scores" not in run.config["evaluate"] and "scores" not in json.dumps(run.config)


def test_mistakes_are_told_before_anything_runs(write: Write, mine: Path) -> None:
    path = write(methods=["sequential"], selection={"metric": f"last.{mine}:shouting"})
    with pytest.raises(ConfigError, match=r"selection\.metric: .*:shouting is not measured; name it in base\.evaluate"):
        load_study(path)
    with pytest.raises(ConfigError, match=r"base\.evaluate\.scores: unknown score 'nowhere'"):
        load_study(measuring(write(methods=["sequential"]), scores=["nowhere"]))
    register_score("flat", lambda pairs: pairs.tokens[:, 0], better="neither")
    path = measuring(write(methods=["sequential"], selection={"metric": "last.flat"}), scores=["flat"])
    with pytest.raises(ConfigError, match=r"settings cannot be chosen by flat: neither higher nor lower"):
        load_study(path)
