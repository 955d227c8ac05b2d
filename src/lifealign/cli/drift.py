"""The command that measures how a memory's model drifts over its life."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson, MemoryPath, N, Split
from lifealign.cli.output import command
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(drift)


@command
def drift(
    memory: MemoryPath,
    as_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT", help="Point to measure: base, now, a task, a tag or a commit; repeatable. Default: all."
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Drift measure, by name or path/to/file.py:Name; repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts to answer. Default: held-out prompts of all tasks.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar=N, help="Prompts per task.")] = 8,
    samples: Annotated[int, typer.Option(min=2, metavar=N, help="Sampled answers to each prompt.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar=N, help="Longest answer, in tokens.")] = 32,
    split: Split = "test",
    as_json: AsJson = False,
) -> Reply:
    """Measure how the model drifted over the memory's life.

    Values are stored in the memory, so that the report shows them and repeated calls compute nothing again.
    """
    from lifealign.core.progress import make_progress
    from lifealign.memory.api import Memory
    from lifealign.memory.drifting import DriftAsked

    where = None if prompts is None else str(prompts)
    asked = DriftAsked(tuple(measure or ()), tuple(as_of or ()), where, count, samples, max_new_tokens, split)
    asked.check()
    found = Memory.open(memory).drift(asked, progress=make_progress())
    return Reply(found.to_json(), found.lines())
