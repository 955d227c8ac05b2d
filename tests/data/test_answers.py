from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from lifealign.core.errors import DataError
from lifealign.data.answers import AnswerRecord, read_answers, write_answers
from lifealign.data.tasks import Message

PROMPT = (Message("system", "Be short."), Message("user", "Wo ist mein Päckchen?\u2028"))


def record(answer: str = "Unterwegs.", point: str = "tone", **options: object) -> AnswerRecord:
    return AnswerRecord.of("support", PROMPT, answer, source="lifealign", point=point, stage=1, **options)  # type: ignore[arg-type]


def test_ids_are_the_digest_of_the_content() -> None:
    turns = [["system", "Be short."], ["user", "Wo ist mein Päckchen?\u2028"]]
    item = hashlib.sha256(json.dumps(["support", turns]).encode()).hexdigest()[:16]
    one = hashlib.sha256(json.dumps(["support", turns, "lifealign", "tone", "Unterwegs."]).encode()).hexdigest()[:16]
    assert (record().id, record().item) == (one, item)
    # What is known about an answer does not change which answer it is.
    assert record(scores={"pass_rate": 1.0}, reference="x").id == one
    assert record("Da.").id != one and record("Da.").item == item
    assert record(point="later").id != one


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    records = [
        record(scores={"pass_rate": 1.0, "chrf": None, "nll": math.nan}, reference="Unterwegs.", rejected="Nein"),
        record("<script>alert(1)</script>\n\u202eabc", point="base"),
        record("", gold="left", rule="Short.", finish="length"),
    ]
    path = tmp_path / "new" / f"answers{suffix}"
    write_answers(path, records)
    assert read_answers(path) == records
    assert records[0].scores == {"pass_rate": 1.0, "chrf": None, "nll": None}  # missing is not a number, and not zero
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_parquet_has_the_columns_of_jsonl(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_answers(tmp_path / "a.parquet", [record(scores={"pass_rate": 0.0})])
    write_answers(tmp_path / "a.jsonl", [record(scores={"pass_rate": 0.0})])
    columns = pyarrow.parquet.read_schema(tmp_path / "a.parquet").names
    assert columns == list(json.loads((tmp_path / "a.jsonl").read_text()))


def test_users_write_the_least(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"task": "t", "prompt": "Hi?", "answer": "Yes", "source": "gpt", "point": "now"}) + "\n")
    assert read_answers(path) == [
        AnswerRecord.of("t", [Message("user", "Hi?")], "Yes", source="gpt", point="now", stage=0)
    ]


GOOD = {"task": "t", "prompt": "Hi?", "answer": "Yes", "source": "s", "point": "base"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": None}, "'answer' is missing; required: task, prompt, answer"),
        ({"refrence": "x"}, "unknown column 'refrence'"),
        ({"answer": 3}, "answer: expected text, got 3"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "must end with a user turn"),
        ({"stage": -1}, "stage: must be at least 0"),
        ({"scores": {"pass_rate": "high"}}, "scores.pass_rate: expected a number, got 'high'"),
        ({"scores": [1]}, "scores: expected an object"),
        ({"finish": "cut"}, "finish: allowed: 'stop' or 'length'"),
        ({"id": "0123456789abcdef"}, "id '0123456789abcdef' does not match the content"),
        ({}, "same answer as row 1 (id "),
    ],
)
def test_mistakes_name_file_and_row(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **change}) + "\n")
    with pytest.raises(DataError) as error:
        read_answers(path)
    assert f"{path}: row 2: " in str(error.value)
    assert said in str(error.value)


def test_files_that_are_no_answers(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "a.csv").write_text("answer")
    (tmp_path / "broken.parquet").write_text("PAR?")
    for name, said in [
        ("a.csv", "unknown extension '.csv'; allowed: .jsonl, .json, .parquet"),
        ("empty.jsonl", "contains no answers; write some with"),
        ("broken.parquet", "not a readable parquet file"),
        ("none.parquet", "no such file"),
        ("none", "no such file"),
        ("none.jsonl", "no such file"),
    ]:
        with pytest.raises(DataError, match=said):
            read_answers(tmp_path / name)
    with pytest.raises(DataError, match=r"unknown extension '\.txt'; answers are written as \.jsonl or \.parquet"):
        write_answers(tmp_path / "a.txt", [])


def test_needs_no_torch() -> None:
    code = "import lifealign.data.answers, sys; assert not {'torch', 'datasets', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
