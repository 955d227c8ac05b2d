"""Commands that write reports on memories and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.answers import Judgements, Ratings, browse
from lifealign.cli.options import AsJson, AsOf, MemoryPath
from lifealign.cli.output import command
from lifealign.cli.scores import report_reply
from lifealign.core.errors import ConfigError
from lifealign.core.files import replace_file, writing
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add `report`; module `study` adds `study-report`, to list it after its own command."""
    app.command()(report)
    app.command()(card)


@command
def report(
    memories: Annotated[list[Path], typer.Argument(metavar="MEMORY", help="Directories of one or more memories.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for report.html, results.json and the CSV file.")],
    answer_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--answers", metavar="FILE", help="Answers to browse in answers.html, beside the report; repeatable."
        ),
    ] = None,
    judgements: Judgements = None,
    ratings: Ratings = None,
    as_json: AsJson = False,
) -> Reply:
    """Write an HTML report with the results as JSON and CSV. Print the score matrices."""
    from lifealign.memory.api import Memory

    opened = [Memory.open(path) for path in memories]
    return report_reply(opened, out, browse(out, answer_files or (), judgements or (), ratings or ()))


@command
def card(
    memory: MemoryPath,
    as_of: AsOf = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this .md or .html file. Default: print Markdown.")
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Write one page about a memory, in Markdown or HTML."""
    from lifealign.memory.api import Memory
    from lifealign.memory.card import to_html

    if out is not None and out.suffix not in (".md", ".html"):
        raise ConfigError(f"--out {out}: the name must end in .md or .html")
    text = Memory.open(memory).card(as_of)
    if out is None:
        return Reply({"memory": memory, "card": text}, [text.rstrip()])
    with writing(out):
        replace_file(out, (to_html(text) if out.suffix == ".html" else text).encode())
    return Reply({"memory": memory, "written": out}, [f"written: {out}"])


@command
def study_report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The results.json of a study.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the page, tables and figures.")],
    metric: Annotated[
        str | None, typer.Option(metavar="SCORE", help="Show this score alone, e.g. accuracy. Default: all.")
    ] = None,
    summaries: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Columns of the tables, e.g. last,bwt. Default: the usual ones."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Show these methods, in this order. Default: all.")
    ] = None,
    highlight: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Set this method off. Default: the study's baseline.")
    ] = None,
    style: Annotated[
        str, typer.Option(metavar="STYLE", help="Print 95% intervals (interval) or standard deviations (mean-sd).")
    ] = "interval",
    width: Annotated[
        str | None, typer.Option(metavar="WIDTH", help="Width of the figures, e.g. 3.3in or 84mm.")
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Write a study's page, its figures, and LaTeX and CSV tables."""
    from lifealign.studies.report import form as forms
    from lifealign.studies.report import write as writer

    inches = forms.width(width)
    chosen = forms.Form(metric, _names(summaries), _names(methods), highlight, style, inches)
    found = writer.read_results(results)
    written = writer.write_study_report(found, out, chosen)
    return Reply({"study": found["study"], "written": written}, writer.lines(found, written, chosen))


def _names(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
