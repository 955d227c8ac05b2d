"""The command line: one module for each kind of command, and `output` for replies and exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer

from lifealign.cli import (
    annotate,
    answers,
    collect,
    drift,
    evaluate,
    history,
    judge,
    keeping,
    learn,
    recover,
    report,
    serve,
    strategies,
    study,
    use,
    view,
)
from lifealign.cli.help import Grouped
from lifealign.cli.output import EXIT_INTERRUPTED
from lifealign.core.json_codec import to_json

ClickException: Any = importlib.import_module(typer.BadParameter.__module__).ClickException
"""Base of all usage errors. Typer does not export it. Depending on typer's version, click is a separate package or part
of typer; either way the class is in the module that defines `BadParameter`."""

app = typer.Typer(
    name="lifealign",
    help="Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all.",
    cls=Grouped,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Pretty tracebacks and rich help cost 0.2 s at every start.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    learn,
    collect,
    drift,
    evaluate,
    report,
    view,
    study,
    answers,
    judge,
    annotate,
    history,
    recover,
    keeping,
    use,
    serve,
    strategies,
):
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lifealign {version('lifealign')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all."""


def main() -> None:
    """Entry point of the `lifealign` command. With --json, usage errors are also printed as one JSON document."""
    try:
        code = app(standalone_mode=False)
    except ClickException as error:
        error.show()
        code = error.exit_code
        if "--json" in sys.argv:
            typer.echo(to_json({"error": error.format_message(), "exit_code": code}))
    except typer.Abort:
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
