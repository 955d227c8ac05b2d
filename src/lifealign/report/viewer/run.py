"""Start the viewer, and serve until the process is told to stop."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from lifealign.core.addresses import LOOPBACK, check_address, listen, url_of
from lifealign.core.errors import ConfigError
from lifealign.core.stopping import exit_code
from lifealign.core.web import serve_app
from lifealign.report.viewer.pages import Shelf, StudyPages

GRACE = 1
"""Seconds that open streams have left when the server is told to stop."""


def view(
    root: Path, studies: StudyPages, host: str, port: int, allow_remote: bool, started: Callable[[str], None]
) -> int:
    """Serve the pages of everything below a folder until the process is told to stop (see `core.stopping`).

    Args:
        root: the folder; or one memory.
        studies: what shows a study.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        allow_remote: whether others may reach the address.
        started: called with the link as soon as a browser can open it.

    Returns:
        The exit code of the signal that ended it.

    Raises:
        ConfigError: no such folder, a package is not installed, or the address cannot be used.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; give one that holds memories or studies, such as runs")
    check_address(host, allow_remote, "the link and the pages are then sent unencrypted, unless a proxy adds TLS")
    try:
        import uvicorn  # noqa: F401

        from lifealign.report.viewer.app import Viewer, create_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"package {error.name}, which the viewer needs, is not installed; run pip install 'lifealign[serve]'"
        ) from None
    token = secrets.token_urlsafe(24)
    app = create_app(Viewer(Shelf(root, studies), token, host not in LOOPBACK))
    with contextlib.closing(listen(host, port)) as listening:
        started(f"{url_of(host, int(listening.getsockname()[1]))}/open/{token}")
        try:
            serve_app(app, listening, grace=GRACE)
        except KeyboardInterrupt as stop:
            return exit_code(stop)
    return 0
