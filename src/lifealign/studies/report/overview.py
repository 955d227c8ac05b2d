"""The first screen of a study's page: one sentence on the own method, and mean ranks with their critical difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lifealign.evaluation import catalog
from lifealign.evaluation.metrics import seeds_interval
from lifealign.evaluation.numbers import number
from lifealign.studies.comparison import ALPHA
from lifealign.studies.report.aggregates import by_task
from lifealign.studies.report.cells import Json
from lifealign.studies.report.form import own_method
from lifealign.studies.report.lines import Group, groups, is_bound, scores_of

View = dict[str, Any]
KEPT = "last"


def sentences(results: Json) -> list[View]:
    """For each score and group: what the own method keeps, and its paired difference from the best others.

    These are the best competitor, the first method of the study, and the upper bounds.
    """
    found = []
    for score in scores_of(results):
        for group in groups(results):
            own = next((line for line in group.lines if str(line["method"]) == own_method(results)), None)
            stored = _last(own, score)
            if own is None or stored.get("mean") is None:
                continue
            text = f"{own['method']}: {_text(stored['mean'], stored, score)} kept on average"
            parts = [f"{_difference(own, line, score)} {line['method']}" for line in _others(group, own, score)]
            bounds = [
                f"{line['method']} {number(_last(line, score)['mean'], score)}"
                for line in group.bounds()
                if line is not own and _last(line, score).get("mean") is not None
            ]
            text += f"; {', '.join(parts)}" if parts else ""
            text += f". Upper bounds: {', '.join(bounds)}." if bounds else "."
            found.append({"show": {**group.show(), "score": score}, "text": text})
    return found


def _last(line: Json | None, score: str) -> Json:
    found: Json = (((line or {}).get("metrics") or {}).get(score) or {}).get(KEPT) or {}
    return found


def _others(group: Group, own: Json, score: str) -> list[Json]:
    sign = -1 if catalog.best_is_lowest(score, KEPT) else 1
    held = [
        line
        for line in group.lines
        if line is not own and not is_bound(line) and _last(line, score).get("mean") is not None
    ]
    best = max(held, key=lambda line: sign * _last(line, score)["mean"], default=None)
    return _unique([best, *held[:1]])


def _unique(lines: Sequence[Json | None]) -> list[Json]:
    found: list[Json] = []
    for line in lines:
        if line is not None and not any(line is other for other in found):
            found.append(line)
    return found


def _difference(own: Json, other: Json, score: str) -> str:
    """Own method minus another, over the seeds that both have."""
    mine, theirs = (
        dict(zip(line.get("seeds") or (), _last(line, score).get("values") or (), strict=False))
        for line in (own, other)
    )
    pairs = [v - theirs[s] for s, v in mine.items() if v is not None and theirs.get(s) is not None]
    if not pairs:
        return "not compared with"
    value, low, high = seeds_interval(pairs)
    sign = "+" if value > 0 else ""
    ends = {"low": None, "high": None} if len(pairs) < 2 else {"low": low, "high": high}
    return f"{sign}{_text(value, ends, score)} against"


def _text(value: float, ends: Json, score: str) -> str:
    text = number(value, score)
    if ends.get("low") is None or ends.get("high") is None:
        return text
    return f"{text} ({number(ends['low'], score)} to {number(ends['high'], score)})"


def ranks(results: Json) -> list[View]:
    """Mean ranks of the methods over the tasks after the last one, with Nemenyi's critical difference (Demsar 2006).

    A task is a block: its score is the mean over seeds. Methods whose mean ranks differ by less than the critical
    difference are not told apart. Upper bounds take no part, and neither does a method that lacks a task. A view needs
    three methods and two tasks.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    found = []
    for score in scores_of(results):
        for group in groups(results):
            lines = [line for line in group.lines if not is_bound(line)]
            scored = [(str(line["method"]), _task_means(results, line, score)) for line in lines]
            tasks = max((set(held) for _, held in scored), key=len, default=set())
            whole = [(name, [held[task] for task in sorted(tasks)]) for name, held in scored if set(held) == tasks]
            count, blocks = len(whole), len(tasks)
            if count < 3 or blocks < 2 or catalog.score(score).better == "neither":
                continue
            values = np.array([held for _, held in whole]) * -catalog.score(score).sign
            means = rankdata(values, axis=0).mean(1)
            width = float(studentized_range.ppf(1 - ALPHA, count, np.inf)) / 2**0.5
            critical = width * (count * (count + 1) / (6 * blocks)) ** 0.5
            same = bool((values == values[0]).all())
            p = 1.0 if same else float(friedmanchisquare(*values).pvalue)
            order = sorted(range(count), key=lambda i: (means[i], whole[i][0]))
            found.append(
                {
                    "show": {**group.show(), "score": score},
                    "title": f"Mean rank over {blocks} tasks, {group.label}",
                    "critical": critical,
                    "p": p,
                    "methods": [
                        {
                            "name": whole[i][0],
                            "rank": float(means[i]),
                            "level": bool(means[i] - means[order[0]] < critical),
                        }
                        for i in order
                    ],
                    "own": own_method(results),
                    "left_out": [name for name, held in scored if set(held) != tasks],
                }
            )
    return found


def _task_means(results: Json, line: Json, score: str) -> dict[str, float]:
    """Task -> mean over seeds of its score after the last task."""
    return {task: sum(values) / len(values) for task, values in by_task(results, line, score).items()}
