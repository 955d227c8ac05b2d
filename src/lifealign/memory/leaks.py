"""Rows that must not be trained on, because a task of the memory or of the stream holds them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lifealign.data.conversations import HeldOut
from lifealign.data.tasks import DataReport, Row, Task
from lifealign.store.heldout import heldout
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired

LEFT_OUT = "left_out"
"""Key of a commit's document on its rows: training rows that are held out elsewhere; missing if there are none."""


@dataclass
class Leaks:
    """The held-out prompts that a group of tasks may not train on, and the rows that were left out for it.

    Attributes:
        held_out: the prompts, each with a task that holds it out.
        rows: task that holds a prompt out -> rows of the group that were left out.
        replayed: the same for replayed rows, which were trained on before the prompt was held out.
    """

    held_out: HeldOut
    rows: Counter[str] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, store: MemoryReader, group: Sequence[Task], stream: Sequence[Task], gone: Sequence[str]) -> Leaks:
        """Everything that the memory, the stream and the group itself hold out, without tasks that are retired.

        Args:
            store: the memory.
            group: the tasks that are learnt now.
            stream: all tasks of the run.
            gone: tasks that the group retires.
        """
        every = {task.name: task for task in (*stream, *heldout(store), *group)}
        away = {*retired(store), *gone, *(task.supersedes for task in group)}
        kept = [task for name, task in every.items() if name not in away]
        return cls(HeldOut((task.name, row) for task in kept for row in (*task.validation, *task.test)))

    def clean(self, group: Sequence[Task]) -> list[Task]:
        """The tasks without the training rows that are held out; their reports count these as dropped."""
        cleaned = []
        for task in group:
            found = [self.held_out.find(row) for row in task.train]
            kept = tuple(row for row, held in zip(task.train, found, strict=True) if held is None)
            dropped: dict[str, list[Row]] = {}
            for row, held in zip(task.train, found, strict=True):
                if held is not None:
                    self.rows[held[1]] += 1
                    dropped.setdefault(f"{held[0]} held out by task {held[1]}", []).append(row)
            cleaned.append(replace(task, train=kept, reports=_reported(task.reports, dropped)) if dropped else task)
        return cleaned

    def replay(self, row: Row) -> bool:
        """Whether a replayed row is held out by now; counts it."""
        held = self.held_out.find(row)
        if held is not None:
            self.replayed[held[1]] += 1
        return held is not None

    def document(self) -> dict[str, Any]:
        """For the commit; empty if nothing was left out."""
        if not self.rows and not self.replayed:
            return {}
        return {LEFT_OUT: {"rows": dict(self.rows), "replayed": dict(self.replayed)}}


def left_out_lines(document: Mapping[str, Any]) -> list[str]:
    """What a commit's document on its rows tells of rows that were left out, for people."""
    lines = []
    for which, what in (("rows", "training"), ("replayed", "replayed")):
        counts = document.get(LEFT_OUT, {}).get(which, {})
        if total := sum(counts.values()):
            held = ", ".join(f"{task} ({count})" for task, count in counts.items())
            noun = f"{what} row" if total == 1 else f"{what} rows"
            lines.append(f"{total} {noun} left out: prompt or conversation held out by {held}")
    return lines


def _reported(reports: Sequence[DataReport], dropped: Mapping[str, Sequence[Row]]) -> tuple[DataReport, ...]:
    """Reports of a task's sources, that of its training rows with the rows that were left out among those dropped."""
    if not reports:
        return ()
    own, *others = reports
    numbers = {reason: tuple(n for row in rows if (n := _number(row)) is not None) for reason, rows in dropped.items()}
    count = sum(map(len, dropped.values()))
    return (
        replace(own, kept=own.kept - count, dropped={**own.dropped, **{r: n for r, n in numbers.items() if n}}),
        *others,
    )


def _number(row: Row) -> int | None:
    """The row's number in its source, if it has one."""
    number = row.source.rpartition(":")[2]
    return int(number) if number.isdecimal() else None
