"""Commands that write reports: of memories and of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.answers import Judgements, Ratings, browse
from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.cli.scores import report_reply
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add `report`; `study-report` comes after the study's own command, see `study`."""
    app.command()(report)


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
    judgements: Judgements = None,
    ratings: Ratings = None,
    as_json: AsJson = False,
) -> Reply:
    """Write one HTML page, the results as JSON and a CSV; print the score matrices."""
    from lifealign.memory.api import Memory

    opened = [Memory.open(path) for path in memories]
    return report_reply(opened, out, browse(out, answer_files or (), judgements or (), ratings or ()))


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
