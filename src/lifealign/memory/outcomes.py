"""Results of learning, evaluating, comparing and composing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifealign.evaluation.guard_results import guard_lines
from lifealign.evaluation.learnt import Learnt, Style, plain_style, task_lines
from lifealign.evaluation.numbers import number


@dataclass(frozen=True)
class TaskResult:
    """Result of learning one task.

    Attributes:
        name: of the task.
        directory: of the commit, under tasks/.
        seconds: training and consolidation.
        diagnostics: of the consolidation, if any, summed over the matrices.
        tasks: task -> metric -> {"value", "low", "high", "rows"} on held-out rows, after this task; percent for rates.
        guard: ``guard.<score>`` -> value; empty without a guard.
        notes: in sentences: rows left out because they are held out elsewhere, and what superseding a task did.
        learnt: all tasks before and after this one.
    """

    name: str
    directory: str
    seconds: float
    diagnostics: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Mapping[str, float]]]
    guard: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    learnt: Learnt | None = None

    @property
    def scores(self) -> dict[str, float]:
        """``<task>.<metric>`` -> mean on held-out rows, after this task; ``guard.<score>`` if there is a guard."""
        found = {f"{name}.{metric}": c["value"] for name, cells in self.tasks.items() for metric, c in cells.items()}
        return found | dict(self.guard)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `notes` only if there are some, and `since` the task before if there are scores."""
        hidden = ("guard", "learnt") if self.notes else ("guard", "learnt", "notes")
        own = {key: value for key, value in vars(self).items() if key not in hidden}
        since = {} if self.learnt is None else {"since": self.learnt.since.to_json()}
        return {**own, "diagnostics": dict(self.diagnostics), "scores": self.scores, **since}

    def lines(self, style: Style = plain_style, *, every: bool = False) -> list[str]:
        """What was learnt and kept, what it means, and what to do next.

        Args:
            style: marks gains and losses, e.g. with colour.
            every: list every score of every task before that.
        """
        lines = task_lines(self.tasks, True) if every else []
        lines += [f"  {name}: {value:.2f}" for name, value in self.guard.items()]
        return [*lines, *(self.learnt.lines(style) if self.learnt is not None else ())]


@dataclass(frozen=True)
class Withdrawal:
    """Result of withdrawing one task.

    Attributes:
        task: its name.
        directory: of the commit, under tasks/.
        document: what was taken out; see `layout.RETIRED`.
        told: the same in sentences.
    """

    task: str
    directory: str
    document: Mapping[str, Any]
    told: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"task": self.task, "directory": self.directory, **self.document, "notes": list(self.told)}

    def lines(self) -> list[str]:
        """Lines for people."""
        return [f"withdrawn {self.task}: {self.directory}", *self.told]


