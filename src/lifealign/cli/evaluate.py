"""Commands that score memories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import AllMetrics, AsJson, AsOf, MemoryPath, N, Split, WithoutValue
from lifealign.cli.output import command
from lifealign.core.errors import EXIT_GATE_FAILED, ConfigError
from lifealign.core.files import replace_file, writing
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.evaluation.gates import NoValue

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
Against = Annotated[
    str | None,
    typer.Option(
        metavar="POINT",
        help="Also compare with this point. The gates `drop` and `change` are then since that point.",
    ),
]
OneAdapter = Annotated[
    bool, typer.Option("--one-adapter", help="Score the one adapter that an export holds, not the routed prompts.")
]
Summary = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write gates, scores and changes as a Markdown page, held or not.")
]
Generations = Annotated[
    int | None,
    typer.Option(min=0, metavar=N, help="Greedy answers per task, for its pass rate and the text metrics."),
]
TextMetrics = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Text metric of the greedy answers, e.g. chrf; repeatable.")
]
Scores = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Your own score, by name or path/to/file.py:function; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(diff)


@command
def evaluate(
    memory: MemoryPath,
    task: Tasks = None,
    split: Split = "test",
    as_of: AsOf = None,
    generations: Generations = None,
    text_metric: TextMetrics = None,
    score: Scores = None,
    guard_text: GuardText = None,
    guard_choices: GuardChoices = None,
    gate: Gates = None,
    no_value: WithoutValue = "fail",
    against: Against = None,
    summary: Summary = None,
    one_adapter: OneAdapter = False,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> Reply:
    """Score a memory on held-out rows and check gates."""
    from lifealign.core.progress import make_progress
    from lifealign.evaluation.gates import Gate
    from lifealign.memory.api import Memory

    _check_split(split)
    settled = _settled(no_value, bool(gate), summary, as_of, against)
    store = Memory.open(memory)
    store.score_notes()  # a gate may name a score from outside that only the memory's records know
    gates = [Gate.parse(text, store.tasks(with_retired=True), against=against is not None) for text in gate or ()]
    options: dict[str, Any] = {
        "split": split,
        "generations": generations,
        "text_metrics": text_metric or None,
        "scores": score or None,
        "guard_text": guard_text,
        "guard_choices": guard_choices,
        "one_adapter": one_adapter,
        "progress": make_progress(),
    }
    if against is not None and (then := [name for name in store.tasks(against) if not task or name in task]):
        store.evaluate(then, as_of=against, **options)
    evaluation = store.evaluate(task or None, as_of=as_of, **options)
    results = (
        store.check(gates, split=split, against=against, no_value=settled, keep=True, one_adapter=one_adapter)
        if gates
        else []
    )
    difference = None if against is None else store.diff(against, "now", split, one_adapter=one_adapter)
    document = {**evaluation.to_json(), "gates": [result.to_json() for result in results]}
    failed = [result.line() for result in results if not result.held]
    scored = evaluation.lines(every=all_metrics)
    lines = [*scored, *(result.line() for result in results if result.held)]
    if difference is not None:
        document["against"] = difference.to_json()
        lines[len(scored) : len(scored)] = difference.lines()
    if summary is not None:
        from lifealign.report.gate_page import gate_page

        with writing(summary):
            replace_file(summary, gate_page(str(memory), document, results, difference).encode())
    return Reply(document, lines, EXIT_GATE_FAILED if failed else 0, failed)


@command
def diff(
    memory: MemoryPath,
    a: Annotated[str, typer.Argument(metavar="A", help="A point: base, now, a task, a tag or a commit.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another point.")],
    split: Split = "test",
    as_json: AsJson = False,
) -> Reply:
    """Compare the stored scores of two points. Lists each task's change and the rows gained and lost."""
    from lifealign.memory.api import Memory

    _check_split(split)
    found = Memory.open(memory).diff(a, b, split)
    return Reply(found.to_json(), found.lines())


def _check_split(split: str) -> None:
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")


def _settled(no_value: str, gated: bool, summary: Path | None, as_of: str | None, against: str | None) -> NoValue:
    """Whether a gate without a value holds, after a look at the options before any work.

    Raises:
        ConfigError: options that cannot be combined, or a page that cannot be written.
    """
    for option, given in (("--gate", gated), ("--against", against is not None)):
        if given and as_of is not None:
            raise ConfigError(
                f"{option} checks the memory as it is now and cannot be combined with --as-of; drop one of them"
            )
    if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
        raise ConfigError(f"--summary {summary}: give a file in a directory that exists")
    return check_no_value(no_value)


def check_no_value(no_value: str) -> NoValue:
    """Whether a gate without a value holds.

    Raises:
        ConfigError: neither `pass` nor `fail`.
    """
    if no_value == "pass":
        return "pass"
    if no_value != "fail":
        raise ConfigError(f"--no-value {no_value!r}: allowed: pass, fail")
    return "fail"
