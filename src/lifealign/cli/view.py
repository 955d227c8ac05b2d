"""The command that serves the pages of memories and studies on this machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from lifealign.cli.options import AsJson, N
from lifealign.cli.output import command
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(view)


@command
def view(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with memories, studies and files of answers, e.g. runs.")
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar=N, help="Port to listen on; 0 picks a free one.")
    ] = 8700,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow an address that others can reach.")
    ] = False,
    as_json: AsJson = False,
) -> Reply:
    """Show memories and studies in a browser. Nothing is changed."""
    from lifealign.report.viewer import run
    from lifealign.report.viewer.pages import StudyPages

    def started(link: str) -> None:
        typer.echo(f"open {link}; press Ctrl-C to stop", err=True)

    pages = StudyPages(_study_values, _study_page)
    code = run.view(directory, pages, host, port, allow_remote, started)
    return Reply({"directory": directory}, ["stopped"], code)


def _study_values(path: Path) -> dict[str, Any]:
    from lifealign.studies.report.write import read_results

    found = read_results(path)
    return {
        "study": found["study"],
        "states": dict(Counter(str(run.get("status")) for run in found["runs"])),
        "methods": list(dict.fromkeys(str(run.get("method")) for run in found["runs"])),
    }


def _study_page(path: Path) -> str:
    from lifealign.studies.report.write import read_results, render_html

    return render_html(read_results(path))
