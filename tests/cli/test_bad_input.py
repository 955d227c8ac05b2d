"""Every mistake of a user: one clear message, exit code 2, nothing lost. Through the command line, on a tiny model."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lifealign.cli.app import app
from lifealign.store.writer import MemoryStore
from support.rows import rows

BASE = ("--set", "lora.r=2", "--set", "train.epochs=1", "--set", "data.max_length=200", "--set", "evaluate.bootstrap=5")


def lifealign(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r.to_json()) for r in rows("tone", 12)))
    return path


@pytest.fixture
def memory(tmp_path: Path, tiny_dir: Path, data: Path) -> Path:
    path = tmp_path / "memory"
    result = lifealign("learn", path, data, "--name", "first", "--base-model", tiny_dir, *BASE)
    assert result.exit_code == 0, result.output
    return path


def refused(result: Result, *parts: str, memory: Path | None = None) -> None:
    """Exit code 2 and one message on stderr that holds `parts`; the memory is sound and has its one task."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    message = result.stderr.strip().splitlines()[-1] if "\n  " not in result.stderr else result.stderr
    assert message.startswith("lifealign: ") or "lifealign: " in result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)
    if memory is not None:
        store = MemoryStore.open(memory)
        assert store.verify() == [] and [m.name for m in store.lineage()] == ["initial", "first"]


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


GOOD = {"prompt": "p", "chosen": "yes", "rejected": "no"}

BAD_ROWS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "bad JSON": ((GOOD, "{not json"), ("bad.jsonl:2",)),
    "prompts alone": (({"prompt": "p"},), ("prompts without answers", "prompt", "needed pairs")),
    "stars": (
        ({"prompt": "p", "completion": "a", "rating": 4}, {"prompt": "q", "completion": "a", "rating": 1}),
        ("`rating` holds numbers such as 1 and 4", "--good-from", "rows 1, 2"),
    ),
    "thumbs not given": (({"prompt": "p", "completion": "a", "label": None},), ("`label` is empty", "row 1")),
    "conversations without an end": (
        ({"messages": [{"role": "user", "content": "p"}]},),
        ("does not end with an answer of the assistant", "row 1"),
    ),
    "wrong columns": (({"question": "p", "good": "a"},), ("question", "chosen", "rejected")),
    "empty answers": (({**GOOD, "chosen": " "},), ("empty",)),
    "equal answers": (({**GOOD, "chosen": "no"},), ("equal",)),
    "long prompt": (
        tuple({"prompt": f"{i} " + "long " * 200, "chosen": "a", "rejected": "b"} for i in range(5)),
        ("bad.jsonl:", "data.max_length=200", "long_prompts"),
    ),
}


@pytest.mark.parametrize("case", list(BAD_ROWS))
def test_bad_rows(case: str, memory: Path, tmp_path: Path) -> None:
    lines, parts = BAD_ROWS[case]
    refused(lifealign("learn", memory, write(tmp_path, *lines), "--name", "second"), *parts, memory=memory)


def test_missing_file(memory: Path, tmp_path: Path) -> None:
    refused(lifealign("learn", memory, tmp_path / "none.jsonl", "--name", "second"), "none.jsonl", memory=memory)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.epoch=3", ("train.epoch", "epochs")),
        ("train.epochs=-1", ("train.epochs", "-1")),
        ("strategy.theta=1.5", ("strategy.theta", "1.5")),
        (
            "strategy.name=lifelong",
            ("lifelong", "did you mean 'lifealign'", "allowed: agem, ", ", lifealign, ", ", si, single"),
        ),
        ("lora.r=4", ("lora", "fixed")),
        ("train.learning_rate=fast", ("train.learning_rate", "fast")),
        ("train.epochs=2024-13-45", ("train.epochs", "whole number", "got '2024-13-45'")),
        ("strategy.name=[a]", ("strategy.name", "unknown strategy")),
        ("strategy.reference=task_start", ("strategy.reference=task_start", "sft.epochs=0")),
        ("seed=99999999999", ("seed", "99999999999")),
    ],
)
def test_bad_settings(setting: str, parts: tuple[str, ...], memory: Path, data: Path) -> None:
    refused(lifealign("learn", memory, data, "--name", "second", "--set", setting), *parts, memory=memory)


