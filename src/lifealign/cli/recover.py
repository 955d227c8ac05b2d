"""The command that recovers a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson, MemoryPath, N
from lifealign.cli.output import command
from lifealign.core.reply import Reply

Task = Annotated[str, typer.Option(metavar="TASK", help="Earlier task to recover.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="POINT", help="Point that still knows the task. Default: right after it was learnt."
    ),
]
Prompts = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Prompts of the task. Default: those of its replay and validation rows."),
]
Space = Annotated[
    str, typer.Option(metavar="adapter|merged", help="Weights to recover: the adapter's, or the merged model's.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write the merged model of --space merged.")]
Rate = Annotated[float, typer.Option(metavar="SHARE", help="Share of the elements that a step puts back.")]
Steps = Annotated[int, typer.Option(metavar=N, help="Steps.")]
WarmUp = Annotated[int, typer.Option(metavar=N, help="Steps before the newest task is checked.")]
RollbackShare = Annotated[
    float, typer.Option(metavar="SHARE", help="Share of a step that is taken back once the newest task suffers.")
]
AllowedDrop = Annotated[
    float, typer.Option(metavar="SHARE", help="Share of its accuracy that the newest task may lose.")
]
Accumulate = Annotated[
    bool, typer.Option("--accumulate", help="Let gradients add up over the steps, as the authors' script does.")
]
Layer = Annotated[
    int | None, typer.Option(metavar=N, help="Layer whose output is compared. Default: 4/6 of the layers.")
]
Seed = Annotated[int | None, typer.Option(metavar=N, help="Seed of the order of prompts. Default: the memory's.")]
Note = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A note to keep with the commit; `log` and `show` print it.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(recover)


@command
def recover(
    memory: MemoryPath,
    task: Task,
    as_of: From = None,
    prompts: Prompts = None,
    space: Space = "adapter",
    out: Out = None,
    rate: Rate = 0.002,
    steps: Steps = 20,
    warm_up: WarmUp = 5,
    rollback_share: RollbackShare = 0.2,
    allowed_drop: AllowedDrop = 0.05,
    accumulate: Accumulate = False,
    layer: Layer = None,
    seed: Seed = None,
    note: Note = None,
    as_json: AsJson = False,
) -> Reply:
    """Recover an earlier task from its prompts alone.

    Elements of the weights go back to what they were when the task was learnt, as long as the newest task keeps its accuracy.
    `rollback` undoes it.
    """
    from lifealign.core.progress import make_progress
    from lifealign.memory.api import Memory

    done = Memory.open(memory).recover(
        task,
        as_of=as_of,
        prompts=prompts,
        space=space,
        out=out,
        note=note,
        progress=make_progress(),
        rate=rate,
        steps=steps,
        warm_up=warm_up,
        rollback_share=rollback_share,
        allowed_drop=allowed_drop,
        accumulate=accumulate,
        layer=layer,
        seed=seed,
    )
    return Reply({"memory": memory, **done.to_json()}, done.lines())
