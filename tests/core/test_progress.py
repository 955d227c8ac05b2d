"""Progress: the lines of a log, the rate and the time left, and the bar of a terminal."""

from __future__ import annotations

import io

import pytest

from lifealign.core.progress import BarProgress, LineProgress, NullProgress, duration, make_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log():
    stream, clock = io.StringIO(), Clock()
    return stream, clock, LineProgress(stream, clock)


def test_a_line_at_every_tenth_with_rate_and_time_left(log):
    stream, clock, progress = log
    with progress.stage("train", total=40, unit="pairs") as stage:
        for _ in range(20):
            clock.now += 1.0
            stage.advance(2, loss=0.6931)
    lines = stream.getvalue().splitlines()
    # 2 pairs a second; a tenth is 4 pairs: a line after 4, 8, ... 36 pairs, and the last one when the stage is over.
    assert len(lines) == 10
    assert lines[0] == "train: 4/40 pairs (10%), 2 pairs/s, 0:18 left, loss 0.693"
    assert lines[8] == "train: 36/40 pairs (90%), 2 pairs/s, 0:02 left, loss 0.693"
    assert lines[9] == "train: 40/40 pairs (100%), 0:20, 2 pairs/s, loss 0.693"


def test_slow_work_says_something_every_15_seconds(log):
    stream, clock, progress = log
    with progress.stage("train", total=1000) as stage:
        for _ in range(6):
            clock.now += 7.5
            stage.advance()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "train: 2/1000 steps (0%)",
        "train: 4/1000 steps (0%)",
        "train: 6/1000 steps (1%)",
        "train: 6/1000 steps (1%)",
    ]


def test_quick_work_says_one_line(log):
    stream, clock, progress = log
    with progress.stage("encode", total=100, unit="rows") as stage:
        for _ in range(100):
            clock.now += 0.001
            stage.advance()
    assert stream.getvalue() == "encode: 100/100 rows (100%), 0:00, 1e+03 rows/s\n"


def test_what_an_earlier_run_did_is_no_part_of_the_rate(log):
    stream, clock, progress = log
    with progress.stage("train", total=100, done=80) as stage:
        clock.now += 5.0
        stage.advance(10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: resuming from 80/100 steps"
    assert lines[1] == "train: 90/100 steps (90%), 2 steps/s, 0:05 left"


def test_a_stage_that_fails_says_where_it_stopped(log):
    stream, _, progress = log
    with pytest.raises(ZeroDivisionError), progress.stage("train", total=4) as stage:
        stage.advance()
        raise ZeroDivisionError
    assert stream.getvalue() == "train: 1/4 steps (25%), stopped\n"


def test_a_stage_without_work(log):
    stream, _, progress = log
    with progress.stage("train", total=0):
        pass
    assert stream.getvalue() == "train: 0/0 steps (100%), 0:00\n"


def test_a_pipe_gets_lines_and_no_control_characters():
    stream = io.StringIO()
    progress = make_progress(stream)
    with progress.stage("train", total=2) as stage:
        progress.say("[bold]said")
        stage.advance(2)
    assert isinstance(progress, LineProgress)
    assert stream.getvalue().startswith("[bold]said\n")
    assert "\x1b" not in stream.getvalue()


def test_lines_go_to_stderr(capsys):
    make_progress().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_rate_and_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream, clock = Terminal(), Clock()
    assert isinstance(make_progress(stream), BarProgress)
    progress = BarProgress(stream, clock)
    with progress.stage("stream", total=2, unit="tasks") as outer:
        with progress.stage("train", total=10, unit="pairs") as inner:
            clock.now += 2.0
            inner.advance(4, loss=0.5)
            progress.say("[not markup]")
            clock.now += 3.0
            inner.advance(6)
        outer.advance()
    with progress.stage("again", total=1) as stage:
        stage.advance()
    shown = stream.getvalue()
    assert "[not markup]" in shown
    assert "2 pairs/s, loss 0.5" in shown
    assert "10/10" in shown
    assert "1/2" in shown
    # The first stages are not drawn again by the later one.
    assert "train" not in shown[shown.index("again") :]


def test_silence():
    progress = NullProgress()
    with progress.stage("train", total=2) as stage:
        stage.advance(2, loss=1.0)
    progress.say("nothing")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_duration(seconds, text):
    assert duration(seconds) == text
