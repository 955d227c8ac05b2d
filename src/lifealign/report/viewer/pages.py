"""What the viewer's pages show, as plain values from what memories and studies keep. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lifealign.core.errors import UserError
from lifealign.data.answers import BASE
from lifealign.evaluation import catalog
from lifealign.memory.api import Memory
from lifealign.report import charts, verdict
from lifealign.report.memories import build_results
from lifealign.report.render import View
from lifealign.report.viewer.found import Found, find
from lifealign.report.viewer.live import QUIET, learning
from lifealign.store.layout import EVALUATIONS, HEAD, TAGS
from lifealign.store.reader import NOW

TREND = (96.0, 22.0)
"""Width and height of the line of a memory's mean score over its life."""
_MOST_KEPT = 300  # memories whose values are kept


@dataclass(frozen=True)
class StudyPages:
    """What shows a study; from the package of studies, which is above this one.

    Attributes:
        values: results.json to `study`, `states` (status to number of runs) and `methods`.
        page: results.json to its page.
    """

    values: Callable[[Path], Mapping[str, Any]]
    page: Callable[[Path], str]


@dataclass
class Shelf:
    """Everything below one folder; read anew at each call, and computed anew only where it has changed.

    Attributes:
        root: the folder.
        studies: see `StudyPages`.
    """

    root: Path
    studies: StudyPages
    _found: Found = field(default_factory=Found)
    _results: dict[Path, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    def path(self, kind: str, name: str) -> Path | None:
        """The path of what was found below the folder by a name, and is still there; None: nothing was.

        Nothing else can be asked for. The folder is gone through again only for a name that the last list does not have.

        Args:
            kind: `memories`, `studies` or `answers`.
            name: see `Found`.
        """
        path: Path | None = getattr(self._found, kind).get(name)
        if path is None or not path.exists() or path.is_symlink():
            self._found = find(self.root)
            path = getattr(self._found, kind).get(name)
        return path

    def results(self, path: Path) -> dict[str, Any]:
        """`build_results` of one memory.

        Raises:
            UserError: it cannot be read.
        """
        mark = _mark(path)
        held = self._results.get(path)
        if held is None or held[0] != mark:
            if len(self._results) >= _MOST_KEPT:
                self._results.clear()
            held = self._results[path] = (mark, build_results([Memory.open(path).results()]))
        return held[1]

    def index(self) -> View:
        """The first page: every memory with its newest task, gates and trend, every study, every file of answers."""
        found = self._found = find(self.root)
        memories = [self._row(name, path) for name, path in found.memories.items()]
        return {
            "root": str(self.root),
            "memories": sorted(memories, key=lambda row: str(row.get("created", "")), reverse=True),
            "studies": [self._study(name, path) for name, path in found.studies.items()],
            "answers": [{"name": name, "link": link("answers", name)} for name in found.answers],
            "notes": found.notes,
        }

    def memory(self, name: str, path: Path) -> View:
        """The page of one memory: its log, newest first, its verdict, what it is learning.

        Raises:
            UserError: it cannot be read.
        """
        entries = Memory.open(path).log()
        return {
            **self._values(name, path, entries),
            "log": [_entry(i, entry) for i, entry in enumerate(entries)][::-1],
            "links": {kind: link(kind, name) for kind in ("diff", "card", "live")}
            | {"report": link("report", name, "/")},
        }

    def diff(self, name: str, path: Path, a: str, b: str) -> View:
        """Two points of a memory, compared; without both, the newest with the one before it.

        Raises:
            UserError: no such point.
        """
        opened = Memory.open(path)
        current = [entry["name"] if i else BASE for i, entry in enumerate(opened.log()) if entry["current"]]
        first, second = a or (current[-2] if len(current) > 1 else BASE), b or NOW
        found = opened.diff(first, second)
        return {
            "name": name,
            "link": link("memory", name),
            "a": first,
            "b": second,
            "points": [*current, *opened.tags(), NOW],
            "split": found.split,
            "tasks": [
                {
                    "task": task,
                    "later": task in found.later,
                    "scores": [{"name": n, **vars(s)} for n, s in scores.items()],
                }
                for task, scores in found.tasks.items()
            ],
            "missing": found.missing,
        }

    def _row(self, name: str, path: Path) -> View:
        """A memory's line on the first page; `problem` alone if it cannot be read."""
        try:
            return self._values(name, path, Memory.open(path).log())
        except UserError as error:
            return {"name": name, "link": link("memory", name), "problem": str(error)}

    def _values(self, name: str, path: Path, entries: Sequence[Mapping[str, Any]]) -> View:
        """What is said of a memory, by its log and its scores."""
        results = self.results(path)
        run = results["runs"][0]
        head = next(entry for entry in entries if entry["head"])
        seen = verdict.verdict(results, [name])
        now = learning(path)
        return {
            "name": name,
            "link": link("memory", name),
            "verdict": seen,
            "method": run["method"],
            "base_model": Path(str(run["base_model"])).name,
            "tasks": len(verdict.current(run)),
            "newest": head["name"] if head["index"] else None,
            "created": head["created"],
            "gates": run.get("gates"),
            "score": seen["score"] if seen else None,
            "kept": seen["kept"] if seen else None,
            "weakest": seen["weakest"] if seen else None,
            "trend": _trend(run, seen["score"]) if seen else None,
            "learning": now if now is not None and now["quiet"] < QUIET else None,
            "paused": now if now is not None and now["quiet"] >= QUIET else None,
        }

    def _study(self, name: str, path: Path) -> View:
        at = {"name": name, "link": link("study", name)}
        try:
            return {**at, **self.studies.values(path)}
        except UserError as error:
            return {**at, "problem": str(error)}


def link(kind: str, name: str, end: str = "") -> str:
    """The address of a page."""
    return f"/{kind}/{quote(name)}{end}"


def _mark(path: Path) -> Any:
    """What changes when a memory does: its head, its tags, its evaluations."""

    def stat(name: str) -> Any:
        try:
            found = (path / name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    return stat(HEAD), stat(TAGS), stat(EVALUATIONS)


def _entry(place: int, entry: Mapping[str, Any]) -> View:
    names = [name for name, holds in ((BASE, not place), (NOW, entry["head"])) if holds]
    change = [f"retires {', '.join(entry['retires'])}"] if entry["retires"] else []
    change += [f"recovers {entry['recovers']}"] if "recovers" in entry else []
    return {**entry, "names": names, "change": "; ".join(change)}


def _trend(run: Mapping[str, Any], score: str) -> View | None:
    """The mean score of the tasks learnt so far after each task, as a line; None with fewer than two.

    A stage where one of its tasks was not scored has no mean: it would be of other tasks than the next one's.
    """
    ends, means = run.get("ends") or {}, []
    for k, row in enumerate(run["scores"][score]["R"]):
        so_far = [row[j] for j, task in enumerate(run["tasks"][: k + 1]) if ends.get(task, k + 1) > k]
        if so_far and None not in so_far:
            means.append(sum(so_far) / len(so_far))
    if len(means) < 2:
        return None
    found = catalog.score(score)
    low, high = (0.0, found.scale) if found.rate else (min(means), max(means))
    return {"path": charts.path(_line(means, low, high)), "first": means[0], "last": means[-1], "count": len(means)}


def _line(values: Sequence[float], low: float, high: float) -> list[tuple[float, float]]:
    width, height = TREND
    step, span = (width - 4) / (len(values) - 1), high - low or 1.0
    return [
        (round(2 + i * step, 1), round(height - 2 - (v - low) / span * (height - 4), 1)) for i, v in enumerate(values)
    ]
