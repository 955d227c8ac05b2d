"""Commands about answers rated by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

Database = Annotated[Path, typer.Option("--db", metavar="FILE", help="SQLite file of the questions and ratings.")]
Answers = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="ANSWERS...", help="Answers (jsonl, parquet) of `lifealign answers`; none: go on with --db."
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHO",
        help="Whose answers: a source, @POINT or SOURCE@POINT; repeats. Default: all, of a comparison two.",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="pairwise|absolute", help="Default: pairwise; with --rubric and no --compare what the rubric says."
    ),
]
Rubrics = Annotated[
    list[str] | None,
    typer.Option(
        "--rubric",
        metavar="[TASK=]RUBRIC",
        help="A built-in rubric or a YAML file, for all tasks or one; repeats. Default: what fits each task.",
    ),
]
Annotators = Annotated[
    list[str] | None, typer.Option("--annotator", metavar="NAME", help="Gets a personal link; repeats.")
]
Count = Annotated[int | None, typer.Option(min=1, help="Questions, drawn evenly over the tasks; default: all.")]
Overlap = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of the questions that everybody gets; the others go to one.")
]
Gold = Annotated[
    int, typer.Option(min=0, help="Questions of known result, from held-out rows, added to see who pays attention.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn: questions, their order, sides.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Permit an address that others can reach.")]
Prepare = Annotated[bool, typer.Option("--prepare", help="Make the questions and the links; serve nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(annotate)
    group = typer.Typer(help="What people said to the questions of `annotate`.", no_args_is_help=True)
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
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Port = 8500,
    allow_remote: AllowRemote = False,
    prepare: Prepare = False,
    as_json: AsJson = False,
) -> Reply:
    """Serve a page on which people compare or score answers, blind. Stopped and started again, it goes on."""
    from lifealign.judging.people import run

    run.check_address(host, allow_remote)
    if prepare and port == 0:
        raise ConfigError("--prepare makes links for a port: give the one that will be used")
    request = run.BatchRequest(
        source or (), annotator or (), compare or (), mode, rubric or (), count, gold, overlap, seed
    )
    ratings = run.prepare(db, request)
    found: dict[str, str] = {}

    def started(actual: int) -> None:
        found.update(run.links(ratings, host, actual))
        for name, link in found.items():
            done, total = ratings.progress(name)
            typer.echo(f"{name}: {link} ({done} of {total} rated)", err=True)
        if not prepare:
            typer.echo("serving; Ctrl-C stops, and every rating is saved at once", err=True)

    if prepare:
        started(port)
    else:
        run.serve(ratings, host, port, started=started)
    progress = {name: ratings.progress(name) for name in ratings.annotators()}
    document = {
        "db": db,
        "mode": ratings.mode,
        "links": found,
        "annotators": {name: {"rated": done, "assigned": total} for name, (done, total) in progress.items()},
    }
    return Reply(document, [f"{name}: {done} of {total} rated" for name, (done, total) in progress.items()])


@command
def export(
    db: Database,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the ratings, as jsonl.")],
    as_json: AsJson = False,
) -> Reply:
    """Write the ratings as jsonl, one a line."""
    from lifealign.core.files import keep_apart
    from lifealign.judging.people.database import Ratings
    from lifealign.judging.people.export import export_rows, write_rows

    keep_apart(out, db)
    rows = export_rows(Ratings.open(db))
    write_rows(out, rows)
    return Reply({"out": out, "ratings": len(rows)}, [f"{len(rows)} ratings written: {out}"])


@command
def summary(
    db: Database,
    judgements: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Judgements of `lifealign judge`, to see how far they agree; repeats."),
    ] = None,
    min_gold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Leave out who got a smaller share of the gold questions right.")
    ] = 0.0,
    as_json: AsJson = False,
) -> Reply:
    """Who wins, how far people agree, and how far judge models agree with them."""
    from lifealign.judging.llm.judgements import read_judgements
    from lifealign.judging.people.database import Ratings
    from lifealign.judging.people.summary import summarise, summary_lines

    judged = [one for path in judgements or () for one in read_judgements(path)]
    document = summarise(Ratings.open(db), judged, min_gold)
    return Reply(document, summary_lines(document))
