"""Make or open a batch of questions, and serve it. No torch."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifealign.core.errors import ConfigError, StoreError
from lifealign.data.answers import AnswerRecord, read_answers
from lifealign.judging.people import LOOPBACK
from lifealign.judging.people.batch import Batch, Mode, make_batch
from lifealign.judging.people.database import Ratings
from lifealign.judging.rubrics import Rubric, load_rubric, parse_rubrics


@dataclass(frozen=True)
class BatchRequest:
    """What the command line says of a batch; see the options of `lifealign annotate`."""

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
        """An option that was given and is of no use without answers; None: there is none."""
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
    """The batch of a file: opened where there is one, and made where there is none.

    Raises:
        UserError: nothing to make it of, or what is given makes another batch than the one that is there.
    """
    if not request.sources:
        if odd := request.needs_answers():
            raise ConfigError(f"--{odd} says what is asked, so it goes with ANSWERS")
        ratings = Ratings.open(db)
    else:
        batch = _batch(request)
        if not db.exists():
            return Ratings.create(db, batch, request.annotators or ["annotator"], request.overlap)
        ratings = Ratings.open(db)
        if (ratings.digest, ratings.overlap) != (batch.digest, request.overlap):
            raise StoreError(
                f"{db}: holds other questions than these answers and options make; leave ANSWERS out to go on with it, "
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


def check_address(host: str, allow_remote: bool) -> None:
    """Refuse an address that others can reach, unless that is wanted.

    Raises:
        ConfigError: says which option allows it.
    """
    if host not in LOOPBACK and not allow_remote:
        raise ConfigError(
            f"--host {host}: others could reach it; --allow-remote permits that (the links go over the network "
            f"unencrypted, unless a proxy adds TLS). Without: {', '.join(LOOPBACK)}"
        )
    if host in LOOPBACK and allow_remote:
        raise ConfigError(f"--allow-remote: {host} cannot be reached from elsewhere; give --host too, e.g. 0.0.0.0")


def links(ratings: Ratings, host: str, port: int) -> dict[str, str]:
    """Annotator -> personal link."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    address = f"[{name}]" if ":" in name else name
    return {who: f"http://{address}:{port}/join/{token}" for who, token in ratings.annotators().items()}


def serve(ratings: Ratings, host: str, port: int, *, started: Callable[[int], None]) -> None:
    """Serve the page until the process is told to stop (Ctrl-C).

    Args:
        ratings: where ratings are kept.
        host: address to listen at.
        port: 0 takes a free one.
        started: called with the port, once a browser can connect.

    Raises:
        ConfigError: the packages are not installed, or the address cannot be used.
    """
    try:
        import uvicorn

        from lifealign.judging.people.server import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page for annotators needs {error.name}, which is not installed: pip install 'lifealign[annotate]'"
        ) from None
    with contextlib.closing(_listen(host, port)) as listening:
        app = create_app(ratings, any_host=host not in LOOPBACK)
        # No access log: it would hold the links. No proxy headers: nobody vouches for them.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=3,
        )
        started(int(listening.getsockname()[1]))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        # From here on a browser that is quick waits for the server instead of being refused.
        found.listen(128)
    except OSError as error:
        found.close()
        raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from None
    return found
