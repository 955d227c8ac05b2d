"""How a command replies and ends: one JSON document or lines on stdout, one message on stderr, an exit code.

Exit codes: 0 done; 2 user error; 3 a gate failed; 130, 143, 129 stopped by SIGINT (Ctrl-C), SIGTERM, SIGHUP; those of
`start`. A bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from lifealign.core.errors import EXIT_USER_ERROR, UserError
from lifealign.core.json_codec import to_json
from lifealign.core.reply import Reply
from lifealign.core.stopping import exit_code

EXIT_INTERRUPTED = 130
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR})
"""Errors of the operating system whose cause is outside this program."""

P = ParamSpec("P")


def command(function: Callable[P, Reply]) -> Callable[P, None]:
    """Print a command's reply, or its error message, and exit with the right code."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json", False))
        try:
            # Output that a library prints while a command runs is not part of the reply.
            with contextlib.redirect_stdout(sys.stderr):
                reply = function(*args, **kwargs)
        except UserError as error:
            _fail(str(error), error.exit_code, as_json)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            _fail(f"{error.filename or 'a file'}: {error.strerror}", EXIT_USER_ERROR, as_json)
        except KeyboardInterrupt as stop:
            _fail("stopped; run the same command again to continue", exit_code(stop), as_json)
        else:
            echo(to_json(reply.document) if as_json else "\n".join(reply.lines))
            for problem in reply.problems:
                typer.echo(f"lifealign: {problem}", err=True)
            raise typer.Exit(reply.exit_code)

    return wrapper


def coloured(text: str, kind: str) -> str:
    """Text in the colour of a gain, a loss or a doubt; `typer.echo` takes colours out again where no terminal shows them."""
    return typer.style(text, fg={"gain": "green", "loss": "red"}.get(kind, "yellow"))


def echo(text: str) -> None:
    """Print to stdout; in colour on a terminal, unless `NO_COLOR` is set (no-color.org)."""
    typer.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def _fail(message: str, code: int, as_json: bool) -> None:
    typer.echo(f"lifealign: {message}", err=True)
    if as_json:
        typer.echo(to_json({"error": message, "exit_code": code}))
    raise typer.Exit(code)
