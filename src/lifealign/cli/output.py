"""A command's answer and how it ends: one JSON document or lines on stdout, one message on stderr, an exit code.

Exit codes: 0 done; 2 a mistake of the user; 3 a gate that did not hold; 130 stopped by Ctrl-C. A bug keeps its
traceback.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import typer

from lifealign.core.errors import EXIT_USER_ERROR, UserError

EXIT_INTERRUPTED = 130
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR})
"""What an operating system refuses for reasons outside of this program."""

P = ParamSpec("P")


@dataclass(frozen=True)
class Answer:
    """What a command has to say.

    Attributes:
        document: for ``--json``.
        lines: for people.
        exit_code: 0, or the kind of the problems.
        problems: what is wrong although there is an answer; each goes to stderr.
    """

    document: Any
    lines: Sequence[str]
    exit_code: int = 0
    problems: Sequence[str] = ()


def answers(command: Callable[P, Answer]) -> Callable[P, None]:
    """Print a command's answer, or its one message, and exit with the right code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json", False))
        try:
            # Whatever a library prints while a command works is no part of the answer.
            with contextlib.redirect_stdout(sys.stderr):
                answer = command(*args, **kwargs)
        except UserError as error:
            _fail(str(error), error.exit_code, as_json)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            _fail(f"{error.filename or 'a file'}: {error.strerror}", EXIT_USER_ERROR, as_json)
        except KeyboardInterrupt:
            _fail("stopped; run the same command again to go on", EXIT_INTERRUPTED, as_json)
        else:
            typer.echo(to_json(answer.document) if as_json else "\n".join(answer.lines))
            for problem in answer.problems:
                typer.echo(f"lifealign: {problem}", err=True)
            raise typer.Exit(answer.exit_code)

    return wrapper


def _fail(message: str, exit_code: int, as_json: bool) -> None:
    typer.echo(f"lifealign: {message}", err=True)
    if as_json:
        typer.echo(to_json({"error": message, "exit_code": exit_code}))
    raise typer.Exit(exit_code)


def to_json(value: Any) -> str:
    """One JSON document; a number that is not finite becomes null (a missing score is not zero)."""

    def plain(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {str(key): plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return str(item) if isinstance(item, Path) else item

    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
