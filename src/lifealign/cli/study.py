"""The command that runs a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.cli.report import study_report
from lifealign.core.errors import EXIT_USER_ERROR
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the commands for studies."""
    app.command()(study)
    app.command("study-report")(study_report)


@command
def study(
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="Study in YAML, e.g. examples/studies/main-table.yaml.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their expected time without starting any.")
    ] = False,
    power: Annotated[
        bool, typer.Option("--power", help="Compute the smallest differences that the study can see. Start no run.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Run on Ray: on this machine, or on a cluster.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for results.json. Default: runs/studies/NAME.")
    ] = None,
    keep_finished: Annotated[
        bool,
        typer.Option("--keep-finished", help="Use finished runs although the code of their method has changed since."),
    ] = False,
    as_json: AsJson = False,
) -> Reply:
    """Compare methods over orders, seeds, settings and models. Run it again after an interruption to continue."""
    from lifealign.core.progress import make_progress
    from lifealign.studies.engine import run_study

    document, lines, problems = run_study(
        file, dry_run=dry_run, power=power, ray=ray, out=out, keep_finished=keep_finished, progress=make_progress()
    )
    return Reply(document, lines, EXIT_USER_ERROR if problems else 0, problems)
