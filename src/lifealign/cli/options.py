"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MemoryPath = Annotated[Path, typer.Argument(metavar="MEMORY", help="Directory of the memory.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=3; repeatable."),
]
Recipe = Annotated[str | None, typer.Option(metavar="NAME", help="Recipe for the columns of a public data set.")]
Renamed = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="NAME=COLUMN",
        help="Rename a column before its layout is recognised, e.g. prompt=instruction; repeatable.",
    ),
]
Pairs = Annotated[
    str,
    typer.Option(
        "--pairs",
        metavar="RULE",
        help="Pairs of scored answers: best-worst, 'best-worst MARGIN' or 'all-above MARGIN'.",
    ),
]
GoodFrom = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="A number as a label, e.g. of stars, means a good answer from here on."),
]
BadTo = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Such a number means a bad answer up to here. Default: below --good-from."),
]
AsOf = Annotated[
    str | None,
    typer.Option(metavar="POINT", help="Use the model as it was at this point: base, now, a task, a tag or a commit."),
]
Split = Annotated[str, typer.Option(metavar="test|validation", help="Held-out rows to use.")]
WithoutValue = Annotated[
    str, typer.Option(metavar="pass|fail", help="Whether a gate whose value is missing holds (pass) or not (fail).")
]
BASE, NOW = "base", "now"
"""Names of the points before the first and after the last task; as in `data.answers` and `store.reader`."""
N = "N"
"""Metavar of counts and other whole numbers."""
Weight = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=WEIGHT", help="Weight of a task's change: 0 withdraws it, 1 keeps it as it is; repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document to stdout.")]
Rows = Annotated[
    str, typer.Argument(metavar="ROWS", help="A json, jsonl, parquet or csv file, a hub data set id, or - for stdin.")
]
AllMetrics = Annotated[bool, typer.Option("--all-metrics", help="List every score, not only the main ones.")]
