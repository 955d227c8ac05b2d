"""Records of files of rows, and how tests write and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lifealign.core.config import SourceConfig, TaskConfig
from lifealign.data.cleaning import read_rows
from lifealign.data.tasks import DataReport, Row
from support.paths import ROOT

RESPLIT = ROOT / "tests" / "fixtures" / "resplit"
"""Rows with the faults of the paper's resplit: `<recipe>/train.json` and `<recipe>/test.json`; see its README."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(start, start + count)
    ]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return str(path)


def read(path: str | Path, **options: Any) -> tuple[tuple[Row, ...], DataReport]:
    """Usable rows of a file, and what became of the others."""
    found = read_rows(SourceConfig(path=str(path), **options))
    return found.rows, found.report


def config_of(path: str, **sizes: Any) -> TaskConfig:
    """A task read from `path`; `test` is a path too."""
    test = sizes.pop("test", None)
    source = SourceConfig(path=test) if test else None
    return TaskConfig(name="task", train=SourceConfig(path=path), test=source, **sizes)
