"""A disk that fails at the n-th call: functions of `os` and of files that are counted, refused, cut short or fatal."""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

CALLS = (
    "open",
    "write",
    "fsync",
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "scandir",
    "listdir",
    "stat",
    "lstat",
)
"""Functions of `os` that are counted; `read` is counted at the opening of a file for reading."""
CHANGES = ("write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
ERRNOS = ("ENOSPC", "EDQUOT", "EIO", "EACCES")

Strike = Callable[[int, str, tuple[Any, ...]], Any]


@contextmanager
def watched(below: Path, strike: Strike, names: tuple[str, ...] = CALLS) -> Iterator[None]:
    """Call `strike(number, name, arguments)` before every call on a path below `below`, or on a file opened there.

    What it returns, if not None, is returned by the call.
    """
    count = 0
    top = str(below.resolve())
    target = os.readlink

    def ours(argument: Any) -> bool:
        if isinstance(argument, int):  # a descriptor, which may have been another file's before
            with suppress(OSError):
                return target(f"/proc/self/fd/{argument}").startswith(top)
            return False
        return isinstance(argument, str | os.PathLike) and str(argument).startswith(top)

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if not args or not ours(args[0]):
                return real(*args, **kwargs)
            if name in names:
                number, count = count, count + 1
                given = strike(number, name, args)
                if given is not None:
                    return given
            return real(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, wrap(name, getattr(os, name))))
        stack.enter_context(patch.object(io, "open", wrap("open", io.open)))
        yield


def count_calls(below: Path, action: Callable[[], object], names: tuple[str, ...] = CALLS) -> list[str]:
    """Names of the calls that an action makes, in order."""
    found: list[str] = []
    with watched(below, lambda number, name, args: found.append(name), names):
        action()
    return found


def refuse(at: int, code: str) -> Strike:
    """Fail the call of this number, as the operating system does; `short`: write one byte and then fail."""
    write = os.write

    def strike(number: int, name: str, args: tuple[Any, ...]) -> Any:
        if number != at:
            return None
        if code == "short":
            return write(args[0], bytes(args[1])[:1]) if name == "write" else None
        value = getattr(errno, code)
        path = args[0] if isinstance(args[0], str | os.PathLike) else None
        raise OSError(value, os.strerror(value), path) if path is not None else OSError(value, os.strerror(value))

    return strike


def kill(at: int) -> Strike:
    """End the process at the call of this number, without any clean-up; a write is torn in half."""
    write = os.write

    def strike(number: int, name: str, args: tuple[Any, ...]) -> Any:
        if number == at:
            if name == "write":
                write(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return strike
