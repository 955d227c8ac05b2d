"""No process of a study outlives it: however the study ends, those that it started are killed. No torch.

On Linux the kernel does it ("parent death signal"), at once and whatever a process is busy with: the server that forks the runs
is bound to the study, and each run to that server. Elsewhere, and on Ray, a thread of the run waits for the study's end.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from multiprocessing import connection

STUDY = "LIFEALIGN_STUDY_PROCESS"
"""Environment variable with the id of the study's process, by which the server that forks runs knows its parent."""
_PR_SET_PDEATHSIG = 1
_LOOK = 1.0
"""Seconds between two looks at a study that is not the parent."""


def announce() -> None:
    """Let the server of forks, if this call is followed by its start, end with this process.

    Only from the main thread: the kernel counts the end of the thread that started a process as its parent's end.
    """
    if threading.current_thread() is threading.main_thread():
        os.environ[STUDY] = str(os.getpid())


def _bind() -> None:
    """Be killed when the parent ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def end_with_parent() -> None:
    """In a process that `multiprocessing` started: end with the study."""
    if sys.platform == "linux":
        _bind()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent.sentinel,), daemon=True).start()


def _wait(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def place() -> tuple[str, int]:
    """This machine and process, for `end_with`."""
    return platform.node(), os.getpid()


def end_with(place: tuple[str, int]) -> None:
    """End with a process of this machine that is not the parent; one of another machine is Ray's to watch."""
    node, process = place
    if node == platform.node():
        threading.Thread(target=_watch, args=(process,), daemon=True).start()


def _watch(process: int) -> None:
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            pass
        time.sleep(_LOOK)


if sys.platform == "linux" and os.environ.get(STUDY) == str(os.getppid()):
    # In the server of forks, which imports this first: importing the rest takes many seconds.
    _bind()
