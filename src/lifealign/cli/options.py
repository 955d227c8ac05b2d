"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MemoryPath = Annotated[Path, typer.Argument(metavar="MEMORY", help="Directory of the memory.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=3; repeats."),
]
Recipe = Annotated[str | None, typer.Option(help="How to read the columns of a public data set, by name.")]
AsOf = Annotated[str | None, typer.Option(metavar="TASK", help="The model as it was after this task.")]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=WEIGHT", help="Weight of what a task changed: 0 withdraws it, 1 leaves it as it is; repeats."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document to stdout.")]
Rows = Annotated[str, typer.Argument(metavar="ROWS", help="json, jsonl, parquet or csv file, or a hub data set id.")]
