"""Bring a damaged memory back to its newest sound point; nothing is deleted, damaged files are moved aside; no torch."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lifealign.core import files
from lifealign.core.errors import StoreError
from lifealign.core.json_codec import seal
from lifealign.store import manifest
from lifealign.store.contents import head_line
from lifealign.store.layout import ASIDE, CREATING, EVALUATIONS, HEAD, PENDING, ROOT, STORE, TAGS, TASK, TASKS
from lifealign.store.manifest import FORMAT_VERSION, TaskManifest
from lifealign.store.tags import check_tag, encode_tags, read_tags
from lifealign.store.verify import find_problems
from lifealign.store.writer import MemoryStore

_PARENT = re.compile(rb'"parent":"([0-9]{4,15}-[a-z0-9][a-z0-9_-]*)"')
GONE = "gone"
"""Kind of the evaluation record that takes the place of one that was moved aside."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        head: directory of the point that the memory is at now.
        before: directory of the point that HEAD named; None: HEAD could not be read.
        problems: as `find_problems` listed them before; empty: nothing was done.
        moved: files and directories that were moved, relative to the memory.
        aside: where they are now; None: nothing was moved.
    """

    head: str
    before: str | None
    problems: tuple[str, ...]
    moved: tuple[str, ...]
    aside: Path | None


def repair(path: Path) -> Repaired:
    """Move HEAD to the newest sound point, and what is damaged, or built on it, aside.

    A HEAD that can be read decides the line: the point is then the newest sound one of that line. Otherwise it is the newest
    sound task on disk.

    Raises:
        StoreError: store.json is damaged or no point is sound, so that only a backup helps; or another process writes.
    """
    if not (path / STORE).is_file() or not (path / TASKS).is_dir() or (path / CREATING).exists():
        raise StoreError(f"{path}: not a memory that can be repaired: it needs {STORE} and {TASKS}/, and no {CREATING}")
    manifest.read_record(path / STORE, "store")
    with MemoryStore(path)._locked(), files.writing(path):
        (path / EVALUATIONS).mkdir(exist_ok=True)
        problems = find_problems(path) + _bad_pending(path)
        before = _named(path)
        if not problems:
            return Repaired(manifest.read_head(path).directory, before, (), (), None)
        sound = _sound(path)
        target = _target(path, before, sound)
        return _Repair(path).run(target, before, sound, tuple(problems))


class _Repair:
    """Moves files aside; each step leaves a memory that opens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        number = 1
        while (path / ASIDE / f"{number:04d}").exists():
            number += 1
        self.aside = path / ASIDE / f"{number:04d}"
        self.moved: list[str] = []

    def run(
        self, target: TaskManifest, before: str | None, sound: dict[str, TaskManifest], problems: tuple[str, ...]
    ) -> Repaired:
        """The whole repair, HEAD first: from then on the memory opens."""
        line = head_line(target.directory, target.sha256)
        if not (self.path / HEAD).exists() or files.read_bytes(self.path / HEAD) != line:
            self._copy(HEAD)
            files.replace_file(self.path / HEAD, line)
        if _bad_pending(self.path):
            self._move(PENDING)
        for directory in sorted(_task_folders(self.path) - sound.keys()):
            self._move(f"{TASKS}/{directory}")
        self._evaluations(sound)
        self._tags()
        if left := find_problems(self.path):
            raise StoreError(f"{left[0]}; the repair could not mend this; restore a backup")
        return Repaired(target.directory, before, problems, tuple(self.moved), self.aside if self.moved else None)

    def _evaluations(self, sound: dict[str, TaskManifest]) -> None:
        """Records that are damaged, missing, or of a task that was moved: a record takes the place of each, which says so."""
        paths = {int(path.stem): path for path in manifest.evaluation_files(self.path)}
        kept: set[int] = set()
        for number, path in paths.items():
            with suppress(StoreError):
                if manifest.read_evaluation(path)["after"] in sound:
                    kept.add(number)
        for number in range(1, max(kept, default=0) + 1):
            if number not in kept:
                if number in paths:
                    self._move(f"{EVALUATIONS}/{paths[number].name}")
                self._placeholder(number)
        for number in sorted(paths.keys() - kept):
            if number > max(kept, default=0):
                self._move(f"{EVALUATIONS}/{paths[number].name}")

    def _placeholder(self, number: int) -> None:
        record = {"kind": GONE, "after": ROOT, "why": "damaged, missing or of a task that was moved aside by a repair"}
        path = self.path / EVALUATIONS / f"{number:06d}.json"
        files.replace_file(path, seal({"format_version": FORMAT_VERSION, "number": number, "record": record}))

    def _tags(self) -> None:
        """Tags whose task is sound stay."""
        good = {}
        try:
            tags = read_tags(self.path)
        except StoreError:
            self._move(TAGS)
            return
        for name, tag in tags.items():
            with suppress(StoreError):
                check_tag(self.path, name, tag)
                good[name] = tag
        if len(good) < len(tags):
            self._copy(TAGS)
            files.replace_file(self.path / TAGS, encode_tags(good))

    def _move(self, name: str) -> None:
        source, target = self.path / name, self.aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        files.fsync_directory(target.parent)
        files.fsync_directory(source.parent)
        self.moved.append(name)

    def _copy(self, name: str) -> None:
        if (self.path / name).is_file():
            target = self.aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_file(target, files.read_bytes(self.path / name))
            self.moved.append(name)


