"""The command as a process: streams that break, and signals that stop it. Commands that need no torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lifealign.data.answers import write_answers
from support.judge_server import reply, serving
from support.judging import answer

COMMAND = f"{sys.executable} -m lifealign"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("COMMAND --version > /dev/full", 2, "lifealign: the output cannot be written: No space left on device\n"),
        ("COMMAND --version | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("COMMAND log 'n\u20ac' <&- >&- 2>&-", 2, ""),
        ("PYTHONIOENCODING=latin-1:strict COMMAND log 'n\u20ac'", 2, "lifealign: n\\u20ac: no such directory\n"),
    ],
)
def test_a_broken_stream_is_no_bug(line: str, code: int, message: str) -> None:
    done = subprocess.run(["bash", "-c", line.replace("COMMAND", COMMAND)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, message)


def test_a_stopped_judge_keeps_its_replies(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer(number=i) for i in range(20)])
    slow = True

    def judge(request: dict[str, Any], before: int) -> Any:
        time.sleep(0.3 if slow and len(server.requests) > 4 else 0)
        return reply()

    with serving(judge) as server:
        words = [*COMMAND.split(), "judge", "answers.jsonl", "--judge", server.url, "--model", "m", "--json"]
        words += ["--out", "j.jsonl", "--cache", "c.sqlite", "--concurrency", "2"]
        process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while sum(server.paid.values()) < 6:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 143 and "Traceback" not in errors, errors
        assert json.loads(output) == {"error": "stopped; run the same command again to continue", "exit_code": 143}
        assert not (tmp_path / "j.jsonl").exists()
        slow = False
        again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        totals = json.loads(again.stdout)["totals"]
        assert totals["known"] >= 4 and totals["known"] + totals["tries"] == 20
