"""The other commands pass their options on and print one document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import lifealign


def test_related_and_compose_pass_their_options_on(memory, fake):
    result = lifealign("related", memory, "rows.jsonl", "--steps", 0, "--as-of", "t", "--recipe", "hc3", "--json")
    assert json.loads(result.stdout) == {"what": "related", "overlap": None}
    assert (
        lifealign("compose", memory, "--weight", "a=-0.5", "--out", "there", "--space", "delta_w").stdout
        == "composed\n"
    )
    assert lifealign("compose", memory, "--weight", "a=1", "--split", "validation", "--as-of", "t").exit_code == 0
    assert fake.calls == [
        ("related", "rows.jsonl", {"steps": 0, "recipe": "hc3", "as_of": "t"}),
        ("compose", {"a": -0.5}, {"space": "delta_w", "out": Path("there"), "as_of": None, "split": "test"}),
        ("compose", {"a": 1.0}, {"space": None, "out": None, "as_of": "t", "split": "validation"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no weights given; pass --weight TASK=WEIGHT"),
        (("--weight", "tone"), "--weight 'tone': expected TASK=WEIGHT with a number"),
        (("--weight", "tone=half"), "--weight 'tone=half': expected TASK=WEIGHT with a number"),
        (("--weight", "a=1", "--weight", "a=2"), "--weight 'a=2': task 'a' already has a weight (1)"),
        (("--weight", "a=1", "--split", "train"), "--split 'train': allowed: test, validation"),
    ],
)
def test_weights_that_cannot_be_read(memory, fake, arguments, message):
    result = lifealign("compose", memory, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake.calls == []


def test_export_passes_its_options_on(memory, fake, tmp_path):
    there = tmp_path / "there"
    assert lifealign("export", memory, "--out", there, "--merged", "--as-of", "t").exit_code == 0
    assert lifealign("export", memory, "--out", there).exit_code == 0
    result = lifealign("export", memory, "--out", there, "--format", "gguf", "--gguf-type", "f32")
    assert result.stdout.splitlines() == [f"written: {there}", "loaded again"]
    assert fake.calls == [
        ("export", there, None, True, "t", None),
        ("export", there, None, False, None, None),
        ("export", there, "gguf", False, None, "f32"),
    ]
    document = json.loads(lifealign("export", memory, "--out", there, "--merged", "--json").stdout)
    assert document["merged"] and document["report"]["format"] == "merged"


def test_log_show_rollback(memory, fake):
    assert lifealign("log", memory).stdout.splitlines() == [
        "0001-tone   2030-01-01     2.50 MB  <- base  [production, v1]",
        "            rows of March",
        "            by the help desk",
        "0002-old    2030-01-01     2.50 MB  (rolled back)  [old]",
        "0002-style  2030-01-01     2.50 MB  <- now",
        "            supersedes tone",
    ]
    assert [entry["head"] for entry in json.loads(lifealign("log", memory, "--json").stdout)] == [False, False, True]
    assert "nll: null" in lifealign("show", memory, "tone", "--all").stdout
    shown = lifealign("show", memory, "tone").stdout.splitlines()
    assert shown[0] == "commit     0001-tone" and "  tone  accuracy 92, 11/12 rows" in shown
    assert all(len(line) <= 80 for line in shown[:-1]) and shown[-1].endswith("tone --all")
    assert json.loads(lifealign("show", memory, "tone", "--json").stdout)["order"] == [1, 2]
    assert lifealign("rollback", memory, "tone").stdout.splitlines() == [
        f"{memory}: now at 0001-tone",
        "tag old names 0002-old, which is rolled back now and cannot be used",
    ]
    assert json.loads(lifealign("rollback", memory, "tone", "--json").stdout)["tags_rolled_back"] == {"old": "0002-old"}
    assert fake.calls == 2 * [("rollback", "tone")]


def test_withdraw_passes_the_note_on(memory, fake):
    assert lifealign("withdraw", memory, "tone", "--note", "wrong").stdout.splitlines() == ["withdrawn"]
    assert json.loads(lifealign("withdraw", memory, "tone", "--json").stdout)["memory"] == str(memory)
    assert fake.calls == [("withdraw", "tone", "wrong"), ("withdraw", "tone", None)]


def test_recover_passes_its_options_on_and_has_the_defaults_of_python(memory, fake):
    from dataclasses import asdict

    from lifealign.memory.recovery.config import RecoverOptions

    where = {"as_of": None, "prompts": None, "space": "adapter", "out": None, "note": None}
    assert lifealign("recover", memory, "--task", "tone").stdout.splitlines() == ["recovered"]
    call = (
        "recover",
        memory,
        "--task",
        "tone",
        "--from",
        "style",
        "--space",
        "merged",
        "--out",
        "there",
        "--rate",
        0.5,
    )
    more = ("--steps", 3, "--warm-up", 1, "--rollback-share", 0, "--allowed-drop", 1, "--accumulate", "--layer", 2)
    assert lifealign(*call, *more, "--seed", 7, "--prompts", "p.jsonl", "--note", "why").exit_code == 0
    assert fake.calls[0] == ("recover", "tone", {**where, **asdict(RecoverOptions())})
    options = {"rate": 0.5, "steps": 3, "warm_up": 1, "rollback_share": 0, "allowed_drop": 1, "accumulate": True}
    there = {"as_of": "style", "prompts": "p.jsonl", "space": "merged", "out": Path("there"), "note": "why"}
    assert fake.calls[1] == ("recover", "tone", {**there, **options, "layer": 2, "seed": 7})


def test_tags_are_listed_given_moved_and_removed(memory, fake):
    assert lifealign("tag", memory).stdout.splitlines() == [
        "production: 0001-tone, since 2030-01-01",
        "old: 0002-old, since 2030-01-01 (rolled back)",
    ]
    assert list(json.loads(lifealign("tag", memory, "--json").stdout)["tags"]) == ["production", "old"]
    assert lifealign("tag", memory, "style", "new").stdout == "new: 0001-style\n"
    assert lifealign("tag", memory, "style", "production").stdout == "production: 0001-style; was 0002-old\n"
    assert lifealign("tag", memory, "style", "v1").stdout == "v1: 0001-style; as before\n"
    assert lifealign("tag", memory, "--delete", "v1").stdout == "v1: removed; was 0001-tone\n"
    assert fake.calls == [*(("tag", "style", name) for name in ("new", "production", "v1")), ("untag", "v1")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tone",), "no name for 'tone'; give both: lifealign tag "),
        (("tone", "--delete", "v1"), "--delete v1 takes no TASK or NAME; give either"),
        (("tone", "v2", "--delete", "v1"), "--delete v1 takes no TASK or NAME; give either"),
    ],
)
def test_a_tag_needs_a_task_and_a_name_or_delete(memory, fake, arguments, message):
    result = lifealign("tag", memory, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake.calls == []


def test_verify_names_every_problem(memory, fake):
    assert lifealign("verify", memory).exit_code == 0
    fake.problems = ["a: changed", "b: missing"]
    result = lifealign("verify", memory, "--json")
    assert result.exit_code == 2
    assert result.stderr == "lifealign: a: changed\nlifealign: b: missing\n"
    assert json.loads(result.stdout)["problems"] == ["a: changed", "b: missing"]


def test_check_data_says_what_is_wrong_by_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "same", "rejected": "same"}\n'
    )
    result = lifealign("check-data", path)
    assert result.exit_code == 0
    assert "row 2" in result.stdout
    report = json.loads(lifealign("check-data", path, "--json").stdout)["report"]
    assert (report["read"], report["kept"]) == (2, 1)


def test_check_data_renames_columns_and_writes_the_cleaned_rows(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(
        '{"ask": "a", "good": "b", "chosen": 1, "rejected": "c"}\n{"ask": "a", "good": "b", "rejected": ""}\n'
    )
    columns = ("--map", "prompt=ask", "--map", "chosen=good", "--map", "mark=chosen")
    result = lifealign("check-data", path, *columns, "--fix", out, "--json")
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert value["fixed"] == {"path": str(out), "rows": 1, "not_written": []}
    assert value["report"]["renamed"] == {"prompt": "ask", "chosen": "good", "mark": "chosen"}
    assert f"written: {out}, 1 row\n" in lifealign("check-data", path, *columns, "--fix", out).stdout
    assert json.loads(lifealign("check-data", out, "--json").stdout)["report"]["kept"] == 1
    before = path.read_bytes()
    refused = lifealign("check-data", path, *columns, "--fix", path)
    assert refused.exit_code == 2 and "is an input of this command" in refused.stderr
    assert path.read_bytes() == before
    unknown = lifealign("check-data", path, "--map", "prompt=asked", "--fix", tmp_path / "none.jsonl")
    assert unknown.exit_code == 2 and "found: ask, good, chosen, rejected" in unknown.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_check_data_without_a_usable_row_ends_with_2(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "same", "rejected": "same"}\n')
    result = lifealign("check-data", path)
    assert result.exit_code == 2
    assert result.stderr == f"lifealign: {path}: no usable row\n"


def test_card_prints_or_writes_a_page(memory, fake, tmp_path):
    assert lifealign("card", memory).stdout == "# model\n"
    for name, start in (("a.md", "# model"), ("a.html", "<!doctype html>")):
        assert lifealign("card", memory, "--out", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_text().startswith(start)
    result = lifealign("card", memory, "--out", tmp_path / "a.txt")
    assert result.exit_code == 2 and "must end in .md or .html" in result.stderr