def test_another_base_model(memory: Path, data: Path, tmp_path: Path) -> None:
    from support.tiny import save_tiny

    other = save_tiny(tmp_path / "other", seed=1)
    refused(
        lifealign("learn", memory, data, "--name", "second", "--base-model", other),
        "base model",
        str(other),
        memory=memory,
    )


def test_base_model_with_other_weights(memory: Path, data: Path, tiny_dir: Path, tmp_path: Path) -> None:
    from support.tiny import save_tiny

    kept = tmp_path / "kept"
    tiny_dir.rename(kept)
    try:
        save_tiny(tiny_dir, seed=7)
        more = write(tmp_path, *(r.to_json() for r in rows("law", 12)))
        refused(lifealign("learn", memory, more, "--name", "second"), "wrong base model weights", memory=memory)
    finally:
        __import__("shutil").rmtree(tiny_dir)
        kept.rename(tiny_dir)


def test_no_memory_and_no_base_model(tmp_path: Path, data: Path) -> None:
    refused(lifealign("learn", tmp_path / "none", data, "--name", "x"), "no memory here", "--base-model")
    refused(lifealign("log", tmp_path / "none"), "no such directory")


def test_a_newer_format_is_refused_by_both_versions(memory: Path) -> None:
    path = memory / "store.json"
    record = json.loads(path.read_text())
    record["format_version"] = 99
    path.write_text(json.dumps(record))
    refused(lifealign("log", memory), "store.json", "99", "version 2")


TAGS_AND_NOTES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown task": (("tag", "MEMORY", "none", "production"), "no task 'none'; known: base"),
    "name with spaces": (("tag", "MEMORY", "first", "in production"), "tag 'in production': allowed: 1 to 64 letters"),
    "name of a task": (("tag", "MEMORY", "first", "first"), "tag 'first': the memory has a task of that name"),
    "reserved name": (("tag", "MEMORY", "first", "now"), "tag 'now': this word already names a point"),
    "no such tag": (("tag", "MEMORY", "--delete", "production"), "no tag 'production'; tags: none"),
    "as of no tag": (("evaluate", "MEMORY", "--as-of", "production"), "no task 'production'; known: base"),
    "diff with no tag": (("diff", "MEMORY", "now", "production"), "no task 'production'; known: base"),
    "against no tag": (("evaluate", "MEMORY", "--against", "production"), "no task 'production'; known: base"),
    "empty note": (("learn", "MEMORY", "DATA", "--name", "next", "--note", " "), "note of 0 characters"),
}


@pytest.mark.parametrize("case", list(TAGS_AND_NOTES))
def test_bad_tags_and_notes(case: str, memory: Path, data: Path) -> None:
    arguments, message = TAGS_AND_NOTES[case]
    places = {"MEMORY": memory, "DATA": data}
    refused(lifealign(*(places.get(argument, argument) for argument in arguments)), message, memory=memory)
    assert not (memory / "tags.json").exists()


def test_a_note_that_cannot_be_kept_leaves_no_new_memory(tmp_path: Path, tiny_dir: Path, data: Path) -> None:
    path = tmp_path / "new"
    result = lifealign("learn", path, data, "--name", "x", "--base-model", tiny_dir, "--note", "a\x1b[31m")
    refused(result, "is a control character")
    assert not path.exists()


