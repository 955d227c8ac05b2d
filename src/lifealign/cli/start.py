"""The start of the `lifealign` command: what a terminal, a pipe or a signal does to it, before anything else is imported.

Exit codes of this module: 128 and the number of the signal that stopped the command; 141 if nobody reads its output; 2 if
its output cannot be written.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from lifealign.core.errors import EXIT_USER_ERROR
from lifealign.core.stopping import asked, catch_signals

EXIT_NO_READER = 141
"""Of a process that SIGPIPE ends, as shells count."""


class Patient(io.FileIO):
    """A stream that keeps the first error of a write instead of raising it: a lost reader must not end the work.

    Attributes:
        error: of the first write that failed; None: none did.
    """

    error: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.error = self.error or error
            return len(memoryview(data))  # type: ignore[arg-type]


def main() -> None:
    """Entry point of the command."""
    if sys.platform == "win32":  # no atomic renames of directories, no signals, no `resource`
        sys.exit("lifealign: Windows is not supported; use it in WSL 2, where it runs as on Linux")
    catch_signals()
    output = _open_streams()
    code: int | str | None
    try:
        from lifealign.cli.app import main as run

        run()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        if asked() is None:
            raise
        # Whatever a library makes of a signal in the middle of its import, it is no bug.
        print("lifealign: stopped", file=sys.stderr)
        code = None
    if (number := asked()) is not None:
        code = 128 + number
    sys.exit(_ended(output, code))


def _open_streams() -> Patient:
    """Replace the standard streams by ones that no write can break; returns the raw standard output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: otherwise the next file would take its place, and get what is printed
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    output = _replace("stdout", 1)
    _replace("stderr", 2)
    return output


def _replace(name: str, descriptor: int) -> Patient:
    before = getattr(sys, name)
    encoding = "utf-8" if before is None else before.encoding
    raw = Patient(descriptor, "w", closefd=False)
    lines = raw.isatty() or name == "stderr"
    # A character that the terminal cannot show is written as its code.
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)
    setattr(sys, name, stream)
    return raw


def _ended(output: Patient, code: int | str | None) -> int | str | None:
    """The exit code, after the last output."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if output.error is None or code not in (0, None):
        return code
    if output.error.errno == errno.EPIPE:
        return EXIT_NO_READER
    print(f"lifealign: the output cannot be written: {output.error.strerror}", file=sys.stderr)
    return EXIT_USER_ERROR
