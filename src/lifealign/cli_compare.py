"""Commands that show what a memory answered at points of its life. Registered by `cli`; imports little at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.answers import Answer, answers
from lifealign.errors import ConfigError

Tasks = Annotated[list[str] | None, typer.Option("--task", help="A task; repeats. Default: all.")]
Count = Annotated[
    int | None, typer.Option(min=1, help="Prompts a task; default: evaluate.generations of the memory, else 20.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest answer, in tokens; default: as the memory's evaluations have it.")
]
Split = Annotated[str, typer.Option(help="Held-out rows to ask: test or validation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document to stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("answers")(answers(write_answers))


def write_answers(
    memory: Annotated[Path, typer.Argument(metavar="MEMORY", help="Directory of the memory.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write: .jsonl or .parquet.")],
    task: Tasks = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="POINT", help="base, the task learnt last, or now; repeats. Default: now."),
    ] = None,
    every_point: Annotated[
        bool, typer.Option("--every-point", help="Before any task, after the task itself and after each later one.")
    ] = False,
    count: Count = None,
    max_new_tokens: MaxNewTokens = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who answers, for the records; default: the memory's strategy.")
    ] = None,
    split: Split = "test",
    as_json: AsJson = False,
) -> Answer:
    """Write greedy answers to held-out prompts, with their scores, for judging, rating and comparing."""
    from lifealign import transcripts
    from lifealign.answering import NOW, Asked
    from lifealign.memory import Memory
    from lifealign.progress import make_progress

    transcripts.check_extension(out)
    if at and every_point:
        raise ConfigError("--at and --every-point both say when; give one of them")
    asked = Asked(tuple(task or ()), tuple(at or (NOW,)), every_point, count, max_new_tokens, source, split)
    records = Memory.open(memory).answers(asked, progress=make_progress())
    transcripts.write_answers(out, records)
    points = list(dict.fromkeys(record.point for record in records))
    document = {"answers": len(records), "points": points, "out": out}
    return Answer(document, [f"written: {len(records)} answers at {len(points)} point(s) to {out}"])
