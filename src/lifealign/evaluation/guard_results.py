"""From the guard's stored evaluation records to what the report, the CSV and gates show; numpy only, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lifealign.evaluation.catalog import GUARDS
from lifealign.evaluation.metrics import Array, Interval
from lifealign.store.layout import GUARD_RECORD, ROOT
from lifealign.store.reader import MemoryReader

SEED = 0
Samples = Mapping[str, Any]
"""What a record has of each window (`nll`, `tokens`) or question (`correct`)."""


def same_probe(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether values of two records may be compared: all of their options is equal but where the file lies."""
    return {**one, "path": None} == {**other, "path": None}


def perplexity(nll: Array, tokens: Array) -> Array:
    """exp(sum of nats / sum of tokens), over the last axis (windows); [..., windows] -> [...]."""
    found: Array = np.exp(nll.sum(-1) / tokens.sum(-1))
    return found


def guard_results(store: MemoryReader, stages: Sequence[str], resamples: int) -> dict[str, Any]:
    """Score -> its file, its value before any task and after each one with 95% intervals, and its summary; {} if unguarded.

    A record of other content (another file, other windows) is not compared with the rest: the newest record's content counts.

    Args:
        store: the memory.
        stages: directory of the commit that learnt each task; tasks learnt in one go have one stage, that of the last.
        resamples: of the bootstrap, over windows and questions.
    """
    found: dict[str, Any] = {}
    for probe, name in GUARDS.items():
        records = [r for r in store.evaluations() if r["kind"] == GUARD_RECORD and r["options"]["probe"] == probe]
        if records:
            newest = records[-1]["options"]
            same = {r["after"]: r["scores"] for r in records if same_probe(r["options"], newest)}
            found[name] = _column(name, newest, same, list(stages), resamples)
    return found


def _column(
    name: str, options: Mapping[str, Any], samples: Mapping[str, Samples], stages: Sequence[str], resamples: int
) -> dict[str, Any]:
    last_of_group = [stage if stages[k + 1 : k + 2] != [stage] else None for k, stage in enumerate(stages)]
    before = samples.get(ROOT)
    now = samples.get(stages[-1]) if stages else before
    sign = 1.0 if name == "perplexity" else -1.0
    return {
        "file": options["path"],
        "sha256": options["sha256"],
        "rows": len(next(iter(next(iter(samples.values())).values()))),
        "left_out": max(s.get("left_out", 0) for s in samples.values()),
        "before": _cell(_value(name, before, resamples)),
        "stages": [_cell(_value(name, samples.get(stage or ""), resamples)) for stage in last_of_group],
        "summary": {
            "guard": _cell(_value(name, now, resamples)),
            # Positive is always a loss, as with forgetting.
            "tax": _cell(_change(name, before, now, resamples, sign)),
        },
    }


def _cell(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def _draws(name: str, samples: Samples, indices: Any) -> Array:
    """The score of each resample; indices [resamples, rows] or [rows]."""
    if name == "perplexity":
        return perplexity(*(np.asarray(samples[key], dtype=np.float64)[indices] for key in ("nll", "tokens")))
    found: Array = 100.0 * np.asarray(samples["correct"], dtype=np.float64)[indices].mean(-1)
    return found


def _value(name: str, samples: Samples | None, resamples: int) -> Interval:
    return _change(name, None, samples, resamples, 1.0, alone=True)


def _change(
    name: str, before: Samples | None, now: Samples | None, resamples: int, sign: float, alone: bool = False
) -> Interval:
    """Interval of a score, or (not `alone`) of sign * (now - before) over the same rows; NaN where one is missing."""
    missing = Interval(math.nan, math.nan, math.nan)
    if now is None or (before is None and not alone):
        return missing
    rows = len(now["nll" if name == "perplexity" else "correct"])
    if not rows:
        return missing
    indices = np.random.default_rng(SEED).integers(0, rows, (resamples, rows))
    point, draws = (_draws(name, now, index) for index in (np.arange(rows), indices))
    if before is not None:
        point, draws = (
            sign * (new - _draws(name, before, index)) for new, index in ((point, np.arange(rows)), (draws, indices))
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(point), float(low), float(high))


# --- for people and gates ---


def guard_scores(store: MemoryReader, stages: Sequence[str]) -> dict[str, float]:
    """``guard.<score>`` -> value after the last task; NaN where it was not measured. Arguments as of `guard_results`."""
    found = guard_results(store, stages, resamples=1)
    return {f"guard.{name}": column["summary"]["guard"]["value"] for name, column in found.items()}


def with_guard(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The summary of a memory's results (`results.run_results`) with the guard's among them, as gates read it."""
    return {**results["summary"], **{name: column["summary"] for name, column in results.get("guard", {}).items()}}


def guard_lines(guard: Mapping[str, Any]) -> list[str]:
    """One line a score for the terminal: before any task, now, and what was lost in between."""
    lines = []
    for name, column in guard.items():
        before, now, tax = (_words(c) for c in (column["before"], *(column["summary"][k] for k in ("guard", "tax"))))
        lines.append(f"  guard.{name}: before any task {before}, now {now}; lost {tax}")
    return lines


def _words(cell: Mapping[str, float | None]) -> str:
    value, low, high = (cell[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None or math.isnan(value):
        return "not measured"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
