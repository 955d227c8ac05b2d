"""Commands that score memories, compare methods and write reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli import answers as comparing
from lifealign.cli.options import AsJson, AsOf, MemoryPath
from lifealign.cli.output import command
from lifealign.cli.scores import report_answer
from lifealign.core.errors import EXIT_GATE_FAILED, EXIT_USER_ERROR, ConfigError
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(report)
    app.command()(study)
    app.command("study-report")(study_report)


@command
def evaluate(
    memory: MemoryPath,
    task: Annotated[list[str] | None, typer.Option(help="A task to score; repeats. Default: all.")] = None,
    split: Annotated[str, typer.Option(help="Held-out rows to score: test or validation.")] = "test",
    as_of: AsOf = None,
    generations: Annotated[
        int | None, typer.Option(min=0, help="Greedy answers per task, for its pass rate and the text metrics.")
    ] = None,
    text_metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A score of the greedy answers, e.g. chrf; repeats.")
    ] = None,
    guard_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text whose perplexity guards general ability.")
    ] = None,
    guard_choices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Multiple-choice questions that guard general ability.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GATE",
            help='Exit with code 3 unless this holds over all tasks learnt, e.g. "bwt>=-1", "tax.perplexity<=2"; repeats.',
        ),
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Score a memory on held-out rows, and check gates."""
    from lifealign.core.progress import make_progress
    from lifealign.evaluation.gates import Gate, check_gates
    from lifealign.memory.api import Memory

    gates = [Gate.parse(text) for text in gate or ()]
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    if gates and as_of is not None:
        raise ConfigError("--gate judges the memory as it is, so it does not go with --as-of")
    store = Memory.open(memory)
    evaluation = store.evaluate(
        task or None,
        split=split,
        as_of=as_of,
        generations=generations,
        text_metrics=text_metric or None,
        guard_text=guard_text,
        guard_choices=guard_choices,
        progress=make_progress(),
    )
    results = check_gates(gates, evaluation.summary)
    document = {**evaluation.to_json(), "gates": [result.to_json() for result in results]}
    failed = [result.line() for result in results if not result.held]
    lines = [*evaluation.lines(), *(result.line() for result in results if result.held)]
    return Reply(document, lines, EXIT_GATE_FAILED if failed else 0, failed)


@command
def report(
    memories: Annotated[list[Path], typer.Argument(metavar="MEMORY...", help="One or more memories, side by side.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for report.html, results.json and the CSV.")],
    answer_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--answers", metavar="FILE", help="Answers to browse in answers.html, beside the report; repeats."
        ),
    ] = None,
    judgements: comparing.Judgements = None,
    ratings: comparing.Ratings = None,
    as_json: AsJson = False,
) -> Reply:
    """Write one HTML page, the results as JSON and a CSV; print the score matrices."""
    from lifealign.memory.api import Memory

    opened = [Memory.open(path) for path in memories]
    return report_answer(opened, out, comparing.browse(out, answer_files or (), judgements or (), ratings or ()))


@command
def study(
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A YAML file, such as examples/studies/main-table.yaml.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and the time they take; do none.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="local|ADDRESS", help="Do the runs on Ray.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for results.json; default: runs/studies/NAME.")
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Compare methods over task orders, seeds, settings and models. Stopped and started again, it goes on."""
    from lifealign.core.progress import make_progress
    from lifealign.studies.engine import run_study

    document, lines, problems = run_study(file, dry_run=dry_run, ray=ray, out=out, progress=make_progress())
    return Reply(document, lines, EXIT_USER_ERROR if problems else 0, problems)


@command
def study_report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.json of a study.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the page, tables, CSV files and figures.")],
    as_json: AsJson = False,
) -> Reply:
    """Write a study's page, its tables as LaTeX and CSV, and its figures."""
    from lifealign.studies.report import write as writer

    found = writer.read_results(results)
    written = writer.write_study_report(found, out)
    return Reply({"study": found["study"], "written": written}, writer.lines(found, written))
