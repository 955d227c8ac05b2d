"""Documents of another shape: refused by file and field, whatever is in their fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults import memories
from lifealign.core.documents import Count, Document, check, shown
from lifealign.core.errors import StoreError, UserError
from lifealign.core.json_codec import decode_json, seal
from lifealign.data.answers import read_answers
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.opinions import read_judgements, read_ratings
from lifealign.store.manifest import read_evaluation
from lifealign.store.tags import read_tags
from lifealign.store.verify import find_problems
from lifealign.studies.report.tables import all_tables
from lifealign.studies.report.write import read_results, runs_csv, table_csv
from support.mutate import mutations
from support.people_batch import record
from support.study_document import make_study

Read = Callable[[Path, Any], object]


class Person(Document):
    age: Count


def test_the_message_names_file_field_rule_and_value() -> None:
    with pytest.raises(StoreError, match=r"^a\.json:3: age: expected a whole number, got 'old'$"):
        check(Person, {"age": "old"}, "a.json:3")
    assert len(shown("x" * 10_000)) <= 80 and shown(list(range(9))) == "a list of 9 values"
    with pytest.raises(StoreError, match="nested more than 100 deep"):
        decode_json("a.json", "[" * 200 + "]" * 200)


def _lines(read: Callable[[Path], object]) -> Read:
    def check_it(folder: Path, value: Any) -> None:
        (folder / "rows.jsonl").write_text(json.dumps(value) + "\n")
        read(folder / "rows.jsonl")

    return check_it


def _study(folder: Path, value: Any) -> None:
    (folder / "results.json").write_text(json.dumps(value))
    found = read_results(folder / "results.json")
    all_tables(found)
    runs_csv(found)
    table_csv(found)


def _sealed(path: Path, value: Any) -> Path:
    path.write_bytes(seal(value) if isinstance(value, dict) and value and "sha256" not in value else b"[]")
    return path


def _task(folder: Path, value: Any) -> None:
    memory = folder / "memory"
    if not memory.exists():
        memories.make(memory)
    _sealed(memory / "tasks/0001-helpful/task.json", value)
    if problems := find_problems(memory):
        raise StoreError(problems[0])


EVALUATION = {"format_version": 2, "number": 1, "record": {"kind": "row", "after": "0001-a", "scores": []}}
TAGS = {"format_version": 2, "tags": {"x": {"directory": "0001-a", "sha256": "0" * 64, "created": "now"}}}
TASK = {
    **{"format_version": 2, "directory": "0001-helpful", "index": 1, "name": "helpful", "members": ["helpful"]},
    **{"parent": "0000-initial", "parent_sha256": "0" * 64, "seed": 0, "config": {}, "versions": {"torch": None}},
    **{"files": {"data.json": {"sha256": "0" * 64, "size": 1}}, "created": "", "meta": {"note": "n", "retires": ["a"]}},
}
RATING = {"annotator": "ada", "mode": "pairwise", "left": "a", "right": "b", "winner": "left", "comment": "c"}
JUDGEMENT = Judgement("i", "t", "task", "s", "p", "j", "r", "pairwise", winner="a", other="o", lengths=(1, 2)).to_json()


@pytest.mark.parametrize(
    ("sound", "read", "share"),
    [
        (record(1, "ours", scores={"a": 1.0}).to_json(), _lines(read_answers), 0.4),
        (JUDGEMENT, _lines(read_judgements), 0.4),
        (RATING, _lines(read_ratings), 0.5),
        (make_study(), _study, 0.004),
        (EVALUATION, lambda folder, value: read_evaluation(_sealed(folder / "000001.json", value)), 1.0),
        (TAGS, lambda folder, value: read_tags(_sealed(folder / "tags.json", value).parent), 1.0),
        (TASK, _task, 0.3),
    ],
    ids=["answer", "judgement", "rating", "study", "evaluation", "tags", "task"],
)
def test_no_field_of_another_shape_ends_in_a_traceback(tmp_path: Path, sound: Any, read: Read, share: float) -> None:
    refused = 0
    for done, value in mutations(sound, share):
        try:
            read(tmp_path, value)
        except UserError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{done}: {type(error).__name__}: {error}")
    assert refused