def test_a_second_writer(memory: Path, data: Path) -> None:
    with MemoryStore.open(memory).writer():
        more = data.parent / "more.jsonl"
        more.write_text("\n".join(json.dumps(r.to_json()) for r in rows("law", 12)))
        refused(lifealign("learn", memory, more, "--name", "second"), "another process is writing", memory=memory)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_full_disk_and_read_only(code: int, memory: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifealign.core import files

    def fail(path: Path, content: bytes) -> object:
        raise OSError(code, os.strerror(code), str(path))

    more = data.parent / "more.jsonl"
    more.write_text("\n".join(json.dumps(r.to_json()) for r in rows("law", 12)))
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", fail)
        result = lifealign("learn", memory, more, "--name", "second")
    refused(result, os.strerror(code), memory=memory)
    assert lifealign("learn", memory, more, "--name", "second").exit_code == 0  # and afterwards it goes on


def test_a_loss_that_is_not_finite(memory: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifealign.strategies.lifealign import LifeAlign

    def spoiled(self: object, batch: object, policy, reference, objective):  # type: ignore[no-untyped-def]
        return policy.chosen * math.nan

    monkeypatch.setattr(LifeAlign, "loss", spoiled)
    more = data.parent / "more.jsonl"
    more.write_text("\n".join(json.dumps(r.to_json()) for r in rows("law", 12)))
    refused(lifealign("learn", memory, more, "--name", "second"), "not finite", "learning rate", memory=memory)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda m: ("generate", m, "--prompt", "long " * 300),
        lambda m: ("generate", m, "--prompt", "x", "--as-of", "nothing"),
        lambda m: ("evaluate", m, "--task", "nothing"),
        lambda m: ("evaluate", m, "--gate", "bwt>>1"),
        lambda m: ("rollback", m, "nothing"),
        lambda m: ("withdraw", m, "nothing"),
        lambda m: ("recover", m, "--task", "nothing"),
        lambda m: ("show", m, "nothing"),
    ],
)
def test_other_commands(arguments: Callable[[Path], tuple[str, ...]], memory: Path) -> None:
    refused(lifealign(*arguments(memory)), memory=memory)


def test_the_same_task_again_is_taken_for_a_killed_run_only_with_the_same_settings(memory: Path, data: Path) -> None:
    again = ("learn", memory, data, "--name", "first")
    assert lifealign(*again, *BASE[2:4]).exit_code == 0
    refused(lifealign(*again, "--set", "train.epochs=2"), "'first' is in the memory already", memory=memory)


@pytest.mark.parametrize("name", ["base", "initial", "now"])
def test_a_task_has_no_name_of_a_point(name: str, memory: Path, data: Path) -> None:
    refused(lifealign("learn", memory, data, "--name", name), f"'{name}' names a point", memory=memory)


def test_what_is_read_is_not_written_over(memory: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hi", "tag": "keep me"}\n')
    refused(lifealign("generate", memory, "--prompts", prompts, "--out", prompts), "is an input of this command")
    assert "keep me" in prompts.read_text()
    ratings = tmp_path / "ratings.sqlite"
    ratings.write_bytes(b"ratings")
    refused(lifealign("ratings", "export", "--db", ratings, "--out", ratings), "is an input of this command")
    assert ratings.read_bytes() == b"ratings"


def test_a_prompt_that_is_no_text_and_a_seed_too_large(memory: Path) -> None:
    refused(lifealign("generate", memory, "--prompt", "a\udcffb"), "not valid Unicode")
    assert lifealign("generate", memory, "--prompt", "a", "--seed", str(2**64)).exit_code == 2


def test_export_below_a_file(memory: Path, data: Path) -> None:
    refused(lifealign("export", memory, "--out", data / "below"), "Not a directory")


def test_export_does_not_overwrite(memory: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    refused(lifealign("export", memory, "--out", tmp_path / "out"), "not an empty directory", memory=memory)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_gate_that_fails_is_exit_code_3(memory: Path) -> None:
    result = lifealign("evaluate", memory, "--gate", "last>=100.5")
    assert result.exit_code == 3, result.output
    assert lifealign("evaluate", memory, "--gate", "last>=0").exit_code == 0


def test_one_flipped_byte_is_refused_by_name(memory: Path) -> None:
    path = next((memory / "tasks").glob("0001-*/adapter.safetensors"))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    result = lifealign("verify", memory)
    assert result.exit_code == 2 and "0001-first/adapter.safetensors" in result.output
    assert lifealign("generate", memory, "--prompt", "x").exit_code == 2
