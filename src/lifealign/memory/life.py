"""A memory without its model: what was learnt, tags, rollback, and scores that were measured before; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import ConfigError
from lifealign.core.progress import NullProgress, Progress, say_once
from lifealign.store.heldout import without_rows
from lifealign.store.layout import GATE_RECORD, ONE_ADAPTER, WARNINGS
from lifealign.store.manifest import TaskManifest
from lifealign.store.retired import check_retirable, retired, words
from lifealign.store.writer import MemoryStore

if TYPE_CHECKING:
    from lifealign.core.config import RunConfig
    from lifealign.evaluation.differences import PointDifference
    from lifealign.evaluation.gates import Gate, GateResult, NoValue
    from lifealign.evaluation.results import ScoreTable
    from lifealign.memory.outcomes import Withdrawal

NOTE_LENGTH = 1000
"""Longest note of a task, in characters."""


class MemoryLife:
    """The part of a `Memory` that needs no model."""

    def __init__(self, store: MemoryStore, said: set[str]) -> None:
        self._store = store
        self._said = said

    @property
    def path(self) -> Path:
        """The memory's directory."""
        return self._store.path

    @property
    def config(self) -> RunConfig:
        """The configuration that the memory was made with."""
        from lifealign.memory.stored import run_config

        return run_config(self._store)

    def log(self) -> list[dict[str, Any]]:
        """One small record for each task on disk; ``current`` is False for rolled-back tasks."""
        return self._store.log()

    def check_adapter(self, source: str) -> None:
        """Refuse another adapter than the one that the memory began with; see `settings.check_adapter`."""
        from lifealign.memory.settings import check_adapter

        check_adapter(self._store, source)

    def show(self, name: str) -> dict[str, Any]:
        """One task: manifest, data report, diagnostics, the last training step, and its scores."""
        from lifealign.evaluation.results import task_results

        return task_results(self._store, self._store.find(name), self._table(None))

    def scores(self, metric: str = "accuracy", split: str | None = None) -> list[list[float]]:
        """`R[k][j]`, N x N: score on task j after task k; NaN if it was not measured."""
        return self._table(split).matrix(metric)

    def summary(self, split: str | None = None) -> dict[str, dict[str, Any]]:
        """Metric -> {last, ap, bwt, forgetting, learning_accuracy, forward_transfer}, each value with its interval.

        The guard's scores, if it is configured, are metrics with {guard, tax} instead.
        """
        from lifealign.evaluation.guard_results import with_guard

        return with_guard(self.results(split))

    def results(self, split: str | None = None) -> dict[str, Any]:
        """All results that the report shows of this memory, as plain values."""
        from lifealign.evaluation.results import run_results

        found = run_results(self._store, self._table(split))
        self._say(found.get(WARNINGS, ()), None)
        return found

    def beside(self, others: Sequence[MemoryLife]) -> list[dict[str, Any]]:
        """Differences of the summaries of this memory and others that share its held-out rows; see `beside.differences`."""
        from lifealign.evaluation.beside import differences

        memories = [self, *others]
        return differences([m._store for m in memories], [m.config.evaluate.split for m in memories])

    def verify(self, *, deep: bool = False) -> list[str]:
        """List the problems, each with its file; empty if every byte is as it was written.

        `deep` also loads every tensor and parses every document.
        """
        return self._store.verify(deep=deep)

    def rollback(self, name: str) -> str:
        """Go back to a task (or forward again, by directory or tag); nothing is deleted. Returns HEAD's directory."""
        with self._store.writer():
            return self._store.rollback(name).directory

    def withdraw(self, task: str, *, note: str | None = None) -> Withdrawal:
        """Take what a task changed out of the weights, and its rows out of replay and scores, in a commit of its own.

        Nothing is trained and nothing deleted; `rollback` undoes it. Later tasks were trained on top of the task, so its
        behaviour may remain in part: run `evaluate` and compare.

        Args:
            task: its name.
            note: a sentence to keep with the commit.

        Raises:
            ConfigError: a strategy whose memory is no sum of updates, or a note that cannot be kept.
            DataError: no such task, one that is retired already, or the point before the first task.
        """
        from lifealign.memory.code import find_code

        kept = checked_note(note)
        check_retirable(self._store, task, "withdraw")
        from lifealign.memory.retiring import withdraw

        self._say(find_code(self._store.identity, self.path), None)
        return withdraw(self._store, task, kept)

    def tags(self) -> dict[str, dict[str, Any]]:
        """Tag -> the directory that it names, since when, and whether that task is `current` or was rolled back."""
        current = {m.directory for m in self._store.lineage()}
        return {
            name: {"directory": tag.directory, "created": tag.created, "current": tag.directory in current}
            for name, tag in self._store.tags().items()
        }

    def tag(self, task: str, name: str) -> tuple[str, str | None]:
        """Give a point a name, such as ``production``, or move the name to it. It can be used wherever a task's can.

        Args:
            task: a task, another tag, `base` or `now`.
            name: letters, digits, ``-``, ``_`` and ``.``; not the name of a task.

        Returns:
            The directory that the tag names now, and the one before; None if the tag is new.

        Raises:
            ConfigError: a name that cannot be a tag.
            StoreError: no such task, or it was rolled back.
        """
        with self._store.writer():
            made, old = self._store.tag(task, name)
        return made.directory, None if old is None else old.directory

    def untag(self, name: str) -> str:
        """Remove a tag; the task stays. Returns the directory that it named.

        Raises:
            StoreError: no such tag.
        """
        with self._store.writer():
            return self._store.untag(name).directory

    def tasks(self, as_of: str | None = None, *, with_retired: bool = False) -> list[str]:
        """Names of the tasks learnt up to a point, in order; None: all. Without those that are retired there."""
        point = self._point(as_of)
        gone = () if with_retired else retired(self._store, point)
        every = (name for m in self._store.lineage() if m.index <= point.index for name in m.members)
        return [name for name in every if name not in gone]

    def retired(self, as_of: str | None = None) -> dict[str, str]:
        """Task -> directory of the commit that superseded or withdrew it, up to a point; None: up to now."""
        return retired(self._store, self._point(as_of))

    def card(self, as_of: str | None = None) -> str:
        """One page about the memory at a point, in Markdown; `card.to_html` makes a page of it.

        Args:
            as_of: a task, a tag, `base` or `now`; None: now.

        Raises:
            StoreError: no such point.
        """
        from lifealign.memory.card import memory_card

        return memory_card(self._store, self._point(as_of))

    def diff(self, a: str, b: str, split: str | None = None, *, one_adapter: bool = False) -> PointDifference:
        """Compare the scores of two points that were measured before, task by task and row by row.

        Args:
            a: a task, a tag, `base` or `now`.
            b: another point, earlier or later.
            split: ``test`` or ``validation``; None: as configured.
            one_adapter: scores of the one adapter that an export holds; see `Memory.evaluate`.

        Raises:
            StoreError: no such point.
        """
        from lifealign.evaluation.differences import compare_points

        points, used = (self._point(a), self._point(b)), split or self.config.evaluate.split
        return compare_points(
            self._store, self._table(used, one_adapter), *points, used, self.config.evaluate.bootstrap
        )

    def check(
        self,
        gates: Sequence[Gate],
        *,
        split: str | None = None,
        against: str | None = None,
        no_value: NoValue = "fail",
        keep: bool = False,
        one_adapter: bool = False,
    ) -> list[GateResult]:
        """Whether conditions hold for the memory as it is now, by scores that were measured before.

        Args:
            gates: see `Gate.parse`.
            split: ``test`` or ``validation``; None: as configured.
            against: a point that `drop` and `change` compare with; None: each task with itself when it was learnt.
            no_value: whether a gate whose value is missing holds.
            keep: store the outcome in the memory, where reports find it.
            one_adapter: by the scores of the one adapter that an export holds; see `Memory.evaluate`.

        Raises:
            StoreError: no such point.
        """
        from lifealign.evaluation import catalog
        from lifealign.evaluation.drift import DRIFT
        from lifealign.evaluation.drift_results import drift_values
        from lifealign.evaluation.gate_values import gate_values
        from lifealign.evaluation.gates import check_gates
        from lifealign.evaluation.guard_results import with_guard
        from lifealign.evaluation.results import run_results

        table, since = self._table(split, one_adapter), None if against is None else self._point(against).directory
        resamples = self.config.evaluate.bootstrap
        results = run_results(self._store, table)
        values = with_guard(results)
        for name, cell in drift_values(results.get(DRIFT, {})).items():
            values[name] = values.get(name, {}) | {DRIFT: cell}
        for score in {g.score for g in gates if g.summary != DRIFT} & values.keys() - catalog.guard_scores().keys():
            values[score] = values[score] | gate_values(table, score, resamples, since)
        named = f"{against} ({since})" if against != since else against or ""
        scored = len(set(table.current) - set(without_rows(self._store)))
        gone = {task: words(self._store, task, at) for task, at in self.retired().items()}
        found = check_gates(gates, values, no_value=no_value, tasks=scored, since=named, retired=gone)
        if keep and found:
            options = {"split": split or self.config.evaluate.split, "against": since}
            self._keep_gates(found, options | ({ONE_ADAPTER: True} if one_adapter else {}))
        return found

    def _keep_gates(self, results: Sequence[GateResult], options: dict[str, Any]) -> None:
        """Store the outcome of gates as an evaluation record, unless the newest one of this point is the same."""
        from lifealign.evaluation.records import read_records

        with self._store.writer():
            now: dict[str, Any] = {"kind": GATE_RECORD, "after": self._store.head.directory, "options": options}
            now["gates"] = [result.to_json() for result in results]
            old = [r for r in read_records(self._store) if r["kind"] == GATE_RECORD and r["after"] == now["after"]]
            if not old or {**old[-1], "created": None} != {**now, "created": None}:
                self._store.append_evaluation({**now, "created": datetime.now(UTC).isoformat(timespec="seconds")})

    def check_new(self, name: str, supersedes: str | None = None, settings: Sequence[str] = ()) -> None:
        """Refuse a task that this memory cannot learn, whatever its rows, as far as that is told without its model.

        Args:
            name: of the task.
            supersedes: earlier task that it replaces.
            settings: ``KEY=VALUE`` overrides for this task.

        Raises:
            ConfigError: a setting that is wrong, or that would make another memory.
            DataError: the memory has another task, or a tag, of that name, or no task to supersede.
        """
        from lifealign.memory.early import check_new_task
        from lifealign.memory.settings import check_settings

        check_new_task(self._store, name, supersedes)
        check_settings(self.config, settings, self.path)

    def score_notes(self, progress: Progress | None = None) -> list[str]:
        """A sentence for each stored score from outside that is not installed here or has changed; said once to stderr."""
        from lifealign.evaluation.drift_results import recall_columns
        from lifealign.evaluation.outside import notes

        found = notes(self._store)
        recall_columns(self._store)
        self._say(found, progress)
        return found

    def _say(self, lines: Sequence[str], progress: Progress | None) -> None:
        say_once(self._said, lines, progress or NullProgress())

    def _table(self, split: str | None, one_adapter: bool = False) -> ScoreTable:
        from lifealign.evaluation.results import read_scores

        self.score_notes()
        return read_scores(
            self._store, split or self.config.evaluate.split, one_adapter and self._routes(self._store.head)
        )

    def _routes(self, point: TaskManifest) -> bool:
        """Whether the prompts are routed at a point, so that the policy is more than one adapter."""
        from lifealign.memory.routing import routes_prompts

        return routes_prompts(self._store, point)

    def _point(self, as_of: str | None) -> TaskManifest:
        return self._store.head if as_of is None else self._store.find(as_of)


def checked_note(text: str | None) -> str | None:
    """A note as it is kept, without spaces around it; None if none is given.

    Raises:
        ConfigError: an empty or too long note, or one with control characters.
    """
    if text is None:
        return None
    note = text.strip()
    if not 1 <= len(note) <= NOTE_LENGTH:
        raise ConfigError(f"note of {len(note)} characters: allowed: 1 to {NOTE_LENGTH}; shorten it or leave it out")
    if wrong := [c for c in note if not c.isprintable() and c != "\n"]:
        raise ConfigError(
            f"note {note[:60]!r}: {wrong[0]!r} is a control character; allowed: printable text and line breaks"
        )
    return note
