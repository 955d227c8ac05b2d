"""What a folder holds for the viewer: memories, results of studies, and files of answers. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lifealign.core.errors import UserError
from lifealign.core.files import open_file, read_bytes
from lifealign.core.json_codec import decode_json
from lifealign.data.answers import REQUIRED
from lifealign.store.layout import HEAD, STORE

DEEPEST = 8
"""Folders below the root that are looked into."""
MOST_ENTRIES = 20_000
RESULTS = "results.json"
_PEEK = 1 << 20  # bytes of a first line


@dataclass
class Found:
    """What is below a folder; each has its path from there as its name.

    Attributes:
        memories: name -> directory.
        studies: name -> its results.json.
        answers: name -> file.
        notes: what was not looked into, and why.
    """

    memories: dict[str, Path] = field(default_factory=dict)
    studies: dict[str, Path] = field(default_factory=dict)
    answers: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find(root: Path) -> Found:
    """Everything below a folder that the viewer can show. Links are not followed, and hidden folders are left out."""
    found = Found()
    if _is_memory(root):
        found.memories[root.resolve().name] = root
        return found
    for count, entry in enumerate(_entries(root, 0, found)):
        if count >= MOST_ENTRIES:
            found.notes.append(
                f"only the first {MOST_ENTRIES:,} files and folders were looked at; give a smaller folder"
            )
            break
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        if entry.is_dir(follow_symlinks=False):
            if _is_memory(path):
                found.memories[name] = path
        elif path.name == RESULTS and _is_study(path):
            found.studies[name] = path
        elif path.suffix == ".jsonl" and _is_answers(path):
            found.answers[name] = path
    return found


def _entries(folder: Path, depth: int, found: Found) -> Iterator[os.DirEntry[str]]:
    """Files and folders below one, in order of their names, without what is inside of memories."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        found.notes.append(f"{folder}: {error.strerror or error}")
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False) and not _is_memory(Path(entry.path)):
            if depth + 1 < DEEPEST:
                yield from _entries(Path(entry.path), depth + 1, found)
            else:
                found.notes.append(f"{entry.path}: too deep; give a folder nearer to it")


def _is_memory(path: Path) -> bool:
    return (path / STORE).is_file() and (path / HEAD).is_file()


def _is_study(path: Path) -> bool:
    """Whether a results.json is a study's; a report's has the same name."""
    with suppress(UserError):
        data = decode_json(path, read_bytes(path))
        return isinstance(data, dict) and isinstance(data.get("study"), str) and "runs" in data
    return False


def _is_answers(path: Path) -> bool:
    """Whether the first line of a file is an answer."""
    with suppress(UserError, ValueError, RecursionError), open_file(path) as stream:
        row = json.loads(stream.readline(_PEEK))
        return isinstance(row, dict) and all(key in row for key in REQUIRED)
    return False
