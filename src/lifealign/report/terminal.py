"""Score matrices and summaries as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lifealign.core.json_codec import plain
from lifealign.evaluation import catalog
from lifealign.evaluation.numbers import limits_text, number
from lifealign.report import views as report_views
from lifealign.report.heat import columns, stages
from lifealign.report.render import interval, run_labels
from lifealign.report.verdict import rows_now

TERMINAL_WIDTH = 120


def score_matrix_lines(run: Mapping[str, Any], score: str = "accuracy") -> list[str]:
    """One score matrix for the terminal: a row for each stage, a column for each task; blank if not measured."""
    clean = plain(run)
    head = f"{catalog.score(score).title}: {run_labels([clean])[0]}, seed {clean.get('seed')}"
    scores = clean.get("scores", {}).get(score)
    if scores is None:
        return [f"{head}: not measured"]
    shown = columns(clean)
    tasks = [clean["tasks"][j] for j in shown]
    lines_of = [(f"after {name}", row) for name, row in stages(clean, scores["R"])]
    if any(value is not None for value in scores.get("before") or []):
        lines_of.insert(0, ("before", scores["before"]))
    counts = scores.get("rows")
    held = [max((row[j] or 0 for row in counts), default=None) if counts else None for j in range(len(clean["tasks"]))]
    cells = [["" if row[j] is None else number(row[j], score, held[j]) for j in shown] for _, row in lines_of]
    first = max([len(name) for name, _ in lines_of], default=0)
    # If names do not fit side by side, columns are numbered in the order of the tasks.
    widths = [max([len(t), *(len(row[j]) for row in cells)]) for j, t in enumerate(tasks)]
    names = list(tasks)
    if first + sum(widths) + 2 * len(widths) > TERMINAL_WIDTH:
        names = [str(j + 1) for j in range(len(tasks))]
        widths = [max([len(names[j]), *(len(row[j]) for row in cells)]) for j in range(len(tasks))]
        head += "; tasks: " + ", ".join(f"{n} {t}" for n, t in zip(names, tasks, strict=True))
    rows = [("", names), *((name, row) for (name, _), row in zip(lines_of, cells, strict=True))]
    lines = [
        "  ".join([f"{name:<{first}}", *(f"{v:>{w}}" for v, w in zip(row, widths, strict=True))]) for name, row in rows
    ]
    return [head, *(line.rstrip() for line in lines)]


def summary_lines(results: Mapping[str, Any]) -> list[str]:
    """Last, AP, BWT ... of all runs for the terminal, one table per score; unmeasured summaries are left out."""
    clean = plain(results)
    runs = clean["runs"]
    labels = run_labels(runs)
    lines: list[str] = []
    for score in report_views.scores_of(runs):
        summaries = [run.get("summary", {}).get(score, {}) for run in runs]
        keys = [k for k in catalog.summaries() if any(interval(s.get(k))["value"] is not None for s in summaries)]
        table = [[catalog.score(score).title, *(catalog.summary(k).label for k in keys)]]
        table += [
            [label, *(_with_limits(interval(s.get(k)), score, rows_now(run, score)) for k in keys)]
            for label, run, s in zip(labels, runs, summaries, strict=True)
        ]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines += ["  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines.append("")
    return lines[:-1]


def _with_limits(cell: Mapping[str, Any], score: str, rows: int | None) -> str:
    if cell["value"] is None:
        return "not measured"
    limits = limits_text(cell["low"], cell["high"], score, rows)
    return (
        f"{number(cell['value'], score, rows)} [{limits.replace(' to ', ', ')}]"
        if limits
        else number(cell["value"], score, rows)
    )
