"""Commands that score memories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson, AsOf, MemoryPath, N, Split
from lifealign.cli.output import command
from lifealign.core.errors import EXIT_GATE_FAILED, ConfigError
from lifealign.core.reply import Reply

GuardText = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Text for measuring perplexity, to guard general ability.")
]
GuardChoices = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Multiple-choice questions, to guard general ability.")
]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GATE",
        help='Exit with code 3 unless this holds over all tasks learnt, e.g. "bwt>=-1" or "tax.perplexity<=2"; '
        "repeatable.",
    ),
]
Tasks = Annotated[list[str] | None, typer.Option(metavar="TASK", help="Task to score; repeatable. Default: all.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)


@command
def evaluate(
    memory: MemoryPath,
    task: Tasks = None,
    split: Split = "test",
    as_of: AsOf = None,
    generations: Annotated[
        int | None,
        typer.Option(min=0, metavar=N, help="Greedy answers per task, for its pass rate and the text metrics."),
    ] = None,
    text_metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Text metric of the greedy answers, e.g. chrf; repeatable.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Your own score, by name or path/to/file.py:function; repeatable."),
    ] = None,
    guard_text: GuardText = None,
    guard_choices: GuardChoices = None,
    gate: Gates = None,
    as_json: AsJson = False,
) -> Reply:
    """Score a memory on held-out rows and check gates."""
    from lifealign.core.progress import make_progress
    from lifealign.evaluation.gates import Gate, check_gates
    from lifealign.memory.api import Memory

    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    if gate and as_of is not None:
        raise ConfigError("--gate checks the memory as it is now and cannot be combined with --as-of; drop one of them")
    store = Memory.open(memory)
    store.score_notes()  # a gate may name a score from outside that only the memory's records know
    gates = [Gate.parse(text) for text in gate or ()]
    evaluation = store.evaluate(
        task or None,
        split=split,
        as_of=as_of,
        generations=generations,
        text_metrics=text_metric or None,
        scores=score or None,
        guard_text=guard_text,
        guard_choices=guard_choices,
        progress=make_progress(),
    )
    results = check_gates(gates, evaluation.summary)
    document = {**evaluation.to_json(), "gates": [result.to_json() for result in results]}
    failed = [result.line() for result in results if not result.held]
    lines = [*evaluation.lines(), *(result.line() for result in results if result.held)]
    return Reply(document, lines, EXIT_GATE_FAILED if failed else 0, failed)
