"""The command that measures how a memory's model drifts over its life."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.evaluate import check_no_value
from lifealign.cli.options import AsJson, MemoryPath, N, Split, WithoutValue
from lifealign.cli.output import command
from lifealign.core.errors import EXIT_GATE_FAILED
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
    principles: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Principles (YAML) that pairs are compared by; adds the measure principles."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar=N, help="Prompts per task.")] = 8,
    samples: Annotated[int, typer.Option(min=2, metavar=N, help="Sampled answers to each prompt.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar=N, help="Longest answer, in tokens.")] = 32,
    split: Split = "test",
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="GATE", help='Exit with code 3 unless this holds now, e.g. "kl_total<=20"; repeatable.'),
    ] = None,
    no_value: WithoutValue = "fail",
    as_json: AsJson = False,
) -> Reply:
    """Measure how the model drifted over the memory's life.

    Values are stored in the memory, so that the report shows them and repeated calls compute nothing again.
    """
    from lifealign.core.progress import make_progress
    from lifealign.evaluation.gates import Gate
    from lifealign.memory.api import Memory
    from lifealign.memory.drifting import DriftAsked

    rules, given = (None if path is None else str(path) for path in (principles, prompts))
    points = tuple(as_of or ())
    asked = DriftAsked(tuple(measure or ()), points, rules, given, count, samples, max_new_tokens, split)
    asked.check()
    settled = check_no_value(no_value)
    store = Memory.open(memory)
    store.score_notes()  # a gate may name a column from outside that only the memory's records know
    own = [Gate.parse(text, store.tasks(with_retired=True)) for text in gate or ()]
    found = store.drift(asked, progress=make_progress())
    results = store.check(own, split=split, no_value=settled, keep=True) if own else []
    failed = [result.line() for result in results if not result.held]
    document = {**found.to_json(), "gates": [result.to_json() for result in results]}
    lines = [*found.lines(), *(result.line() for result in results if result.held)]
    return Reply(document, lines, EXIT_GATE_FAILED if failed else 0, failed)