@dataclass(frozen=True)
class Recovery:
    """Result of recovering one task.

    Attributes:
        task: its name.
        directory: of the commit, under tasks/; None: a model was written.
        out: the merged model; None: a commit was made.
        document: how; see `layout.RECOVERED`.
        seconds: that it took.
    """

    task: str
    directory: str | None
    out: str | None
    document: Mapping[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.document, "directory": self.directory, "out": self.out, "seconds": self.seconds}

    def lines(self) -> list[str]:
        """Lines for people."""
        found, newest = self.document, self.document["newest"]
        rolled = ", with steps taken back" if found["rolled_back"] else ""
        lines = [
            f"recovered {self.task} from {found['from']}: {self.directory or self.out}",
            f"{100 * found['restored']:.2f}% of {found['elements']:,} elements put back (state of step {found['step']}{rolled}), "
            f"by {found['prompts']['used']} prompts ({found['prompts']['source']}), in {self.seconds / 60:.1f} minutes",
            f"representation loss of {self.task}: {found['loss']['before']:.4f} -> {found['loss']['after']:.4f} (least: -1)",
        ]
        if (own := found["accuracy"]) is not None:
            lines.append(
                f"{self.task}: {100 * own['before']:.1f}% -> {100 * own['after']:.1f}% of its validation pairs"
            )
        unit = "of its validation pairs" if newest["checked_by"] == "accuracy" else "of its representation (cosine)"
        lines.append(f"{newest['task']}: {100 * newest['before']:.1f}% -> {100 * newest['after']:.1f}% {unit}")
        return [*lines, "other tasks were not checked: run lifealign evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of the tasks at one point of the memory's life.

    Attributes:
        after: directory of the commit.
        split: held-out split.
        tasks: task -> metric -> {"value", "low", "high", "rows"}; percent for rates.
        summary: metric -> {last, ap, bwt, ...} of the whole memory, each with its interval; see `Memory.summary`.
        guard: of general ability, see `guard_results`; empty if none is measured.
        warnings: about the memory's values, such as changed code; see `ScoreTable.warnings`.
        one_adapter: the scores are those of the one adapter that an export holds, not of routed prompts.
    """

    after: str
    split: str
    tasks: Mapping[str, Mapping[str, Mapping[str, float]]]
    summary: Mapping[str, Mapping[str, Any]]
    guard: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    one_adapter: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; `warnings` and `one_adapter` only if there are some, or if it is true."""
        return {key: value for key, value in vars(self).items() if key not in ("warnings", "one_adapter") or value}

    def lines(self, *, every: bool = False) -> list[str]:
        """A line for each task; `every`: with every score, not only the main ones (`learnt.main_scores`)."""
        which = ", the one adapter that an export holds" if self.one_adapter else ""
        return [
            f"after {self.after}, {self.split} rows{which}",
            *task_lines(self.tasks, every),
            *guard_lines(self.guard),
        ]


FAR = 1.4
"""Distance of prompts of no task, as measured on SmolLM2; a task's own lie at 0.6 (docs/explanation/recompose.md)."""
OVERLAP = 0.1
"""Cosine from which a forecast is named; in many dimensions, chance gives far less."""


@dataclass(frozen=True)
class RelatedTask:
    """How new rows relate to one stored task.

    Attributes:
        task: name.
        distance: of the new prompts' centroid to the task's (`signatures.distances`); None without a signature.
        nearest: share of the new prompts to which this is the nearest task, 0 to 1; None without a signature.
        overlap: cosine of the forecast update with this task's change, -1 to 1 (`composing.overlap`); None without a
            forecast. Negative: learning the rows would undo a part of the task.
    """

    task: str
    distance: float | None
    nearest: float | None
    overlap: float | None


@dataclass(frozen=True)
class Related:
    """Stored tasks by likeness to new rows, the nearest first; those without a signature come last.

    Attributes:
        rows: number of new rows used.
        steps: gradient steps behind the forecast; 0: no forecast.
        tasks: the ranking.
        notes: which values are missing, and why.
    """

    rows: int
    steps: int
    tasks: tuple[RelatedTask, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "tasks": [vars(t) for t in self.tasks]}

    def lines(self) -> list[str]:
        """A table for people."""
        width = max((len(t.task) for t in self.tasks), default=4)
        lines = [
            f"{self.rows} rows, forecast of {self.steps} steps; distance in units of the spread within a task, overlap: cosine",
            f"  {'task':<{width}}  {'distance':>8}  {'nearest':>7}  {'overlap':>7}",
        ]
        for t in self.tasks:
            share = None if t.nearest is None else 100 * t.nearest
            cells = (_cell(t.distance, 8, ".2f"), _cell(share, 6, ".0f") + "%", _cell(t.overlap, 7, "+.3f"))
            lines.append(f"  {t.task:<{width}}  " + "  ".join(cells))
        return [*lines, *self.notes, *self._reading()]

    def _reading(self) -> Iterator[str]:
        """What the numbers mean, and how far to trust them."""
        first = self.tasks[0] if self.tasks else None
        if first is not None and first.nearest is not None and first.distance is not None:
            strange = first.distance >= FAR
            near = "but as far from it as prompts of no task" if strange else "and near enough to be alike"
            yield f"likest: {first.task}, the nearest task of {100 * first.nearest:.0f}% of the rows, {near}"
        against = [t.task for t in self.tasks if t.overlap is not None and t.overlap <= -OVERLAP]
        if any(t.overlap is not None for t in self.tasks):
            told = f"the rows pull against {', '.join(against)}" if against else "no interference to speak of"
            yield f"forecast: {told}; do not rely on it: it did not foretell forgetting where it was tested (docs/results/findings.md)"


@dataclass(frozen=True)
class Composition:
    """A memory's tasks with other weights.

    Attributes:
        after: directory of the commit that was recomposed.
        weights: task -> weight of its update, all tasks.
        space: see `composing.compose`.
        truncation_error: see `composing.compose`.
        change: see `composing.compose`.
        out: the PEFT adapter that was written; None: the tasks were scored.
        scores: task -> metric -> {"stored", "composed"}, means; percent for rates. None if an adapter was written.
    """

    after: str
    weights: Mapping[str, float]
    space: str
    truncation_error: float | None
    change: float
    out: Path | None = None
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Lines for people."""
        lines = [
            f"after {self.after}: " + ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items()),
            f"space {self.space}, change of the weights {100 * self.change:.1f}%"
            + ("" if self.truncation_error is None else f", truncation error {100 * self.truncation_error:.2f}%"),
        ]
        if self.out is not None:
            lines.append(f"written: {self.out}")
        for name, metrics in (self.scores or {}).items():
            cells = [f"{m} {number(v['stored'], m)} -> {number(v['composed'], m)}" for m, v in metrics.items()]
            lines.append(f"  {name}: " + ", ".join(cells))
        return lines


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"
