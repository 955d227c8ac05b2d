"""Memories beside each other: differences of their summaries, paired over the held-out rows that they share; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lifealign.data.tasks import rows_sha256
from lifealign.evaluation import catalog, metrics
from lifealign.evaluation.results import BOOTSTRAP_SEED, ScoreTable, read_scores, summary_functions
from lifealign.store.heldout import heldout
from lifealign.store.reader import MemoryReader


def differences(stores: Sequence[MemoryReader], splits: Sequence[str]) -> list[dict[str, Any]]:
    """Differences between every two memories that were scored on the same rows of the same tasks, in the same order.

    Args:
        stores: memories.
        splits: of each memory, the split that its report shows.

    Returns:
        Plain values: places `a` and `b` of two memories, `score`, `summary`, and `value`, `low` and `high` of a - b. A pair
        of which one has no such summary is left out.
    """
    if len(stores) < 2:
        return []
    tables = [read_scores(store, split) for store, split in zip(stores, splits, strict=True)]
    rows = [
        [(t.name, rows_sha256(t.test if split == "test" else t.validation)) for t in heldout(store, with_retired=True)]
        for store, split in zip(stores, splits, strict=True)
    ]
    resamples = [store.identity["config"]["evaluate"]["bootstrap"] for store in stores]
    found = []
    for a, b in combinations(range(len(stores)), 2):
        if rows[a] == rows[b] and tables[a].tasks == tables[b].tasks and tables[a].tasks:
            found += [{"a": a, "b": b, **one} for one in _of_two(tables[a], tables[b], min(resamples[a], resamples[b]))]
    return found


def _of_two(one: ScoreTable, other: ScoreTable, resamples: int) -> list[dict[str, Any]]:
    found = []
    for score in catalog.scores():
        samples = [table.samples(score) for table in (one, other)]
        if not all(any(values for row in R for values in row) for R in samples):
            continue
        (a, drawn_a), (b, drawn_b) = (metrics.resampled(R, resamples, BOOTSTRAP_SEED) for R in samples)
        of_a, of_b = (summary_functions(table, score) for table in (one, other))
        for summary in catalog.summaries():
            value = of_a[summary](a) - of_b[summary](b)
            draws = np.array([of_a[summary](x) - of_b[summary](y) for x, y in zip(drawn_a, drawn_b, strict=True)])
            if not np.isnan(value):
                interval = metrics.percentile_interval(value, draws)
                found.append({"score": score, "summary": summary, **interval._asdict()})
    return found
