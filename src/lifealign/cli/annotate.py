"""Commands about answers rated by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson, N
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

Database = Annotated[Path, typer.Option("--db", metavar="FILE", help="SQLite file for the questions and ratings.")]
Answers = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="ANSWERS",
        help="Files (jsonl, parquet) from `lifealign answers`; leave out to continue with the questions in --db.",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHO",
        help="Answers to use: SOURCE, @POINT or SOURCE@POINT; repeatable. Default: all (in pairwise mode, only if there are two).",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="pairwise|absolute",
        help="Compare two answers, or score one. Default: pairwise; with --rubric and no --compare, the rubric's mode.",
    ),
]
Rubrics = Annotated[
    list[str] | None,
    typer.Option(
        "--rubric",
        metavar="[TASK=]RUBRIC",
        help="Built-in rubric or YAML file, for all tasks or one; repeatable. Default: each task's own rubric.",
    ),
]
Annotators = Annotated[
    list[str] | None, typer.Option("--annotator", metavar="NAME", help="Person who gets a personal link; repeatable.")
]
Count = Annotated[
    int | None, typer.Option(min=1, metavar=N, help="Number of questions, drawn evenly over the tasks. Default: all.")
]
Overlap = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Share of the questions that go to everybody; each of the others goes to one person.",
    ),
]
Gold = Annotated[
    int,
    typer.Option(
        min=0,
        metavar=N,
        help="Number of questions with a known result to add, from held-out rows; they show who pays attention.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar=N, help="Seed for drawing questions, their order and their sides.")]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar=N, help="Port to listen on; 0 picks a free one.")]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Allow an address that others can reach.")]
Prepare = Annotated[bool, typer.Option("--prepare", help="Make the questions and links without serving the page.")]

MinGold = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Leave out people who got a smaller share of the gold questions right.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(annotate)
    group = typer.Typer(help="Export or summarise the ratings that `annotate` collected.", no_args_is_help=True)
    group.command()(export)
    group.command()(summary)
    app.add_typer(group, name="ratings")


@command
def annotate(
    db: Database,
    source: Answers = None,
    compare: Compare = None,
    mode: Mode = None,
    rubric: Rubrics = None,
    annotator: Annotators = None,
    count: Count = None,
    overlap: Overlap = 1.0,
    gold: Gold = 0,
    seed: Seed = 0,
    host: Host = "127.0.0.1",
    port: Port = 8500,
    allow_remote: AllowRemote = False,
    prepare: Prepare = False,
    as_json: AsJson = False,
) -> Reply:
    """Serve a page where people compare or score answers blind. Run it again to continue."""
    from lifealign.core.addresses import check_address
    from lifealign.judging.people import run

    check_address(host, allow_remote, "the links are then sent unencrypted, unless a proxy adds TLS")
    if prepare and port == 0:
        raise ConfigError("--prepare cannot make links for --port 0; give the port that the page will be served on")
    request = run.BatchRequest(
        source or (), annotator or (), compare or (), mode, rubric or (), count, gold, overlap, seed
    )
    ratings = run.prepare(db, request)
    found: dict[str, str] = {}

    def started(actual: int, overview: str | None = None) -> None:
        from lifealign.judging.people.views import shows_references

        found.update(run.links(ratings, host, actual))
        for name, link in found.items():
            done, total = ratings.progress(name)
            typer.echo(f"{name}: {link} ({done} of {total} rated)", err=True)
        if not prepare:
            typer.echo("serving; press Ctrl-C to stop (every rating is saved at once)", err=True)
        if overview is not None:
            typer.echo(f"how far everybody is, for you: {overview}", err=True)
        if not shows_references(ratings.questions()):
            typer.echo("reference answers are not shown: the lack of one would tell which questions are gold", err=True)

    code = 0
    if prepare:
        started(port)
    else:
        code = run.serve(ratings, host, port, started=started)
    progress = {name: ratings.progress(name) for name in ratings.annotators()}
    document = {
        "db": db,
        "mode": ratings.mode,
        "links": found,
        "annotators": {name: {"rated": done, "assigned": total} for name, (done, total) in progress.items()},
    }
    return Reply(document, [f"{name}: {done} of {total} rated" for name, (done, total) in progress.items()], code)


@command
def export(
    db: Database,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the ratings to this jsonl file.")],
    form: Annotated[
        str,
        typer.Option(
            "--as", metavar="ratings|pairs", help="Write each rating, or rows for `learn`: the preferred answers."
        ),
    ] = "ratings",
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Smallest share of the ratings for the preferred answer. Default: more than half.",
        ),
    ] = None,
    min_gold: MinGold = 0.0,
    as_json: AsJson = False,
) -> Reply:
    """Write the ratings as jsonl, or as rows to learn from."""
    from lifealign.core.files import keep_apart
    from lifealign.judging.people.database import Ratings
    from lifealign.judging.people.export import export_rows, write_rows
    from lifealign.judging.people.pairs import pair_rows

    if form not in ("ratings", "pairs"):
        raise ConfigError(f"--as {form!r}: expected ratings or pairs")
    keep_apart(out, db)
    if form == "pairs":
        found = pair_rows(Ratings.open(db), min_agreement, min_gold)
        write_rows(out, found.rows)
        count = len(found.rows)
        lines = [f"{count} row{'' if count == 1 else 's'} written: {out}", *found.lines()]
        return Reply({"out": out, **found.to_json()}, lines)
    for option, given in (("--min-agreement", min_agreement), ("--min-gold", min_gold)):
        if given:
            raise ConfigError(f"{option} has no effect on single ratings; add --as pairs")
    rows = export_rows(Ratings.open(db))
    write_rows(out, rows)
    return Reply({"out": out, "ratings": len(rows)}, [f"{len(rows)} ratings written: {out}"])


@command
def summary(
    db: Database,
    judgements: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Judgements from `lifealign judge` to compare with the ratings; repeatable."),
    ] = None,
    min_gold: MinGold = 0.0,
    as_json: AsJson = False,
) -> Reply:
    """Show who wins and how far people and judges agree."""
    from lifealign.judging.llm.judgements import read_judgements
    from lifealign.judging.people.database import Ratings
    from lifealign.judging.people.summary import summarise, summary_lines

    judged = [one for path in judgements or () for one in read_judgements(path)]
    document = summarise(Ratings.open(db), judged, min_gold)
    return Reply(document, summary_lines(document))
