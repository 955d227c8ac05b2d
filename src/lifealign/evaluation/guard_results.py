"""Turn the guard's evaluation records into the scores of general ability that reports and gates show; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lifealign.evaluation.catalog import guard_scores, score
from lifealign.evaluation.metrics import Array, Interval, percentile_interval
from lifealign.evaluation.records import read_records
from lifealign.store.layout import GUARD_RECORD, ROOT, WARNINGS
from lifealign.store.reader import MemoryReader

SEED = 0
"""Seed of the bootstrap."""
Samples = Mapping[str, Any]
"""Values of each window (`nll`, `tokens`) or question (`correct`) of a record, and how many questions were left out."""
LEFT_OUT = "left_out"
NOT_MEASURED = Interval(math.nan, math.nan, math.nan)


def same_probe(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records may be compared: their options are equal apart from the file's location."""
    return {**one, "path": None} == {**other, "path": None}


def guard_results(store: MemoryReader, stages: Sequence[str], resamples: int) -> dict[str, Any]:
    """Score -> its file, its values before any task and after each one with 95% intervals, and its summaries.

    Records that measured other content (another file, other windows) than the newest one are left out.

    Args:
        store: the memory.
        stages: directory of the commit that learnt each task; tasks learnt together share one stage, the last one's.
        resamples: bootstrap samples of the windows or questions.

    Returns:
        {} for a memory without a guard.
    """
    found: dict[str, Any] = {}
    every = [record for record in read_records(store) if record["kind"] == GUARD_RECORD]
    for name, found_score in guard_scores().items():
        records = [record for record in every if record["options"]["probe"] == found_score.probe]
        if records:
            newest = records[-1]["options"]
            same = {r["after"]: r["scores"] for r in records if same_probe(r["options"], newest)}
            found[name] = _column(name, newest, same, list(stages), resamples)
    return found


def guard_warnings(store: MemoryReader) -> list[str]:
    """Warnings of the newest record of each probe at each point."""
    found: dict[tuple[str, str], Sequence[str]] = {}
    for record in read_records(store):
        if record["kind"] == GUARD_RECORD:
            found[record["after"], record["options"]["probe"]] = record.get(WARNINGS, ())
    points = {manifest.directory for manifest in store.lineage()}
    return [line for (after, _), lines in found.items() if after in points for line in lines]


def _column(
    name: str, options: Mapping[str, Any], samples: Mapping[str, Samples], stages: Sequence[str], resamples: int
) -> dict[str, Any]:
    last_of_group = [stage if stages[k + 1 : k + 2] != [stage] else None for k, stage in enumerate(stages)]
    before = samples.get(ROOT)
    now = samples.get(stages[-1]) if stages else before
    return {
        "file": options["path"],
        "sha256": options["sha256"],
        "rows": _count(next(iter(samples.values()))),
        "left_out": max(s.get(LEFT_OUT, 0) for s in samples.values()),
        "before": _value(name, before, resamples)._asdict(),
        "stages": [_value(name, samples.get(stage or ""), resamples)._asdict() for stage in last_of_group],
        "summary": {
            "guard": _value(name, now, resamples)._asdict(),
            "tax": _loss(name, before, now, resamples)._asdict(),
        },
    }


def _count(samples: Samples) -> int:
    """Number of windows or questions."""
    return len(next(iter(samples.values())))


def _value(name: str, samples: Samples | None, resamples: int) -> Interval:
    """A score with its interval; NaN if it was not measured."""
    if samples is None or not _count(samples):
        return NOT_MEASURED
    draws = _draws(name, samples, resamples)
    return percentile_interval(draws[0], draws[1:], 0.95)


def _loss(name: str, before: Samples | None, now: Samples | None, resamples: int) -> Interval:
    """Loss of a score between two points, over the same rows: positive is worse, as with forgetting."""
    if before is None or now is None or not _count(now):
        return NOT_MEASURED
    sign = score(name).sign
    loss = sign * _draws(name, before, resamples) - sign * _draws(name, now, resamples)
    return percentile_interval(loss[0], loss[1:], 0.95)


def _draws(name: str, samples: Samples, resamples: int) -> Array:
    """[1 + resamples]: the score of all rows, then of each resample; the same rows are drawn for any samples."""
    formula = score(name).of_probe
    assert formula is not None, name
    rows = _count(samples)
    drawn = np.random.default_rng(SEED).integers(0, rows, (resamples, rows))
    indices = np.concatenate([np.arange(rows)[None], drawn])
    return formula({key: np.asarray(samples[key], dtype=np.float64)[indices] for key in samples if key != LEFT_OUT})


# --- for people and gates ---


def guard_values(store: MemoryReader, stages: Sequence[str]) -> dict[str, float]:
    """``guard.<score>`` -> value after the last task, NaN if it was not measured. Arguments: see `guard_results`."""
    found = guard_results(store, stages, resamples=1)
    return {f"guard.{name}": column["summary"]["guard"]["value"] for name, column in found.items()}


def with_guard(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Summaries of a memory's results (`results.run_results`), including those of the guard, as gates read them."""
    return {**results["summary"], **{name: column["summary"] for name, column in results.get("guard", {}).items()}}


def guard_lines(guard: Mapping[str, Any]) -> list[str]:
    """One line per score for the terminal: before any task, now, and the loss in between."""
    lines = []
    for name, column in guard.items():
        before = _words(column["before"])
        now = _words(column["summary"]["guard"])
        lost = _words(column["summary"]["tax"])
        lines.append(f"  guard.{name}: before any task {before}, now {now}; lost {lost}")
    return lines


def _words(cell: Mapping[str, float | None]) -> str:
    value, low, high = cell["value"], cell["low"], cell["high"]
    if value is None or low is None or high is None or math.isnan(value):
        return "not measured"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