def _task_folders(path: Path) -> set[str]:
    return {p.name for p in (path / TASKS).iterdir() if manifest.is_directory_name(p.name)}


def _named(path: Path) -> str | None:
    """The directory that HEAD names, whether or not it is sound."""
    try:
        words = files.read_bytes(path / HEAD).decode("ascii").split()
    except (StoreError, UnicodeDecodeError):
        return None
    return words[0] if words and manifest.is_directory_name(words[0]) else None


def _sound(path: Path) -> dict[str, TaskManifest]:
    """Tasks whose whole line is sound, each file of it."""
    known: dict[str, TaskManifest | None] = {}
    for directory in sorted(_task_folders(path), key=manifest.directory_number):
        known[directory] = None
        with suppress(StoreError):
            task = manifest.read_manifest(path, directory)
            if task.parent is None or (known.get(task.parent) is not None and _older(task.parent, directory)):
                manifest.check_parent(path, task)
                for name, entry in task.files.items():
                    files.check_file(path / TASKS / directory / name, entry)
                known[directory] = task
    return {directory: task for directory, task in known.items() if task is not None}


def _older(parent: str, child: str) -> bool:
    return manifest.directory_number(parent) < manifest.directory_number(child)


def _target(path: Path, before: str | None, sound: dict[str, TaskManifest]) -> TaskManifest:
    """The newest sound point: of the line that HEAD names, else of all."""
    at, seen = before, set[str]()
    while at is not None and at not in sound and at not in seen:
        seen.add(at)
        at = _parent(path, at)
    if at is not None:
        return sound[at]
    if not sound:
        raise StoreError(f"{path}: no point of this memory is sound; restore a backup")
    # The line is not known beyond the damage: the newest point that is no newer than HEAD was, if HEAD can be read.
    newest = manifest.directory_number(before) if before is not None else None
    older = [d for d in sound if newest is None or manifest.directory_number(d) <= newest]
    return sound[max(older or sound, key=manifest.directory_number)]


def _parent(path: Path, directory: str) -> str | None:
    """The parent that a manifest names, even if the manifest is damaged; only a sound parent is ever used."""
    try:
        found = _PARENT.search(files.read_bytes(path / TASKS / directory / TASK))
    except StoreError:
        return None
    return found.group(1).decode() if found else None


def _bad_pending(path: Path) -> list[str]:
    """A damaged mark of a killed commit; a good one is settled by the next writer."""
    if not (path / PENDING).exists():
        return []
    line = files.read_bytes(path / PENDING)
    directory = line.decode(errors="replace").partition(" ")[0]
    if manifest.is_directory_name(directory):
        if not (path / TASKS / directory).exists():
            return []
        with suppress(StoreError):
            if line == head_line(directory, manifest.read_manifest(path, directory).sha256):
                return []
    return [f"{path / PENDING}: damaged"]
