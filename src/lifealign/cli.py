"""The command line. See `commands` for the commands, `output` for what they print and how they end."""

from __future__ import annotations

from typing import Annotated

import typer

from lifealign.commands import comparing, history, judging, learning, measuring, rating, using

app = typer.Typer(
    name="lifealign",
    help="Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all.",
    no_args_is_help=True,
    add_completion=False,
    # Pretty tracebacks and rich help cost 0.2 s at every start.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (learning, measuring, comparing, judging, rating, history, using):
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lifealign {version('lifealign')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all."""


def main() -> None:
    """Entry point of the `lifealign` command."""
    app()


if __name__ == "__main__":
    main()
