"""Open a memory for serving, and serve it until the process is told to stop."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lifealign.core.addresses import LOOPBACK, check_address, listen
from lifealign.core.errors import ConfigError
from lifealign.core.progress import Progress
from lifealign.core.stopping import exit_code
from lifealign.core.web import serve_app
from lifealign.memory.serving.feedback import Feedback
from lifealign.memory.serving.points import Points

if TYPE_CHECKING:
    from lifealign.memory.serving.exchange import Service

GRACE = 300
"""Seconds that running answers have left when the server is told to stop; a client that stops reading must not keep it."""
POLL = 1.0
"""Seconds between two looks at the memory while nobody asks."""


@dataclass(frozen=True)
class Request:
    """What is served, and where; see the options of `lifealign serve`."""

    memory: Path
    host: str = "127.0.0.1"
    port: int = 8600
    allow_remote: bool = False
    key_env: str | None = None
    batch_size: int = 16
    max_tokens: int = 512
    feedback: Path | None = None

    def key(self) -> str | None:
        """The key that clients must send.

        Raises:
            ConfigError: its variable is not set, or others can reach the server without a key.
        """
        if self.key_env is None:
            if self.host not in LOOPBACK:
                raise ConfigError(
                    "--allow-remote: whoever reaches the server could use it; set a key with --key-env NAME"
                )
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:  # the value is not shown: it may be the key itself
            raise ConfigError("--key-env: the environment variable of this name is not set or empty; set it to the key")
        return key


def serve(
    request: Request, points: Points, progress: Progress, started: Callable[[int], None]
) -> tuple[Mapping[str, int], int]:
    """Serve a memory until the process is told to stop (see `core.stopping`); requests that run are finished first.

    Args:
        request: see `Request`.
        points: of the memory, whose gates hold.
        progress: where to report.
        started: called with the port as soon as a client can connect.

    Returns:
        Number of answers given and votes taken, and the exit code of the signal that ended it.

    Raises:
        ConfigError: a package is not installed, or an option cannot be used.
        UserError: the memory or its model cannot be loaded.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"package {error.name}, which the server needs, is not installed; run pip install 'lifealign[serve]'"
        ) from None
    risk = "everything is then sent unencrypted, unless a proxy adds TLS"
    check_address(request.host, request.allow_remote, risk)
    key = request.key()
    with (
        contextlib.closing(listen(request.host, request.port)) as listening,
        opened(request, points, key, progress) as service,
    ):
        from lifealign.memory.serving.app import create_app

        started(int(listening.getsockname()[1]))
        code = 0
        try:
            serve_app(create_app(service), listening, grace=GRACE)
        except KeyboardInterrupt as stop:
            code = exit_code(stop)
        votes = 0 if service.feedback is None else service.feedback.votes
    return {"answers": service.engine.answered, "votes": votes}, code


@contextlib.contextmanager
def opened(request: Request, points: Points, key: str | None, progress: Progress) -> Iterator[Service]:
    """The loaded model and everything around it, for as long as a server runs.

    Raises:
        ConfigError: the file of votes cannot be used.
        UserError: the memory or its model cannot be loaded.
    """
    from lifealign.memory.api import Memory
    from lifealign.memory.serving.engine import Engine
    from lifealign.memory.serving.exchange import Service

    feedback = None if request.feedback is None else Feedback(request.feedback)
    if feedback is not None and feedback.note:
        progress.say(f"warning: {feedback.note}")
    session = Memory.open(request.memory).loaded(progress)
    engine = Engine(session, request.batch_size)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(points, stop), name="lifealign-watch", daemon=True)
    watcher.start()
    try:
        yield Service(points, engine, feedback, key, request.host not in LOOPBACK, request.max_tokens)
    finally:
        stop.set()
        watcher.join()
        engine.close()
        if feedback is not None:
            feedback.close()


def _watch(points: Points, stop: threading.Event) -> None:
    while not stop.wait(POLL):
        points.refresh()
