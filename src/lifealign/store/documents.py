"""A commit's documents, each compared with its schema before anything is read from it; no torch."""

from __future__ import annotations

from typing import Any

from lifealign.core.documents import check
from lifealign.data.stored import ReportRecord
from lifealign.store.layout import DATA, DIAGNOSTICS, TASKS, TRAINING
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.schema import DataRecord, Diagnostics, Step


def read_data(store: MemoryReader, task: TaskManifest) -> dict[str, Any]:
    """A commit's `DATA`; StoreError names the field of another shape."""
    where = store.path / TASKS / task.directory / DATA
    document: dict[str, Any] = store.load_document(task, DATA)
    for name, reports in check(DataRecord, document, str(where)).reports.items():
        for number, report in enumerate(reports):
            check(ReportRecord, report, f"{where}: reports.{name}.{number}")
    return document


def read_diagnostics(store: MemoryReader, task: TaskManifest) -> dict[str, Any]:
    """A commit's `DIAGNOSTICS`; StoreError names the field of another shape."""
    document: dict[str, Any] = store.load_document(task, DIAGNOSTICS)
    check(Diagnostics, document, str(store.path / TASKS / task.directory / DIAGNOSTICS))
    return document


def read_training(store: MemoryReader, task: TaskManifest) -> list[dict[str, Any]]:
    """The lines of a commit's `TRAINING`; StoreError names the line of another shape."""
    lines: list[dict[str, Any]] = store.load_lines(task, TRAINING)
    for number, line in enumerate(lines, 1):
        check(Step, line, f"{store.path / TASKS / task.directory / TRAINING}:{number}")
    return lines
