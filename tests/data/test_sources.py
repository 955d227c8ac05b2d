"""Files and hub data sets become records, or one clear message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifealign.core.errors import DataError
from lifealign.data.sources import expand_path, is_file_path
from lifealign.data.tasks import Message, Row
from support.records import assistant, numbered, read, user, write_jsonl


def test_all_file_kinds_hold_the_same_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Texts that a reader which guesses types would change.
    records = [
        {"prompt": "2024-01-01 10:00:00", "chosen": "None", "rejected": "007"},
        {"prompt": "2024-01-02 10:00:00", "chosen": "NA", "rejected": "1.0"},
        {"prompt": 'a, "quoted"\nline', "chosen": "null", "rejected": "\u2028 true"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text("\ufeff" + "\n\n".join(json.dumps(r) for r in records), encoding="utf-8")
    (tmp_path / "raw.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    expected = tuple(Row((Message("user", r["prompt"]),), r["chosen"], r["rejected"]) for r in records)
    for name in ("a.json", "lines.json", "raw.jsonl", "a.parquet", "a.csv"):
        rows, report = read(tmp_path / name)
        assert rows == expected, name
        assert [r.source for r in rows] == [f"{tmp_path / name}:{i}" for i in (1, 2, 3)]
        assert report.kept == 3


def test_parquet_with_messages(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    record = {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    rows, _ = read(tmp_path / "a.parquet")
    assert rows == (Row((Message("user", "a"),), "b", "c"),)


def test_a_cell_may_be_as_long_as_its_file(tmp_path):
    (tmp_path / "rows[1].csv").write_text("prompt,chosen,rejected,,\n" + "x" * 200_000 + ",a,b,,\n")
    rows, _ = read(tmp_path / "rows[1].csv")
    assert [len(row.prompt[0].content) for row in rows] == [200_000]


def test_half_a_character_leaves_its_row_out_or_stops_a_reader_of_all_rows(tmp_path):
    from lifealign.data.sources import read_file

    bad = '{"prompt": "a", "chosen": "b", "rejected": "c", "note": ["\\ud800"]}'
    for text in (f"[{bad}]", f"{bad}\n{bad}", '{"data": [' + bad + "]}"):
        path = tmp_path / "rows.json"
        path.write_text(text)
        with pytest.raises(DataError, match=r"not valid Unicode \(a lone surrogate\) \(row"):
            read(path)
        with pytest.raises(DataError, match=r"row 1: text is not valid Unicode"):
            read_file(str(path))


def test_limits_of_rows_and_values(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    monkeypatch.setenv("LIFEALIGN_MAX_ROWS", "2")
    monkeypatch.setenv("LIFEALIGN_MAX_READ_MB", "1")
    for name, text, message in [
        ("rows.json", json.dumps(numbered(3)), "more than 2 rows; set LIFEALIGN_MAX_ROWS"),
        ("rows.jsonl", "\n".join(map(json.dumps, numbered(3))), "more than 2 rows"),
        ("rows.csv", "prompt,chosen,rejected\n" + "a,b,c\n" * 3, "more than 2 rows"),
        ("rows.json", "[" + "{}," * 10_000 + "{}]", "more values than fit into 1 MiB; set LIFEALIGN_MAX_READ_MB"),
        ("rows.jsonl", "\n" * 20_000, "unpack to more than 1 MiB"),
        ("rows.csv", "a" * 1_100_000, "larger than 1 MiB"),
    ]:
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DataError) as error:
            read(path)
        assert message in str(error.value)


def test_a_rewritten_file_is_read_anew(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\na,b,c\n")
    assert read(path)[0][0].chosen == "b"
    path.write_text("prompt,chosen,rejected\na,x,c\n")
    assert read(path)[0][0].chosen == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "bad.jsonl",
            '{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n{"prompt": "a",\n',
            "bad.jsonl:3: not valid JSON",
        ),
        ("bad.json", '[\n{"prompt": "a"},\n{"prompt" "b"}\n]', "bad.json:3: not valid JSON"),
        (
            "list.jsonl",
            '{"prompt": "a", "chosen": "b", "rejected": "c"}\n"text"\n',
            "list.jsonl:2: a row must be an object",
        ),
        ("rows.txt", "a", "unknown extension '.txt'; allowed: .json, .jsonl, .parquet, .csv"),
        ("bad.parquet", "no parquet", "not a readable parquet file"),
        ("empty.jsonl", "", "no usable row among 0"),
        ("empty.csv", "", "no usable row among 0"),
        (
            "comma.csv",
            "prompt,chosen,rejected\n\nHi,a,b\nHello, you,a,b\n",
            "comma.csv:4: 4 fields, but the header has 3",
        ),
        ("short.csv", "prompt,chosen,rejected\nHi,a\n", "short.csv:2: 2 fields, but the header has 3"),
        ("twice.csv", "prompt,chosen,chosen\na,b,c\n", "twice.csv:1: two columns are called 'chosen'"),
        ("digits.jsonl", '{"prompt": ' + "1" * 5000 + "}", "digits.jsonl:1: cannot parse JSON"),
        ("deep.json", "[" * 100_000, "deep.json: cannot parse JSON"),
        (
            "role.jsonl",
            '{"prompt": [{"role": ["user"], "content": "a"}], "chosen": "b", "rejected": "c"}',
            "other than system",
        ),
        ("latin.jsonl", b'{"prompt": "\xe9"}', "not UTF-8 text (byte 12)"),
        (
            "columns.jsonl",
            '{"ask": "a", "better": "b"}',
            "wrong columns: found ask, better; needed prompt (or query), chosen, rejected",
        ),
        (
            "hc3.jsonl",
            '{"question": "a", "human_answers": ["b"], "chatgpt_answers": ["c"]}',
            "these columns match recipe: hc3",
        ),
        (
            "unusable.jsonl",
            '{"prompt": "a", "chosen": "b", "rejected": "b"}\n{"prompt": "a", "chosen": "", "rejected": "b"}\n',
            "unusable.jsonl: no usable row among 2:\n  dropped 1 row: equal answers (row 1)\n"
            "  dropped 1 row: empty chosen answer (row 2)",
        ),
    ],
)
def test_bad_files_get_one_clear_message(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        read(path)
    assert message in str(error.value)
    assert name in str(error.value)


def test_paths(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"rows\.jsonl: no such file"):
        read("rows.jsonl")  # has a suffix: never looked for on the hub
    with pytest.raises(DataError, match="is a directory"):
        read(tmp_path)
    monkeypatch.delenv("LIFEALIGN_NOWHERE", raising=False)
    with pytest.raises(DataError, match="environment variable LIFEALIGN_NOWHERE is not set"):
        read("${LIFEALIGN_NOWHERE}/a.json")
    monkeypatch.setenv("LIFEALIGN_NOWHERE", str(tmp_path))
    write_jsonl(tmp_path / "a.jsonl", numbered(1))
    assert len(read("${LIFEALIGN_NOWHERE}/a.jsonl")[0]) == 1
    assert expand_path("~/a.json") == str(Path.home() / "a.json")
    with pytest.raises(DataError, match="unknown split 'test'; a file has only the split 'train'"):
        read(tmp_path / "a.jsonl", split="test")
    assert is_file_path("a.jsonl") and is_file_path("./a") and is_file_path("a/b/c") and is_file_path("/a")
    assert not is_file_path("owner/set-v1.5") and not is_file_path("owner/name")


def test_hub_failure_names_the_set_and_why(monkeypatch):
    import datasets

    calls = []

    def load(path, **options):
        calls.append((path, options))
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"owner/name: .*split 'test'.* cannot be loaded: Couldn't reach it"):
        read("owner/name", split="test", data_dir="sub")
    assert calls == [("owner/name", {"name": None, "data_dir": "sub", "split": "test", "revision": None})]
