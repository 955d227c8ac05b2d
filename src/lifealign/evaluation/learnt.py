"""What a person reads after a task was learnt: what was learnt, what was kept, what it means, what to do next; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lifealign.core.config import EvaluateConfig
from lifealign.data.answers import BASE
from lifealign.evaluation import catalog
from lifealign.evaluation.differences import PointDifference, ScoreDifference, compare_points, signed
from lifealign.evaluation.numbers import FEWEST_ROWS, limits_text, number, share
from lifealign.evaluation.results import ScoreTable
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader

Cells = Mapping[str, Mapping[str, Mapping[str, float]]]
Style = Callable[[str, str], str]
"""(text, `gain`, `loss` or `doubt`) -> the text as it is shown, e.g. in colour."""
DETAILS = (
    "margin",
    "likelihood_accuracy",
    "nll",
    "length_words",
    "distinct_1",
    "distinct_2",
    "refusal_rate",
    *catalog.DRIFT_SCORES,
)
"""Scores that are shown on request only."""


def plain_style(text: str, kind: str) -> str:
    """The text alone."""
    return text


def main_scores(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Scores that answer what was learnt and kept: all that were measured, without `DETAILS`."""
    found = catalog.in_order(name for scores in cells.values() for name in scores)
    return [name for name in found if name not in DETAILS] or found[:1]


def cell_text(score: str, cell: Mapping[str, Any]) -> str:
    """A mean with its interval and its rows, such as ``92 [65, 99], 11/12 rows``; no interval of few rows."""
    rows = int(cell["rows"])
    limits = limits_text(cell["low"], cell["high"], score, rows)
    between = f" [{limits.replace(' to ', ', ')}]" if limits else ""
    counted = share(cell["value"], score, rows) or str(rows)
    return f"{number(cell['value'], score, rows)}{between}, {counted} row{'' if rows == 1 else 's'}"


def certain(found: ScoreDifference) -> bool:
    """Whether a change is more than the rows' own scatter: enough rows, and an interval that does not hold 0."""
    return found.rows >= FEWEST_ROWS and (found.low > 0 or found.high < 0)


