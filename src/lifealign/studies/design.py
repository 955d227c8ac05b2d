"""What the design of a study can see: its test rows and seeds, as a document and in words. See `power`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lifealign.core.config import StreamConfig
from lifealign.core.errors import UserError
from lifealign.data.load import load_stream
from lifealign.data.splits import DEFAULT_TEST_ROWS
from lifealign.evaluation import catalog
from lifealign.studies.config import PowerConfig
from lifealign.studies.power import ALPHA, POWER, SOURCE, SUMMARIES, seen

Json = Mapping[str, Any]


def scored_rows(config: Json, seed: int, score: str) -> list[int] | None:
    """Test rows that a score is measured on, for each task in order; None: the rows cannot be read, or it is no rate.

    Sizes that the configuration names are taken as they are; otherwise the rows are read.

    Args:
        config: a complete run configuration.
        seed: of the draws.
        score: name; a pass rate is measured on `evaluate.generations` rows.
    """
    if not catalog.score(score).rate:
        return None
    stream = StreamConfig.model_validate(config["stream"])
    listed = [stream.tasks[i - 1] for i in stream.order] if stream.order and stream.tasks else stream.tasks
    sizes = [t.test_rows or (DEFAULT_TEST_ROWS if t.test is None else None) for t in listed]
    if not sizes or None in sizes:
        try:
            sizes = [len(task.test) for task in load_stream(stream, seed).tasks]
        except UserError:
            return None  # the run says what is wrong
    options = config.get("evaluate") or {}
    most = [options.get("rows"), options.get("generations") if score == "pass_rate" else None]
    found = [min(n for n in (size, *most) if n is not None) for size in sizes]
    return None if 0 in found else found


def power_document(
    score: str,
    options: PowerConfig,
    *,
    seeds: int,
    rows: Sequence[int] | None,
    comparisons: int,
    pairs: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    """What a design can see, as plain values.

    Args:
        score: of the summaries.
        options: assumptions.
        seeds: of each row of the table.
        rows: see `scored_rows`.
        comparisons: methods that are compared with the baseline.
        pairs: summary -> paired differences over the seeds, for each finished pair of methods.
    """
    found = {
        key: seen(
            key,
            seeds=seeds,
            comparisons=comparisons,
            rows=rows,
            accuracy=options.accuracy,
            spread=options.spread,
            correlation=options.correlation,
            pairs=pairs[key],
        )
        for key in SUMMARIES
    }
    return {
        "score": score,
        "seeds": seeds,
        "rows": None if rows is None else list(rows),
        "accuracy": options.accuracy,
        "alpha": ALPHA,
        "power": POWER,
        "summaries": {key: None if value is None else value.to_json() for key, value in found.items()},
    }


def power_line(document: Json) -> str:
    """One line: the smallest differences that one comparison sees."""
    parts = []
    for key, value in document["summaries"].items():
        name = f"{catalog.summary(key).label} {document['score']}"
        if value is None:
            parts.append(f"{name}: unknown before two seeds of two methods are finished")
        elif value["difference"] is None:
            parts.append(f"{name}: no difference, because one seed has no interval")
        else:
            parts.append(f"{name}: {_points(value['difference'], document)} or more ({_source(value)})")
    return f"differences that {document['seeds']} paired seeds can see: {'; '.join(parts)}"


def power_lines(name: str, document: Json) -> list[str]:
    """What a design can see, with its assumptions."""
    rows, score = document["rows"], document["score"]
    size = f"{document['seeds']} paired seeds"
    if rows is not None:
        each = f"{min(rows)}" if len(set(rows)) == 1 else f"{min(rows)} to {max(rows)}"
        size += f", {len(rows)} tasks, {each} test rows a task"
    lines = [f"study {name}: {size}; baseline against one method", ""]
    for key, value in document["summaries"].items():
        label = f"{catalog.summary(key).label} {score}"
        if value is None or value["difference"] is None:
            lines += [power_line({**document, "summaries": {key: value}}), ""]
            continue
        lines.append(f"{label}: {_points(value['difference'], document)} or more are seen")
        if value["comparisons"] > 1:
            lines.append(
                f"  the first step of Holm's correction for {value['comparisons']} comparisons needs "
                f"{_points(value['corrected'], document)}"
            )
        lines.append(
            "  with other numbers of seeds: "
            + ", ".join(f"{n}: {_points(d, document)}" for n, d in value["by_seeds"].items())
        )
        lines += [f"  {line}" for line in _assumptions(value, document)]
        lines.append("")
    return [*lines, _test(document)]


def _test(document: Json) -> str:
    return (
        f"Seen: found by a two-sided paired t-test at {100 * document['alpha']:g}% in {100 * document['power']:g}% of all "
        "studies of this design."
    )


def _assumptions(value: Json, document: Json) -> list[str]:
    if value["source"] != "assumption":
        return [
            f"from {value['pairs']} finished pairs of methods of this study: their differences over the seeds have a "
            f"standard deviation of {value['sd']:.2f}"
        ]
    return [
        f"assumed: {100 * document['accuracy']:g}% of the rows are right, each row by itself (binomial noise)",
        f"assumed: beside that, seeds differ by a standard deviation of {value['spread']:g} points",
        f"assumed: two methods' values over the seeds are correlated by {value['correlation']:g}",
        f"measured in {SOURCE}, unless `power` in the study's file sets them; finished runs replace all three",
    ]


def _source(value: Json) -> str:
    return f"from {value['pairs']} finished pairs" if value["source"] != "assumption" else "by assumption"


def _points(value: float, document: Json) -> str:
    unit = "points" if catalog.score(document["score"]).rate else catalog.score(document["score"]).unit
    return f"{value:.1f} {unit}".rstrip()
