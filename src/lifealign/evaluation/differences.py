"""Compare two points of a memory's life, row by row, by scores that were measured before; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.data.tasks import Row, shorten_numbers
from lifealign.evaluation import catalog, metrics
from lifealign.evaluation.numbers import FEWEST_ROWS, number
from lifealign.evaluation.results import BOOTSTRAP_SEED, ScoreTable
from lifealign.store.documents import read_data
from lifealign.store.heldout import heldout
from lifealign.store.manifest import TaskManifest, directory_number
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired, words


@dataclass(frozen=True)
class ScoreDifference:
    """One score of one task at two points, on the same rows.

    Attributes:
        a: mean at the first point, in the score's unit (percent for rates).
        b: mean at the second point.
        difference: mean of b - a.
        low: lower end of its 95% interval, paired by row.
        high: upper end.
        rows: number of rows that both means are over.
        gained: for a rate, the rows that became better, as {"row", "prompt"}; None for other scores.
        lost: for a rate, the rows that became worse.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    rows: int
    gained: Sequence[Mapping[str, Any]] | None = None
    lost: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class PointDifference:
    """Two points of a memory's life, compared.

    Attributes:
        a: directory of the first point.
        b: directory of the second point.
        split: held-out split.
        tasks: task -> score -> the comparison.
        missing: task -> why it cannot be compared.
        later: tasks that were learnt after the earlier point, so their change is mainly what was learnt.
    """

    a: str
    b: str
    split: str
    tasks: Mapping[str, Mapping[str, ScoreDifference]]
    missing: Mapping[str, str]
    later: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        tasks = {task: {name: vars(found) for name, found in scores.items()} for task, scores in self.tasks.items()}
        return {**vars(self), "tasks": tasks, "missing": dict(self.missing), "later": list(self.later)}

    def lines(self) -> list[str]:
        """A table for people; rows are numbered from 1, in the order in which the memory keeps them."""
        lines = [f"{self.a} -> {self.b}, {self.split} rows"]
        width = max((len(name) for name in [*self.tasks, *self.missing]), default=0)
        for task, scores in self.tasks.items():
            for i, (name, found) in enumerate(scores.items()):
                text = _text(name, found)
                later = "; learnt in between" if task in self.later and not i else ""
                lines.append(f"  {'' if i else task:<{width}}  {text}{_changed(found)}{later}")
        return lines + [f"  {task:<{width}}  {why}" for task, why in self.missing.items()]


def signed(score: str, value: float, rows: int | None) -> str:
    """A change with its sign, such as ``+8``; ``0`` if it rounds to nothing."""
    text = number(value, score, rows)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def _text(score: str, found: ScoreDifference) -> str:
    a, b = (number(value, score, found.rows) for value in (found.a, found.b))
    moved = f"{score} {a} -> {b}: {signed(score, found.difference, found.rows)}"
    if found.rows < FEWEST_ROWS:
        return moved
    return f"{moved} [{signed(score, found.low, found.rows)}, {signed(score, found.high, found.rows)}]"


def _changed(found: ScoreDifference) -> str:
    if found.gained is None or found.lost is None:
        return ""
    parts = []
    for what, rows in (("gained", found.gained), ("lost", found.lost)):
        numbers = [row["row"] for row in rows]
        parts.append(f"{what} {len(rows)}" + (f" ({shorten_numbers(numbers)})" if numbers else ""))
    return f" over {found.rows} row{'' if found.rows == 1 else 's'}; {', '.join(parts)}"


def compare_points(
    store: MemoryReader, table: ScoreTable, a: TaskManifest, b: TaskManifest, split: str, resamples: int
) -> PointDifference:
    """Every score of every task that was measured at both points.

    Args:
        store: the memory.
        table: its scores on the split.
        a: a point of the lineage.
        b: another one, earlier or later.
        split: `test` or `validation`.
        resamples: bootstrap samples.
    """
    tasks: dict[str, dict[str, ScoreDifference]] = {}
    missing: dict[str, str] = {}
    scored = scored_rows(store, split)
    first = min(a, b, key=lambda m: m.index)
    later = [t for t, stage in zip(table.tasks, table.stages, strict=True) if directory_number(stage) > first.index]
    gone = retired(store, max(a, b, key=lambda m: m.index))
    for task in table.learnt:
        at_b = table.measured(b.directory, task)
        if both := [name for name in table.measured(a.directory, task) if name in at_b]:
            tasks[task] = {name: _compare(table, task, name, a, b, scored.get(task, ()), resamples) for name in both}
        elif task in gone:
            missing[task] = words(store, task, gone[task])
        elif task in later:
            missing[task] = f"learnt after {first.directory}, and not scored before"
        else:
            at = a if at_b else b
            missing[task] = (
                f"not scored at both points; run lifealign evaluate {store.path} --as-of {at.directory} --split {split}"
            )
    return PointDifference(a.directory, b.directory, split, tasks, missing, later)


def _compare(
    table: ScoreTable,
    task: str,
    score: str,
    a: TaskManifest,
    b: TaskManifest,
    rows: Sequence[tuple[int, Row]],
    resamples: int,
) -> ScoreDifference:
    numbers, before, after = paired(table, a.directory, b.directory, task, score)
    interval = metrics.paired_difference(after, before, resamples=resamples, seed=BOOTSTRAP_SEED)
    gained = lost = None
    if catalog.score(score).rate:
        sign = catalog.score(score).sign
        change = [sign * (y - x) for x, y in zip(before, after, strict=True)]
        gained = [_row(rows, i) for i, value in zip(numbers, change, strict=True) if value > 0]
        lost = [_row(rows, i) for i, value in zip(numbers, change, strict=True) if value < 0]
    count = len(before)
    return ScoreDifference(
        math.fsum(before) / count, math.fsum(after) / count, *interval, rows=count, gained=gained, lost=lost
    )


def paired(
    table: ScoreTable, a: str, b: str, task: str, score: str
) -> tuple[Sequence[int], Sequence[float], Sequence[float]]:
    """Positions of the rows that have a value at both stages, and those values; scoring takes rows in order."""
    both = zip(table.by_row(a, task, score), table.by_row(b, task, score), strict=False)
    found = [(i, x, y) for i, (x, y) in enumerate(both) if x is not None and y is not None]
    return [i for i, _, _ in found], [x for _, x, _ in found], [y for _, _, y in found]


def scored_rows(store: MemoryReader, split: str) -> dict[str, list[tuple[int, Row]]]:
    """Task -> its held-out rows that fit into the context, in the order of their scores, with their numbers from 1."""
    left_out: set[str] = set()
    for m in store.lineage()[1:]:
        report = read_data(store, m).get("encoding_held_out", {}).get(split, {})
        left_out |= {source for cause, sources in report.items() if cause != "cut" for source in sources}
    kept = heldout(store, with_retired=True)
    rows = {task.name: task.test if split == "test" else task.validation for task in kept}
    return {
        name: [(i, row) for i, row in enumerate(found, 1) if not row.source or row.source not in left_out]
        for name, found in rows.items()
    }


def _row(rows: Sequence[tuple[int, Row]], position: int) -> dict[str, Any]:
    if position >= len(rows):
        return {"row": position + 1, "prompt": None}
    number, row = rows[position]
    return {"row": number, "prompt": row.prompt[-1].content}
