"""From the command to the loss: few calls, few files, counted on a real run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType

import lifealign
from lifealign.cli.learn import run
from lifealign.training import pair_losses
from support.rows import rows

SOURCE = Path(lifealign.__file__).parent

PATH = [
    ("cli/learn.py", "run"),
    ("memory/learning.py", "learn_stream"),
    ("memory/learning.py", "learn_group"),
    ("training/loop.py", "train_stage"),
    ("training/loop.py", "_step"),
    ("training/loop.py", "_preference_loss"),
    ("training/losses.py", "__call__"),
    ("training/losses.py", "_fpo"),
    ("training/pair_losses.py", "dpo_loss"),
]
"""The table in the page of the layout, call by call; `cli/output.py` wraps every command and is not counted."""


def test_the_loss_is_at_most_nine_calls_and_five_files_from_the_command(tiny_dir: Path, tmp_path: Path) -> None:
    found: list[list[tuple[str, str]]] = []
    original = pair_losses.dpo_loss

    def own_calls(frame: FrameType | None) -> list[tuple[str, str]]:
        calls = []
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(SOURCE):
                calls.append((file.relative_to(SOURCE).as_posix(), frame.f_code.co_name))
            frame = frame.f_back
        return calls[::-1]

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is original.__code__ and not found:
            found.append(own_calls(frame))

    (tmp_path / "one.jsonl").write_text("\n".join(json.dumps(r.to_json()) for r in rows("one", 8)))
    settings = {
        "memory": str(tmp_path / "memory"),
        "model": {"name": str(tiny_dir), "dtype": "float32"},
        "train": {"epochs": 1},
        "evaluate": {"before": False},
        "stream": {
            "tasks": [
                {"name": "one", "train": {"path": str(tmp_path / "one.jsonl")}, "test_rows": 2, "validation_rows": 1}
            ]
        },
    }
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    sys.setprofile(watch)
    try:
        run.__wrapped__(config)  # type: ignore[attr-defined]
    finally:
        sys.setprofile(None)
    assert found == [PATH]
    assert len(PATH) <= 9 and len({file for file, _ in PATH}) <= 5
