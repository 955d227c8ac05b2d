"""Scores and text metrics from outside: found by the names that a configuration gives, checked, and kept in records.

A record describes each score from outside that it has values of, and its origin, so that the values can be read even if
the score itself is not installed. Reading a record loads no code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lifealign.core.errors import ConfigError, UserError
from lifealign.core.origin import described, find_file, is_file, is_reference, remedy
from lifealign.core.registry import Registry
from lifealign.evaluation import catalog
from lifealign.evaluation.records import read_records
from lifealign.evaluation.score import SCORES, TEXT_METRICS, Score
from lifealign.evaluation.text_metrics import need
from lifealign.store.layout import ROW_RECORD
from lifealign.store.reader import MemoryReader

KEY = "outside"
"""Key of evaluation records and results: name -> `record_of`; missing if all scores are built in."""
REGISTRIES: Mapping[str, Registry[Score]] = {registry.what: registry for registry in (SCORES, TEXT_METRICS)}


def named(options: Mapping[str, Any]) -> list[tuple[str, Registry[Score], str]]:
    """(key, registry, name) of the scores that `evaluate` names, including built-in ones.

    Args:
        options: the section `evaluate` as plain values.
    """
    found = []
    for key, registry in (("text_metrics", TEXT_METRICS), ("scores", SCORES)):
        found += [(f"evaluate.{key}", registry, name) for name in options.get(key, ())]
    return found


def require(text_metrics: Sequence[str], scores: Sequence[str] = ()) -> None:
    """Load scores from outside, and check that all of these can be measured, before any costly work.

    Args:
        text_metrics: names of text metrics, or references.
        scores: names of scores from outside, or references.

    Raises:
        ConfigError: names what is unknown and those allowed, what cannot be loaded, or the missing libraries and how to
            install them.
    """
    for key, registry, name in named({"text_metrics": text_metrics, "scores": scores}):
        if registry is SCORES and name in catalog.BUILT_IN:
            raise ConfigError(f"{key}: {name!r} is built in; remove it, and name only scores from outside")
        other = SCORES if registry is TEXT_METRICS else TEXT_METRICS
        if not is_reference(name) and name in registry and name in other:
            raise ConfigError(
                f"{key}: {name!r} is a {registry.what} of {registry.origin(name)} and a {other.what} of "
                f"{other.origin(name)}; uninstall one of them"
            )
        try:
            registry.find(name)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}{_last_seen(name)}") from error
        if registry.is_outside(name):
            catalog.meet(name, record_of(registry, name))
    packages = [p for name in text_metrics for p in TEXT_METRICS.find(name).packages]
    need(packages, f"evaluate.text_metrics {list(text_metrics)}")


def record_of(registry: Registry[Score], name: str) -> dict[str, Any]:
    """The description of a score from outside that a record keeps: how its values are shown, and its origin."""
    origin = registry.origin(name).to_json()
    return {"kind": registry.what, **registry.find(name).described(), "origin": origin}


def values_of(registry: Registry[Score], name: str, compute: Callable[[Score], Any], count: int) -> list[float]:
    """One value per row; values of a score from outside are checked.

    Args:
        registry: the one that has the score.
        name: name of the score.
        compute: score -> its values, [count].
        count: number of rows.

    Raises:
        ConfigError: a score from outside fails, or does not give `count` finite numbers (for a rate, 0 to 1).
    """
    score = registry.find(name)
    if not registry.is_outside(name):
        return [float(value) for value in compute(score)]
    here = f"{registry.what} {name!r} ({registry.origin(name)})"
    try:
        found = np.asarray(compute(score), dtype=np.float64)
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(f"{here} failed: {type(error).__name__}: {error}") from error
    if found.shape != (count,):
        raise ConfigError(f"{here}: expected {count} numbers, one per row, got shape {list(found.shape)}")
    low, high = (0.0, 1.0) if score.rate else (-np.inf, np.inf)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= low) & (found <= high)))
    if wrong.size:
        allowed = "a rate is 0 to 1" if score.rate else "expected a finite number"
        raise ConfigError(f"{here}: the value of row {wrong[0] + 1} is {found[wrong[0]]:g}; {allowed}")
    return [float(value) for value in found]


# --- what records say of them ---


def recall(records: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name -> its newest description in these records or results, oldest first; also enters them into the catalog."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        found |= record.get(KEY) or {}
    for name, one in found.items():
        catalog.meet(name, one)
    return found


def notes(store: MemoryReader) -> list[str]:
    """A sentence for each score from outside that cannot be measured here, or whose code changed between its values."""
    evaluations = read_records(store)
    found = recall(evaluations)
    lines = []
    for name, record in found.items():
        origin = record["origin"]
        if not is_here(name, record):
            lines.append(
                f"{record['kind']} {name!r} is not installed here: it was measured with {described(origin)}, and its values "
                f"are shown as they were stored; to measure it again, {remedy(origin)}"
            )
        elif len(_versions(store, evaluations, name)) > 1:
            lines.append(
                f"{record['kind']} {name!r} has changed between its values ({described(origin)} is the newest); evaluate "
                "again at each task to compare them"
            )
    return lines


def _versions(store: MemoryReader, evaluations: Iterable[Mapping[str, Any]], name: str) -> set[str | None]:
    """Checksums of the code that gave the newest value of each cell."""
    lineage = {manifest.directory for manifest in store.lineage()}
    cells: dict[tuple[str, str, str], str | None] = {}
    for record in evaluations:
        if record["kind"] == ROW_RECORD and record["after"] in lineage and name in record.get(KEY, {}):
            sha256 = record[KEY][name]["origin"]["sha256"]
            cells |= {(record["after"], record["options"]["split"], s["task"]): sha256 for s in record["scores"]}
    return set(cells.values())


def is_here(name: str, record: Mapping[str, Any]) -> bool:
    """Whether a score can be found, as far as this is known without running code."""
    registry, origin = REGISTRIES[record["kind"]], record["origin"]
    if not is_reference(name) and name in registry:
        return True
    reference = name if is_reference(name) else origin["reference"]
    if reference is None:
        return False
    where = reference.rpartition(":")[0]
    if is_file(where):
        return find_file(where) is not None or (origin["path"] is not None and Path(origin["path"]).is_file())
    return importlib.util.find_spec(where.partition(".")[0]) is not None


def _last_seen(name: str) -> str:
    record = catalog.met(name)
    return (
        "" if record is None else f"\n  it was measured with {described(record['origin'])}; {remedy(record['origin'])}"
    )
