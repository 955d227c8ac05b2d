"""Signals that ask the process to stop: SIGINT, SIGTERM and SIGHUP end a command alike, each with its own exit code.

A signal becomes `Stopped`, which is a `KeyboardInterrupt`, so that whatever cleans up after Ctrl-C does so after the others
too. Work that can save what it has reached holds the signal back for a moment (`held`). This module imports no torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
"""What stops a command; its exit code is then 128 and the signal's number: 130, 143, 129."""
T = TypeVar("T")
AGAIN = 0.2
"""Seconds after which a signal that got lost is sent again."""


class Stopped(KeyboardInterrupt):
    """The process was asked to stop.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """The signal that came, and whether it waits.

    Attributes:
        number: of the first signal; None: none came.
        held: how many blocks hold it back.
        wake: called when a signal comes that is held back; None: nothing is.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = 0
        self.wake: Callable[[], object] | None = None


_state = _State()


def exit_code(error: KeyboardInterrupt) -> int:
    """The exit code of a command that this ended."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def asked() -> int | None:
    """The number of the signal that asked the process to stop; None: none did."""
    return _state.number


def catch_signals() -> None:
    """From now on the signals raise `Stopped` in the main thread; one that the caller ignores (nohup) stays ignored.

    A second SIGINT ends the process at once: whoever presses Ctrl-C twice does not want to wait, and no file is ever half
    written.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _lost


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of the signals back at the end, whatever a library did to them in between, in C code too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by C code, and so not to be set again from here
                signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _state.number is not None:
        if number == signal.SIGINT:
            os._exit(128 + number)
        return
    _state.number = number
    if not _state.held:
        raise Stopped(number)
    with suppress(OSError):  # no print: the signal may have come in the middle of one
        os.write(2, b"\nlifealign: stopping soon (Ctrl-C again: at once)\n")
    if _state.wake is not None:
        _state.wake()


def _lost(found: sys.UnraisableHookArgs) -> None:
    """A signal that came while an object was deleted is lost there: send it again."""
    if not isinstance(found.exc_value, Stopped):
        sys.__unraisablehook__(found)
        return
    number, _state.number = found.exc_value.number, None

    def send() -> None:
        time.sleep(AGAIN)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)  # not to the process: whatever the main thread waits for must end

    threading.Thread(target=send, daemon=True).start()


@contextmanager
def held() -> Iterator[None]:
    """Hold a signal back until the block ends, or calls `stop_if_asked`.

    Raises:
        Stopped: at the end of the block, if a signal came meanwhile.
    """
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    if not _state.held:
        stop_if_asked()


def stop_if_asked() -> None:
    """End the work here, if a signal asked for it.

    Raises:
        Stopped: a signal came.
    """
    if _state.number is not None:
        raise Stopped(_state.number)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, where a signal cancels the work; an exception out of nowhere would leave tasks with tracebacks.

    Raises:
        Stopped: a signal came.
    """
    import asyncio  # not above: every command starts with this module

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        _state.wake = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            return await work
        finally:
            _state.wake = None

    with held():
        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            stop_if_asked()
            raise
