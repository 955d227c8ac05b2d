"""The command that lists the strategies that can be used here, built in or added by others."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

_PAPER = re.compile(r"\barXiv +(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Described:
    """The parts of a strategy's docstring; None if it does not have the part.

    Attributes:
        summary: its first paragraph, which is one line.
        paper: arXiv number of the first paper that it cites.
        kept: what a memory keeps of each task for it.
        cost: training time relative to sequential tuning.
    """

    summary: str | None
    paper: str | None
    kept: str | None
    cost: str | None


def describe(docstring: str | None) -> Described:
    """Read a strategy's docstring: its first paragraph, and the paragraphs that begin with "Kept:" and "Cost:"."""
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))]
    paper = _PAPER.search(" ".join(paragraphs))
    return Described(
        summary=paragraphs[0] or None,
        paper=paper and f"arXiv {paper[1]}",
        kept=_part("Kept:", paragraphs),
        cost=_part("Cost:", paragraphs),
    )


def _part(title: str, paragraphs: Sequence[str]) -> str | None:
    found = (p.removeprefix(title).strip(" .") for p in paragraphs if p.startswith(title))
    return next(found, None) or None


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(strategies)


@command
def strategies(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Strategies to list: names, or path/to/file.py:Class. Default: all."),
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """List the strategies that a configuration can name. Show what each keeps and costs, and where it comes from."""
    from lifealign.strategies import STRATEGIES

    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    problems: list[str] = []
    for name in names or sorted(STRATEGIES):
        try:
            described = describe(vars(STRATEGIES.find(name)).get("__doc__"))
        except ConfigError as error:
            if names:
                raise
            problems.append(str(error))  # one broken distribution does not hide the others
            continue
        row = {"name": name, **asdict(described), "origin": str(STRATEGIES.origin(name))}
        rows.append(row)
        lines.append(f"{name} ({row['origin']}): {row['summary'] or '-'}")
        for key in ("paper", "kept", "cost"):
            lines += textwrap.wrap(f"{key}: {row[key] or '-'}", 110, initial_indent="    ", subsequent_indent="      ")
    return Reply(rows, lines, problems=list(dict.fromkeys([*problems, *STRATEGIES.problems()])))
