"""Signals that stop a command: as an exception at once, at the end of a step, or sent again where they got lost."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from lifealign.core import stopping
from lifealign.core.stopping import SIGNALS, Stopped, asked, catch_signals, exit_code, held, run_async, stop_if_asked


@pytest.fixture(autouse=True)
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers, for one test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(stopping, "_state", stopping._State())
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # whoever started the tests in the background may ignore some
    catch_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_at_once(number: signal.Signals, code: int) -> None:
    with pytest.raises(Stopped) as caught:
        signal.raise_signal(number)
    assert exit_code(caught.value) == code and asked() == number
    signal.raise_signal(signal.SIGTERM)  # nothing more, while it cleans up
    assert asked() == number


def test_a_step_is_finished_first(capfd: pytest.CaptureFixture[str]) -> None:
    steps = []
    with pytest.raises(Stopped), held():
        for step in range(3):
            steps.append(step)
            signal.raise_signal(signal.SIGTERM)
            steps.append("done")
            stop_if_asked()
    assert steps == [0, "done"]
    assert "stopping soon" in capfd.readouterr().err


def test_a_block_that_does_not_ask_is_finished() -> None:
    done = []
    with pytest.raises(Stopped), held(), held():
        signal.raise_signal(signal.SIGHUP)
        done.append(True)
    assert done == [True]


def test_what_the_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    catch_signals()
    signal.raise_signal(signal.SIGHUP)
    assert asked() is None


def test_a_signal_that_got_lost_is_sent_again() -> None:
    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        del_me = [Deleted()]
        del_me.clear()
        gc.collect()
        for _ in range(1000):
            time.sleep(0.01)


def test_tasks_are_cancelled_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def work() -> None:
        async def one() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(one())
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        run_async(work())
    gc.collect()
    assert ended == [True] * 3 and caplog.records == []


def test_plain_ctrl_c_counts_as_sigint() -> None:
    assert exit_code(KeyboardInterrupt()) == 130
