"""The short form of `make fuzz`: every input that ever failed, and a few new ones for every door."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.doors import DOORS, Door
from fuzz.run import FAILURES, Tally, main, table, try_many, try_one
from lifealign.core.errors import DataError

KNOWN = {door.name: door for door in DOORS}


@pytest.mark.parametrize("path", sorted(FAILURES.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_failed_once_is_read_or_refused(path: Path, tmp_path: Path) -> None:
    assert try_one(KNOWN[path.parent.name], path.read_bytes(), tmp_path, Tally(), keep_it=False) is None


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_few_inputs_of_every_door(door: Door, tmp_path: Path) -> None:
    tally = try_many(door, 3, 0, tmp_path, keep_it=False)
    assert tally.inputs >= 3 and not tally.failed, tally.reasons


def test_a_failure_is_counted_and_shown(tmp_path: Path) -> None:
    def enter(data: bytes, folder: Path) -> object:
        if data == b"refused":
            raise DataError("no")
        return data.decode()

    door, tally = Door("text", DOORS[0].inputs, enter), Tally()
    for data in (b"refused", b"accepted", b"\xff"):
        try_one(door, data, tmp_path, tally, keep_it=False)
    assert (tally.refused, tally.accepted, tally.failed) == (1, 1, 1)
    assert "| text | 3 | 1 | 1 | 1 |" in table({"text": tally})
    (reason,) = tally.reasons or ()
    assert reason.startswith("UnicodeDecodeError in ")


def test_the_command_tries_a_door_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "3", "--doors", "rubric.yaml"]) == 0
    assert "| rubric.yaml | 3 |" in capsys.readouterr().out
