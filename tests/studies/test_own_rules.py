"""A study runs anew what the code of a rule or row format from outside decides, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifealign.core import registry
from lifealign.core.errors import ConfigError
from lifealign.core.origin import load_file
from lifealign.data.formats import FORMATS
from lifealign.studies.engine import run_study
from lifealign.studies.plan import Run, make_plan
from support.records import numbered, write_jsonl
from support.study_runs import Write

FORMAT = """
from lifealign import register_format
from lifealign.data.formats import Triple


@register_format("qab")
def qab(record):
    return Triple(record["q"], record["a"], record["b"]) if "q" in record else None
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    entries = dict(FORMATS._entries)
    yield
    FORMATS._entries = entries
    registry._handed.clear()


def changed(path: Path, tasks: dict[str, dict[str, Any]], **base: Any) -> Path:
    """The study file, with these keys in its tasks and in its base."""
    study = yaml.safe_load(path.read_text())
    study["base"] |= base
    for task in study["base"]["stream"]["tasks"]:
        task |= tasks.get(task["name"], {})
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def planned(path: Path) -> Run:
    (run,) = make_plan(path).reported_runs({"sequential": {}})
    return run


def test_a_rule_is_measured_and_its_change_makes_another_run_of_the_same_memory(write: Write, tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text("def always(answer):\n    return True\n")
    rule, measured = f"{rules}:always", {"generations": 1, "max_new_tokens": 2}
    path = changed(write(methods=["sequential"]), {"two": {"checker": rule}}, evaluate=measured)
    (run,) = run_study(path, out=tmp_path / "out")[0]["runs"]
    assert run["status"] == "done" and run["summary"]["pass_rate"]["last"] == 100
    assert make_plan(path).sources.keys() == {f"checker {rule}"}
    before = planned(path)
    rules.write_text("def always(answer):\n    return False\n")
    after = planned(path)
    assert before.id != after.id and before.memory_id == after.memory_id
    (run,) = run_study(path, out=tmp_path / "out")[0]["runs"]
    assert run["summary"]["pass_rate"]["last"] == 0
    # Without answers, or where the run leaves the task out, the rule is not used.
    unused = {}
    for text in ("True", "False"):
        rules.write_text(f"def always(answer):\n    return {text}\n")
        no_answers = changed(write("quiet", methods=["sequential"]), {"two": {"checker": rule}})
        first = changed(write("first", methods=["sequential"]), {"two": {"checker": rule}}, evaluate=measured)
        study = yaml.safe_load(first.read_text())
        study["base"]["stream"]["order"] = [1]
        first.write_text(yaml.safe_dump(study))
        unused[text] = planned(no_answers).id, planned(first).id
    assert unused["True"] == unused["False"]
    with pytest.raises(ConfigError, match=r"task one: checker: unknown checker 'nowhere'"):
        make_plan(changed(write(methods=["sequential"]), {"one": {"checker": "nowhere"}}))


def test_a_row_format_counts_where_it_reads_rows(write: Write, tmp_path: Path) -> None:
    code = tmp_path / "formats.py"
    code.write_text(FORMAT)
    plain = write(methods=["sequential"])
    without = planned(plain)
    load_file(code)
    assert planned(plain).id == without.id, "registered, but no row has this format"
    records = [{"q": r["prompt"], "a": r["chosen"], "b": r["rejected"]} for r in numbered(14)]
    rows = write_jsonl(tmp_path / "qab.jsonl", records)
    path = changed(write(methods=["sequential"]), {"one": {"train": {"path": str(rows)}}})
    before = planned(path)
    assert make_plan(path).sources.keys() == {"format qab"}
    code.write_text(FORMAT + "# changed\n")
    after = planned(path)
    assert before.id != after.id and before.memory_id != after.memory_id, "rows are what is learnt from"
    (run,) = run_study(path, out=tmp_path / "out")[0]["runs"]
    assert run["status"] == "done"