@dataclass(frozen=True)
class Learnt:
    """What learning one task did to a memory.

    Attributes:
        memory: its directory, for the commands to type next.
        task: the new task.
        at: its directory.
        previous: name of the point before it.
        cells: task -> score -> {"value", "low", "high", "rows"}, after the task.
        since: the same tasks before and after it, row by row.
        first: task -> score -> mean right after its own task.
    """

    memory: str
    task: str
    at: str
    previous: str
    cells: Cells
    since: PointDifference
    first: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def lines(self, style: Style = plain_style) -> list[str]:
        """A table for each score, sentences that read it, and commands to type next."""
        scores = main_scores(self.cells)
        lines = [line for score in scores for line in self._table(score, style)]
        return [*lines, *self._meaning(scores[0]), *self._next(scores[0])] if scores else [*self._next("")]

    def _order(self, score: str) -> list[str]:
        """The new task, then the others, the worst change first."""
        sign = catalog.score(score).sign
        kept = [name for name, scores in self.cells.items() if name != self.task and score in scores]
        changes = {name: self.since.tasks.get(name, {}).get(score) for name in kept}
        kept.sort(key=lambda name: sign * found.difference if (found := changes[name]) is not None else 0.0)
        return ([self.task] if score in self.cells.get(self.task, {}) else []) + kept

    def _table(self, score: str, style: Style) -> Iterator[str]:
        names = self._order(score)
        rows: list[tuple[str, ...]] = [("task", "learnt", "before", "now", "change", "rows")]
        kinds = [""]
        for name in names:
            cell, change = self.cells[name][score], self.since.tasks.get(name, {}).get(score)
            count = int(cell["rows"])
            first = self.first.get(name, {}).get(score)
            now = cell_text(score, cell).rpartition(",")[0]
            before = "-" if change is None else number(change.a, score, count)
            moved = "-" if change is None else signed(score, change.difference, change.rows)
            learnt = "new" if name == self.task else "-" if first is None else number(first, score, count)
            rows.append((name, learnt, before, now, moved, share(cell["value"], score, count) or str(count)))
            kinds.append(_kind(score, change))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        unit = catalog.score(score).unit
        yield f"{catalog.score(score).label} on held-out rows{f', {unit}' if unit else ''}"
        for row, kind in zip(rows, kinds, strict=True):
            cells = [
                f"{text:<{w}}" if i in (0, 3) else f"{text:>{w}}"
                for i, (text, w) in enumerate(zip(row, widths, strict=True))
            ]
            if kind:
                cells[4] = style(cells[4], kind)
            yield "  " + "  ".join(cells).rstrip()

    def _meaning(self, score: str) -> Iterator[str]:
        if (new := self.since.tasks.get(self.task, {}).get(score)) is not None:
            yield self._of_new(score, new)
        falls = [
            (n, d) for n in self._order(score)[1:] if (d := self.since.tasks.get(n, {}).get(score)) and _fell(score, d)
        ]
        clear = [name for name, found in falls if certain(found)]
        if clear:
            yield f"{', '.join(clear)} fell by more than chance explains."
        elif falls:
            yield f"{', '.join(name for name, _ in falls)} fell, within what so few rows leave to chance."
        elif len(self.cells) > 1:
            yield "No earlier task fell."

    def _of_new(self, score: str, found: ScoreDifference) -> str:
        moved = f"{self.task}: {number(found.a, score, found.rows)} before, {number(found.b, score, found.rows)} now"
        if found.rows < FEWEST_ROWS:
            few = f"{found.rows} held-out row{'' if found.rows == 1 else 's'}"
            return f"{moved}; {few} cannot tell more: give more (--test FILE, or --test-rows {FEWEST_ROWS})."
        if certain(found) and not _fell(score, found):
            return f"{moved}: it is learnt."
        if catalog.score(score).rate and min(found.a, found.b) == catalog.score(score).scale:
            return f"{moved}: there was nothing left to learn."
        return f"{moved}: not clearly learnt; train longer (--set train.epochs=4), or check the rows."

    def _next(self, score: str) -> Iterator[str]:
        falls = [n for n in self._order(score)[1:] if (d := self.since.tasks.get(n, {}).get(score)) and _fell(score, d)]
        yield "Next:"
        if falls:
            yield f"  lifealign diff {self.memory} {self.previous} {self.task}"
            yield f"  lifealign rollback {self.memory} {self.previous}"
        else:
            yield f'  lifealign generate {self.memory} --prompt "..."'
        yield f"  lifealign report {self.memory} --out report"


def _fell(score: str, found: ScoreDifference) -> bool:
    return catalog.score(score).sign * found.difference < 0


def _kind(score: str, found: ScoreDifference | None) -> str:
    if found is None or not found.difference or catalog.score(score).better == "neither":
        return ""
    return ("loss" if _fell(score, found) else "gain") if certain(found) else "doubt"


def task_lines(cells: Cells, every: bool = False) -> list[str]:
    """A line for each task with its scores; `every`: those of `DETAILS` too."""
    width = max((len(name) for name in cells), default=4)
    shown = set(main_scores(cells))
    return [
        f"  {name:<{width}}  "
        + ("; ".join(f"{s} {cell_text(s, cell)}" for s, cell in scores.items() if every or s in shown) or "not scored")
        for name, scores in cells.items()
    ]


def learnt_task(
    store: MemoryReader, table: ScoreTable, head: TaskManifest, task: str, cells: Cells, options: EvaluateConfig
) -> Learnt:
    """What learning a task did to a memory.

    Args:
        store: the memory.
        table: its scores on the split of `options`.
        head: the commit of the task.
        task: its name.
        cells: of `ScoreTable.cells` at the commit.
        options: `evaluate`.
    """
    lineage = store.lineage()
    before = lineage[lineage.index(head) - 1]
    since = compare_points(store, table, before, head, options.split, options.bootstrap)
    stages = dict(zip(table.tasks, table.stages, strict=False))
    first = {
        name: {score: table.mean(stages[name], name, score) for score in table.measured(stages[name], name)}
        for name in cells
        if name in stages
    }
    previous = BASE if before.index == 0 else before.name if before.members else before.directory
    return Learnt(str(store.path), task, head.directory, previous, cells, since, first)
