"""Serve a web application until the process is told to stop; requests that are running are finished first. No torch."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

MOST_CONNECTIONS = 1_000
"""At once; more are answered with 503."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: browsers would then send forms with an origin of null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every page that a server of ours gives; its content policy is the page's own."""


def serve_app(app: Any, listening: socket.socket, *, grace: int) -> None:
    """Serve until a signal comes (see `core.stopping`); then accept no more requests and finish those that run.

    Args:
        app: an ASGI application.
        listening: socket to serve on.
        grace: seconds that running requests have left after the signal.

    Raises:
        ModuleNotFoundError: uvicorn is not installed.
        KeyboardInterrupt: a signal came, and the server has ended.
    """
    import uvicorn

    # No access log: it would hold personal links. No proxy headers: they could be forged.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=grace,
    )
    server = uvicorn.Server(config)
    with _hang_up_stops(server):
        server.run(sockets=[listening])


@contextlib.contextmanager
def _hang_up_stops(server: Any) -> Iterator[None]:
    """Let SIGHUP end the server as SIGTERM does, of which alone uvicorn knows, and raise it again afterwards."""
    number = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    came = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = server.should_exit = True

    if before is not signal.SIG_IGN:
        signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)
    if came:
        signal.raise_signal(number)
