"""Votes on the disk: the layout, one line each, and what a killed server leaves behind."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.errors import ConfigError, StoreError
from lifealign.memory.serving import feedback
from lifealign.memory.serving.errors import ApiError
from lifealign.memory.serving.feedback import Answered, Feedback, Vote

PROMPT = [{"role": "user", "content": "Wie spät?\n"}]


def answered(*texts: str, created: float | None = None) -> Answered:
    return Answered([PROMPT] * len(texts), texts, "now", "0001-a@123", time.time() if created is None else created)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "votes.jsonl"


def test_a_vote_is_a_row_of_unpaired_feedback(path: Path) -> None:
    votes = Feedback(path)
    votes.remember("r", answered("spät", "früh"))
    votes.take(Vote(id="r", label=True))
    votes.take(Vote(id="r", label=False, choice=1, correction="vier Uhr", consent=True))
    first, second = lines(path)
    about = first.pop("metadata")
    assert first == {"prompt": PROMPT, "completion": [{"role": "assistant", "content": "spät"}], "label": True}
    assert (about["id"], about["choice"], about["model"], about["point"]) == ("r", 0, "now", "0001-a@123")
    assert second["completion"][0]["content"] == "früh"
    assert (second["label"], second["correction"], second["consent"]) == (False, "vier Uhr", True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert votes.votes == 2


def test_a_vote_on_raw_text_keeps_texts(path: Path) -> None:
    votes = Feedback(path)
    votes.remember("r", Answered(["The sky"], [" is blue"], "now", "f", time.time()))
    votes.take(Vote(id="r", label=True))
    assert [(row["prompt"], row["completion"]) for row in lines(path)] == [("The sky", " is blue")]


def test_only_the_newest_responses_are_remembered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "REMEMBERED", 2)
    votes = Feedback(path)
    for name in "abc":
        votes.remember(name, answered("x"))
    votes.remember("old", answered("x", created=time.time() - feedback.SECONDS - 1))
    for name, known in {"a": False, "b": False, "c": True, "old": False}.items():
        if known:
            votes.take(Vote(id=name, label=True))
            continue
        with pytest.raises(ApiError, match="no response") as caught:
            votes.take(Vote(id=name, label=True))
        assert caught.value.status == 404
    with pytest.raises(ApiError, match=r"1 answer\(s\)"):
        votes.take(Vote(id="c", label=True, choice=1))
    assert len(lines(path)) == 1


@pytest.mark.parametrize("torn", [b'{"prompt": [{"role"', b'{"prompt": "\xc3', b"x" * 200_000])
def test_a_torn_line_is_cut_off_and_said(path: Path, torn: bytes) -> None:
    path.write_bytes(b'{"a": 1}\n' + torn)
    votes = Feedback(path)
    assert votes.note == f"{path}: the last line was cut off in the middle and is left out ({len(torn)} bytes)"
    votes.remember("r", answered("x"))
    votes.take(Vote(id="r", label=True))
    assert [("a" in row, "label" in row) for row in lines(path)] == [(True, False), (False, True)]


def test_a_last_line_without_its_end_is_kept(path: Path) -> None:
    path.write_bytes(b'{"a": 1}\n{"b": 2}')
    votes = Feedback(path)
    votes.remember("r", answered("x"))
    votes.take(Vote(id="r", label=True))
    assert votes.note is None
    assert [sorted(row)[0] for row in lines(path)] == ["a", "b", "completion"]


def test_a_vote_that_does_not_fit_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = Feedback(path)
    votes.remember("r", answered("x"))
    votes.take(Vote(id="r", label=True))
    before, write = path.read_bytes(), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="ENOSPC"):
        votes.take(Vote(id="r", label=False))
    assert path.read_bytes() == before and votes.votes == 1


def test_a_place_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    for bad in (tmp_path, tmp_path / "missing" / "votes.jsonl"):
        with pytest.raises(ConfigError, match="--feedback"):
            Feedback(bad)
