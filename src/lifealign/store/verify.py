"""Check every byte of a memory, in and out of the lineage, without torch and without writing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from lifealign.core.errors import StoreError
from lifealign.core.files import TEMPORARY, check_file, read_bytes
from lifealign.core.json_codec import decode_json
from lifealign.core.tensors import decode_tensors, tensor_names
from lifealign.store.layout import (
    ASIDE,
    CREATING,
    EVALUATIONS,
    HEAD,
    LOCK,
    PENDING,
    RETIRES,
    STORE,
    TAGS,
    TASK,
    TASKS,
    WORK,
)
from lifealign.store.manifest import (
    TaskManifest,
    check_parent,
    evaluation_files,
    is_directory_name,
    read_evaluation,
    read_head,
    read_lineage,
    read_manifest,
    read_record,
    task_directories,
)
from lifealign.store.tags import check_tag, read_tags

_KNOWN = {ASIDE, STORE, HEAD, TASKS, EVALUATIONS, TAGS, WORK, LOCK, PENDING, CREATING}

T = TypeVar("T")
HOLE = 20
"""Missing files in a row that are named one by one."""


class _Findings(list[str]):
    def attempt(self, check: Callable[[], T]) -> T | None:
        """The result of a check, or None if it fails; its message is then added, unless it was added before."""
        try:
            return check()
        except StoreError as error:
            if str(error) not in self:
                self.append(str(error))
            return None


def find_problems(memory: Path, *, deep: bool = False) -> list[str]:
    """List the problems, each with its file; empty if the memory is sound.

    Checks the seals of store.json, of every manifest and of every evaluation, HEAD against its manifest, every manifest
    against its parent, every task file against its manifest (also of tasks that were rolled back), that safetensors
    files parse, that no evaluation is missing between the first and the last, and every tag against the task it names.
    `deep` also loads every tensor, which imports torch, and parses every document.
    """
    found = _Findings()
    missing = [memory / name for name in (TASKS, EVALUATIONS) if not (memory / name).is_dir()]
    if missing:
        return [f"{path}: missing" for path in missing]
    found.attempt(lambda: read_record(memory / STORE, "store"))
    found.attempt(lambda: read_head(memory))
    for folder in sorted((memory / TASKS).iterdir()):
        if is_directory_name(folder.name) and not (folder / TASK).exists():
            found.append(f"{folder / TASK}: missing")  # a commit has its name only with its manifest
    for directory in task_directories(memory):
        manifest = found.attempt(lambda: read_manifest(memory, directory))  # noqa: B023 - called at once
        if manifest is not None:
            _check_task(memory, manifest, found, deep)
    files = evaluation_files(memory)
    for path in files:
        found.attempt(lambda: read_evaluation(path))  # noqa: B023 - called at once
    found.extend(_gaps(memory / EVALUATIONS, [int(path.stem) for path in files]))
    for name, tag in (found.attempt(lambda: read_tags(memory)) or {}).items():
        found.attempt(lambda: check_tag(memory, name, tag))  # noqa: B023 - called at once
    return found


def _gaps(folder: Path, numbers: Sequence[int]) -> list[str]:
    """A message for each file missing before and between the numbers; the rest of a long hole has one message."""
    messages = []
    for before, after in itertools.pairwise([0, *numbers]):
        listed = min(after, before + 1 + HOLE)
        messages += [f"{folder / f'{number:06d}.json'}: missing" for number in range(before + 1, listed)]
        if listed < after:
            more = after - 1 - listed
            messages.append(
                f"{folder / f'{listed:06d}.json'}: missing"
                + f", and {more} more up to {after - 1:06d}.json" * bool(more)
            )
    return messages


def _check_task(memory: Path, manifest: TaskManifest, found: _Findings, deep: bool) -> None:
    found.attempt(lambda: check_parent(memory, manifest))
    if RETIRES in manifest.meta:
        found.attempt(lambda: _check_retired(memory, manifest))
    for name, entry in sorted(manifest.files.items()):
        path = memory / TASKS / manifest.directory / name
        before = len(found)
        found.attempt(lambda: check_file(path, entry, memory))  # noqa: B023 - called at once
        if len(found) == before and path.suffix == ".safetensors":
            found.attempt(lambda: tensor_names(path))  # noqa: B023 - called at once
        if len(found) == before and deep:
            found.attempt(lambda: _load(path))  # noqa: B023 - called at once


def _load(path: Path) -> None:
    """Load all that a file holds, and let it go."""
    data = read_bytes(path)
    if path.suffix == ".safetensors":
        decode_tensors(path, data)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(data.splitlines(), 1):
            decode_json(f"{path}:{number}", line)
    else:
        decode_json(path, data)


def _check_retired(memory: Path, manifest: TaskManifest) -> None:
    """Refuse a commit that retires a task which was not learnt before it, or was retired already."""
    path = memory / TASKS / manifest.directory / TASK
    lineage = read_lineage(memory, manifest)
    gone = [name for m in lineage[:-1] for name in m.meta.get(RETIRES, ())]
    for name in manifest.meta[RETIRES]:
        if name not in {task for m in lineage for task in m.members} or name in gone:
            raise StoreError(f"{path}: damaged: it retires task {name!r}, which is not in force there")


def find_strays(memory: Path) -> list[Path]:
    """Files and directories that nothing refers to: harmless, never read, not removed."""
    strays = [path for path in memory.iterdir() if path.name not in _KNOWN]
    tasks = set(task_directories(memory))
    for path in (memory / TASKS).iterdir():
        if path.name not in tasks:
            strays.append(path)
        else:
            try:
                known = {TASK, *read_manifest(memory, path.name).files}
            except StoreError:  # find_problems reports it
                continue
            strays += [inner for inner in path.iterdir() if inner.name not in known]
    evaluations = set(evaluation_files(memory))
    strays += [path for path in (memory / EVALUATIONS).iterdir() if path not in evaluations]
    return sorted(path for path in strays if not path.name.startswith(TEMPORARY))
