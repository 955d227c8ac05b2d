"""The report's first screen as plain values: gate, what is kept, what was learnt last, the weakest task, the changes.

It shows the first run with scores, by the first of its scores in the order of the catalog; other runs are named beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import urlencode

from lifealign.evaluation import catalog
from lifealign.report.render import View, interval

DEFAULT_TITLE = "lifealign"
MOST_CHANGES = 6
"""Tasks named under "What changed most"."""


def verdict(results: Mapping[str, Any], labels: Sequence[str]) -> View | None:
    """Everything that the first screen shows; None if no run has a score."""
    runs = results["runs"]
    place = next((i for i, run in enumerate(runs) if run.get("scores")), None)
    if place is None:
        return None
    run = runs[place]
    score = catalog.in_order(run["scores"])[0]
    tasks = tasks_now(run, score)
    for task in tasks:
        task["link"], task["prompts"] = _link(results.get("answers"), task["name"], run)
    changed = sorted(
        (t for t in tasks if t["change"]), key=lambda t: (t["change"] * catalog.score(score).sign, t["number"])
    )
    measured = [t for t in tasks if t["now"] is not None]
    return {
        "score": score,
        "label": labels[place],
        "gates": run.get("gates"),
        "kept": {**summary_cell(run, score, "last"), "rows": rows_now(run, score)},
        "beside": [
            {"label": label, **summary_cell(other, score, "last"), "rows": rows_now(other, score)}
            for i, (other, label) in enumerate(zip(runs, labels, strict=True))
            if i != place and score in other.get("scores", {})
        ],
        "learnt": measured[-1] if measured else None,
        "weakest": min(measured, key=lambda t: catalog.score(score).sign * t["now"]) if len(measured) > 1 else None,
        "changed": changed[:MOST_CHANGES],
        "steady": [t["name"] for t in tasks if t["change"] == 0],
        "several": len(tasks) > 1,
    }


def title(results: Mapping[str, Any]) -> str:
    """The page's heading: the title that was given, else the names of the memories and how many tasks the first learnt."""
    runs, given = results["runs"], results.get("title") or DEFAULT_TITLE
    if given != DEFAULT_TITLE or not runs:
        return str(given)
    names = [PurePath(str(run.get("memory") or "")).name or str(run.get("method")) for run in runs]
    count = len(current(runs[0]))
    tasks = f"{count} task{'' if count == 1 else 's'} learnt" if count else "no task learnt yet"
    beside = f", beside {', '.join(names[1:])}" if 1 < len(names) <= 3 else f" and {len(names) - 1} others"
    return f"{names[0]}: {tasks}{beside if len(names) > 1 else ''}"


def tasks_now(run: Mapping[str, Any], score: str) -> list[View]:
    """Each task that was not retired: its score before, right after it was learnt, and now, with the rows of now.

    `change` is now minus right after it was learnt; None for the last task, and where one of the two was not measured.
    """
    scores, count = run["scores"][score], len(run["tasks"])
    R, rows, before = scores["R"], scores.get("rows"), scores.get("before") or [None] * count
    found = []
    for j, name in current(run):
        learnt, now = R[j][j], R[count - 1][j]
        low, high = ((scores[end][count - 1][j] if scores.get(end) else None) for end in ("low", "high"))
        start = before[j] if before[j] is not None or j == 0 else R[j - 1][j]
        there = j < count - 1 and learnt is not None and now is not None
        found.append(
            {
                "name": name,
                "number": j + 1,
                "before": start,
                "learnt": learnt,
                "now": now,
                "low": low,
                "high": high,
                "rows": rows[count - 1][j] if rows else None,
                "change": now - learnt if there else None,
            }
        )
    return found


def current(run: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Number and name of each task that was not retired."""
    ends = run.get("ends") or {}
    return [(j, task) for j, task in enumerate(run.get("tasks") or ()) if task not in ends]


def rows_now(run: Mapping[str, Any], score: str) -> int | None:
    """Held-out rows behind the last stage; None if the results do not tell."""
    rows = run.get("scores", {}).get(score, {}).get("rows")
    return sum(count or 0 for count in rows[-1]) if rows else None


def summary_cell(run: Mapping[str, Any], score: str, key: str) -> View:
    """A summary's value and interval."""
    return interval(run.get("summary", {}).get(score, {}).get(key))


def _link(answers: Mapping[str, Any] | None, task: str, run: Mapping[str, Any]) -> tuple[str, int]:
    """Where to read a task's answers, the worst state first, and how many prompts are there; ("", 0) without answers."""
    if not answers:
        return "", 0
    names = [state["name"] for state in answers["states"]]
    memory = PurePath(str(run.get("memory") or "")).name
    rows = [row for row in answers["rows"] if row["task"] == task]
    own = [row for row in rows if row["source"] in (run.get("method"), memory)] or rows
    for state in ("forgotten", "never"):
        count = sum(row["counts"][names.index(state)] for row in own)
        if count:
            return f"{answers['page']}#{urlencode({'show': state, 'task': task})}", count
    return (f"{answers['page']}#{urlencode({'task': task})}", 0) if rows else ("", 0)
