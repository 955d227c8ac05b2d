"""The live log of a stage: a disk that refuses it stops nothing and is said once; it is no work that keeps a memory."""

from __future__ import annotations

import json
from pathlib import Path

from lifealign.core.progress import NullProgress
from lifealign.store.layout import LIVE, WORK
from lifealign.store.undo import take_back
from lifealign.training.live_log import LiveLog
from support.progress import Said
from support.store import create


def test_lines_hold_the_head_and_are_whole_as_they_come(tmp_path: Path) -> None:
    with LiveLog(tmp_path / "w", {"task": "bread"}, [{"step": 1}], NullProgress()) as log:
        log.add({"step": 2})
        lines = [json.loads(line) for line in next((tmp_path / "w").glob(LIVE)).read_text().splitlines()]
    assert lines == [{"task": "bread", "step": 1}, {"task": "bread", "step": 2}]


def test_a_refused_write_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file where the folder should be")
    said = Said()
    with LiveLog(tmp_path / "w", {}, [{"step": 1}], said) as log:
        log.add({"step": 2})
    assert len(said.lines) == 1 and "training goes on" in said.lines[0] and str(tmp_path / "w") in said.lines[0]
    with LiveLog(tmp_path / "other", {}, [], said) as log:
        assert log._stream is not None
        log._stream.close()
        full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - a disk that has just become full
        log._stream = full
        log.add({"step": 1})
        log.add({"step": 2})
    assert len(said.lines) == 2 and "No space left" in said.lines[1]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    with LiveLog(None, {}, [{"step": 1}], NullProgress()) as log:
        log.add({"step": 2})
    assert not list(tmp_path.iterdir())


def test_a_memory_with_nothing_but_a_live_log_is_taken_back(tmp_path: Path) -> None:
    store = create(tmp_path / "new")
    with LiveLog(store.path / WORK / "bread", {}, [], NullProgress()):
        pass
    take_back(store, [tmp_path / "new"])
    assert not (tmp_path / "new").exists()
