"""Tables of the report besides the scores: time, consolidation, data, settings. See `report.views`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.data.tasks import shorten_numbers
from lifealign.evaluation import catalog
from lifealign.report import charts
from lifealign.training.signs import SIGNS, limits_text

View = dict[str, Any]


def commits(run: Mapping[str, Any], label: str) -> View | None:
    """Steps, time and final divergence of each commit."""
    training, seconds = run.get("training") or {}, run.get("seconds") or {}
    rows = []
    for name in dict.fromkeys([*training, *seconds]):
        lines = training.get(name) or []
        spent = [line["seconds"] for line in lines if line.get("seconds")]
        pairs = sum(line["seconds"] * line["pairs_per_second"] for line in lines if line.get("pairs_per_second"))
        rows.append(
            {
                "name": name,
                "steps": len(lines) or None,
                "seconds": seconds.get(name),
                "rate": pairs / sum(spent) if pairs and spent else None,
                "kl": lines[-1].get("kl") if lines else None,
            }
        )
    return {"label": label, "rows": rows} if rows else None


SUMMED = {
    "matrices": "Matrices",
    "rank_kept": "Rank kept",
    "basis_rank": "Basis rank",
    "energy_kept": "Energy kept",
    "overlap": "Overlap",
    "chance_overlap": "Chance overlap",
    "kept_ratio": "Kept ratio",
    "update_norm": "‖SM‖",
    "denoised_norm": "‖SM′‖",
    "refined_norm": "‖RSM‖",
    "truncation_error": "Truncation error",
}


def consolidation(run: Mapping[str, Any], label: str) -> View | None:
    """Diagnostics of each task, summed, and its maps; None for a run without consolidation."""
    commits = run.get("consolidation") or {}
    if not commits:
        return None
    summed = {name: c.get("summed") or {} for name, c in commits.items()}
    keys = [
        k
        for k in dict.fromkeys([*SUMMED, *(k for s in summed.values() for k in s)])
        if any(k in s for s in summed.values())
    ]
    return {
        "label": label,
        "columns": [SUMMED.get(k, k) for k in keys],
        "rows": [{"name": name, "cells": [s.get(k) for k in keys]} for name, s in summed.items()],
        "maps": charts.layer_maps(commits),
    }


def signs(run: Mapping[str, Any], label: str) -> View | None:
    """The signs of the method after each task; None for a run of a method without signs."""
    rows = [
        {"task": task, "says": s["says"], "value": s["value"], "limits": limits_text(s), "holds": s["holds"]}
        for task, found in (run.get(SIGNS) or {}).items()
        for s in found
    ]
    return {"label": label, "rows": rows} if rows else None


def guard(
    label: str,
    columns: Mapping[str, Any],
    names: Sequence[str],
    rows: Sequence[Sequence[Mapping[str, Any]]],
    scales: Mapping[str, tuple[float, float]],
) -> View:
    """The guard's scores of one run: stages down, scores across, and the loss since before any task.

    Args:
        label: of the run.
        columns: score -> as `guard_results.guard_results` gives it.
        names: of the stages.
        rows: {"value", "low", "high"} of each stage and score.
        scales: score -> lowest and highest value of any run.
    """

    def cell(name: str, found: Mapping[str, Any]) -> View | None:
        if found["value"] is None:
            return None
        low, high = scales[name]
        share = (found["value"] - low) / (high - low) if high > low else 0.5
        # Stronger is better, as in the score matrices.
        return {**found, "share": round(1 - share if catalog.score(name).better == "lower" else share, 3)}

    every = [("before any task", [column["before"] for column in columns.values()]), *zip(names, rows, strict=True)]
    return {
        "label": label,
        "columns": [{"name": name, **{k: c[k] for k in ("file", "rows", "left_out")}} for name, c in columns.items()],
        "rows": [
            {"label": stage, "cells": [cell(name, found) for name, found in zip(columns, cells, strict=True)]}
            for stage, cells in every
        ],
        "tax": [{"name": name, **column["summary"]["tax"]} for name, column in columns.items()],
    }


def data(runs: Sequence[Any], labels: Sequence[str]) -> list[View]:
    """Data reports; runs that read the same rows share one."""
    groups: dict[str, tuple[list[str], Any]] = {}
    for run, label in zip(runs, labels, strict=True):
        if run.get("data"):
            groups.setdefault(json.dumps(run["data"], sort_keys=True), ([], run["data"]))[0].append(label)
    found = []
    for names, read in groups.values():
        rows = [{"task": task, **_reported(report)} for task, reports in read.items() for report in reports]
        found.append({"runs": names, "rows": rows})
    return found


def _reported(report: Mapping[str, Any]) -> View:
    changes = [
        {"what": what, "reason": reason, "count": len(rows), "short": shorten_numbers(rows), "rows": rows}
        for what in ("dropped", "repaired")
        for reason, rows in (report.get(what) or {}).items()
    ]
    counts = {what: sum(c["count"] for c in changes if c["what"] == what) for what in ("dropped", "repaired")}
    return {**{k: report.get(k) for k in ("source", "read", "kept")}, **counts, "changes": changes}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def compare(columns: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> View | None:
    """Keys down, runs across; None if no run has a key."""
    keys = sorted({key for column in columns for key in column})
    if not keys:
        return None
    rows = []
    for key in keys:
        cells = [None if key not in column else _text(column[key]) for column in columns]
        rows.append({"key": key, "cells": cells, "differs": len(set(cells)) > 1})
    return {"labels": list(labels), "rows": rows, "differing": [row for row in rows if row["differs"]]}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
