"""Make or open a batch of questions, and serve it. No torch."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.addresses import LOOPBACK, listen, url_of
from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.stopping import exit_code
from lifealign.core.web import serve_app
from lifealign.data.answers import AnswerRecord, read_answers
from lifealign.judging.people.batch import Batch, Mode, make_batch
from lifealign.judging.people.database import Ratings
from lifealign.judging.rubrics import Rubric, load_rubric, parse_rubrics

GRACE = 3
"""Seconds that a form on its way has left when the server is told to stop."""


@dataclass(frozen=True)
class BatchRequest:
    """Batch requested on the command line; see the options of `lifealign annotate`."""

    sources: Sequence[Path]
    annotators: Sequence[str]
    compare: Sequence[str] = ()
    mode: str | None = None
    rubrics: Sequence[str] = ()
    count: int | None = None
    gold: int = 0
    overlap: float = 1.0
    seed: int = 0

    def needs_answers(self) -> str | None:
        """An option that was given but has no effect without answers; None if there is none."""
        given = {
            "compare": self.compare,
            "mode": self.mode,
            "rubric": self.rubrics,
            "count": self.count,
            "gold": self.gold,
            "overlap": self.overlap != 1,
            "seed": self.seed,
        }
        return next((name for name, value in given.items() if value), None)


def prepare(db: Path, request: BatchRequest) -> Ratings:
    """Open the batch of a file, or make it if the file does not exist.

    Raises:
        UserError: no answers to make it from, or the answers and options make another batch than the stored one.
    """
    if not request.sources:
        if odd := request.needs_answers():
            raise ConfigError(f"--{odd} has no effect without ANSWERS; add files of answers, or leave it out")
        ratings = Ratings.open(db)
    else:
        batch = _batch(request)
        if not db.exists():
            return Ratings.create(db, batch, request.annotators or ["annotator"], request.overlap)
        ratings = Ratings.open(db)
        if (ratings.digest, ratings.overlap) != (batch.digest, request.overlap):
            raise StoreError(
                f"{db}: holds questions from other answers or options; leave ANSWERS out to continue with them, "
                "or give another --db"
            )
    for name in request.annotators:
        if name not in ratings.annotators():
            ratings.add_annotator(name)
    return ratings


def _batch(request: BatchRequest) -> Batch:
    name, names = parse_rubrics(request.rubrics)
    general = load_rubric(name) if name is not None else None
    by_task = {task: load_rubric(text) for task, text in names.items()}
    return make_batch(
        _read_all(request.sources),
        mode=_mode(request, general),
        groups=request.compare,
        rubric=general,
        task_rubrics=by_task,
        count=request.count,
        gold=request.gold,
        seed=request.seed,
    )


def _read_all(paths: Sequence[Path]) -> list[AnswerRecord]:
    # The same answer in two files is one answer.
    return list({record.id: record for path in paths for record in read_answers(path)}.values())


def _mode(request: BatchRequest, rubric: Rubric | None) -> Mode:
    if request.mode is None:
        return rubric.mode if rubric and not request.compare else "pairwise"
    if request.mode not in ("pairwise", "absolute"):
        raise ConfigError(f"--mode {request.mode!r}: allowed: pairwise, absolute")
    return "absolute" if request.mode == "absolute" else "pairwise"


# --- serving ---


def links(ratings: Ratings, host: str, port: int) -> dict[str, str]:
    """Annotator -> personal link."""
    return {who: f"{url_of(host, port)}/join/{token}" for who, token in ratings.annotators().items()}


def serve(ratings: Ratings, host: str, port: int, *, started: Callable[[int, str], None]) -> int:
    """Serve the page until the process is told to stop (see `core.stopping`).

    Args:
        ratings: the store of the ratings.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        started: called with the port and the link of the overview as soon as a browser can connect.

    Returns:
        The exit code of the signal that ended it.

    Raises:
        ConfigError: a package is not installed, or the address cannot be used.
    """
    try:
        import uvicorn  # noqa: F401

        from lifealign.judging.people.server import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"package {error.name}, which the page for annotators needs, is not installed; "
            "run pip install 'lifealign[annotate]'"
        ) from None
    with contextlib.closing(listen(host, port)) as listening:
        overview = secrets.token_urlsafe(24)
        app = create_app(ratings, any_host=host not in LOOPBACK, overview=overview)
        actual = int(listening.getsockname()[1])
        started(actual, f"{url_of(host, actual)}/overview/{overview}")
        try:
            serve_app(app, listening, grace=GRACE)
        except KeyboardInterrupt as stop:
            return exit_code(stop)
    return 0
