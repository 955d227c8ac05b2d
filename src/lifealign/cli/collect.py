"""`lifealign collect`: rows from the log of an application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

Log = Annotated[
    str, typer.Argument(metavar="LOG", help="Records of requests and feedback: a jsonl, json, parquet or csv file.")
]
Out = Annotated[Path, typer.Option(metavar="ROWS", help="Write the rows to this jsonl file, and a report beside it.")]
Feedback = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Field, score or question with the verdict. Default: by the usual names."),
]
GoodFrom = Annotated[
    float | None,
    typer.Option(metavar="X", help="Numbers from X on are a thumb up. Default: by the numbers of the file."),
]
BadTo = Annotated[
    float | None, typer.Option(metavar="Y", help="Numbers up to Y are a thumb down. Default: below --good-from.")
]
Agreed = Annotated[
    str | None,
    typer.Option(metavar="FIELD[=VALUE]", help="Take only records in which this field means yes, or has this value."),
]
Since = Annotated[str | None, typer.Option(metavar="DATE", help="Take only records from this date or time on.")]
Until = Annotated[str | None, typer.Option(metavar="DATE", help="Take only records up to this date or time.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Take only answers of this model.")]
RedactBy = Annotated[
    str | None,
    typer.Option("--redact", metavar="presidio", help="Replace personal data by placeholders such as <PERSON_1>."),
]
Entities = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Kinds that --redact replaces, e.g. EMAIL_ADDRESS,PERSON. Default: see the documents."
    ),
]
SpacyModel = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Installed spaCy model with which --redact finds names and places."),
]
Language = Annotated[str, typer.Option(metavar="CODE", help="Language of the texts for --redact.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite ROWS.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(collect)


@command
def collect(
    log: Log,
    out: Out,
    feedback: Feedback = None,
    good_from: GoodFrom = None,
    bad_to: BadTo = None,
    consent: Agreed = None,
    since: Since = None,
    until: Until = None,
    model: Model = None,
    redact: RedactBy = None,
    entities: Entities = None,
    spacy_model: SpacyModel = None,
    language: Language = "en",
    force: Force = False,
    as_json: AsJson = False,
) -> Reply:
    """Turn chat logs with thumbs and edits into rows of a task."""
    from lifealign.core.progress import make_progress
    from lifealign.data.collecting import collect as collecting
    from lifealign.data.collecting.presidio import Presidio
    from lifealign.data.collecting.selecting import Consent, Selection, parse_bound

    if redact not in (None, "presidio"):
        raise ConfigError(f"--redact {redact}: allowed: presidio")
    for option, value in (("--entities", entities), ("--spacy-model", spacy_model)):
        if value is not None and redact is None:
            raise ConfigError(f"{option} {value}: it belongs to --redact presidio, which is not given")
    selection = Selection(
        Consent.parse(consent) if consent is not None else None,
        parse_bound(since, "--since") if since is not None else None,
        parse_bound(until, "--until") if until is not None else None,
        model,
    )
    options = collecting.Options(selection, feedback, good_from, bad_to)
    collecting.check_target(out, log, force)
    kinds = [kind.strip() for kind in (entities or "").split(",") if kind.strip()]
    redactor = Presidio(kinds, language, spacy_model) if redact is not None else None
    report = collecting.collect(log, out, options, redactor, make_progress())
    written = [f"written: {out}", f"report: {collecting.beside(out)}"]
    return Reply({**report.to_json(), "out": out}, [*report.lines(), *written])
