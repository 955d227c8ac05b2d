"""Tags: names that a user gives to points of a memory's life, such as ``production``. All are in one sealed file.

A tag names a task directory together with the checksum of its manifest, as HEAD does. So a tag cannot come to mean
another task, and damage to the task or to the tag is detected. A memory without the file has no tags. This module
reads; the file is written by `MemoryStore.tag` and `MemoryStore.untag`, each with one atomic replacement.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.documents import check
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import reading
from lifealign.core.json_codec import seal
from lifealign.store import manifest
from lifealign.store.layout import ROOT, TAGS, TASK, TASKS
from lifealign.store.schema import TAG, TagsRecord

RESERVED = ("base", "now", "initial", "joint")
"""Words that already name a point, so they cannot be tags."""
_NAME = re.compile(TAG)


@dataclass(frozen=True)
class Tag:
    """A name for a point.

    Attributes:
        directory: of the task, under tasks/.
        sha256: of the task's manifest.
        created: when the name was given to this point; UTC, ISO 8601.
    """

    directory: str
    sha256: str
    created: str


def read_tags(memory: Path) -> dict[str, Tag]:
    """All tags by name, in alphabetical order; empty if none was ever given.

    Raises:
        StoreError: the file is damaged.
    """
    path = memory / TAGS
    with reading(path):
        if not path.exists():
            return {}
    record, _ = manifest.read_record(path, "tags")
    found = check(TagsRecord, record, f"{path}: damaged").tags
    return {name: Tag(tag.directory, tag.sha256, tag.created) for name, tag in sorted(found.items())}


def encode_tags(tags: Mapping[str, Tag]) -> bytes:
    """The content of the file."""
    entries = {name: vars(tag) for name, tag in tags.items()}
    return seal({"format_version": manifest.FORMAT_VERSION, "tags": entries})


def check_name(name: str, tasks: Collection[str]) -> None:
    """Refuse a name that cannot be a tag.

    Args:
        name: the wanted name.
        tasks: names of all tasks on disk, rolled back or not: a name must not have two meanings.

    Raises:
        ConfigError: another form, a reserved word, or the name of a task.
    """
    if not _NAME.fullmatch(name) or manifest.is_directory_name(name):
        raise ConfigError(
            f"tag {name!r}: allowed: 1 to 64 letters, digits, '-', '_' and '.', the first a letter or digit, and not "
            f"the form of a task's directory ({ROOT}); e.g. production"
        )
    if name in RESERVED:
        raise ConfigError(f"tag {name!r}: this word already names a point; choose another, e.g. production")
    if name in tasks:
        raise ConfigError(f"tag {name!r}: the memory has a task of that name; choose another name for the tag")


def check_tag(memory: Path, name: str, tag: Tag) -> None:
    """Compare a tag with the task that it names, in or out of the lineage.

    Raises:
        StoreError: the task is missing or damaged, or is not the one that was tagged.
    """
    if not manifest.has_task(memory, tag.directory):
        raise StoreError(f"{memory / TAGS}: tag {name!r} names {tag.directory!r}, which is not in {TASKS}/")
    compare(memory, name, tag, manifest.read_manifest(memory, tag.directory).sha256)


def compare(memory: Path, name: str, tag: Tag, sha256: str) -> None:
    """Compare a tag with the checksum of the manifest that it names.

    Raises:
        StoreError: they differ.
    """
    if tag.sha256 != sha256:
        raise StoreError(
            f"{memory / TAGS}: does not match {memory / TASKS / tag.directory / TASK}: tag {name!r} expects sha256 "
            f"{tag.sha256}, the file has {sha256}; one of the two was changed"
        )
