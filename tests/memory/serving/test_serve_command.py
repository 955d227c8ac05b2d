"""The command as a process: refusals, a peaceful end, and a kill in the middle of everything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from lifealign.cli.app import app
from lifealign.memory.serving.feedback import Feedback
from support.server import ask, text_of


def call(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["serve", *words])
    return found.exit_code, found.output


@contextmanager
def process(memory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    """The command in a process of its own, once a client can connect."""
    words = [sys.executable, "-m", "lifealign", "serve", str(memory), "--port", "0", *options]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"serving (http://\S+);", line):
                break
        else:
            raise AssertionError("".join(lines))
        yield server, openai.OpenAI(base_url=found[1], api_key="none", max_retries=0, timeout=60)
    finally:
        server.kill()
        server.communicate()


def test_a_gate_that_does_not_hold_ends_with_its_code(memory: Path) -> None:
    code, output = call(str(memory), "--require", "last>=1000", "--require", "last>=0")
    assert code == 3
    assert "lifealign: gate last.accuracy>=1000 failed" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--require", "moon>=1"], "--require 'moon>=1': unknown summary"),
        (["--points", "moon"], "--points 'moon': model 'moon' is not served; models: base, now"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could reach it"),
        (["--host", "0.0.0.0", "--allow-remote"], "set a key with --key-env NAME"),
        (["--allow-remote"], "--allow-remote: other machines cannot reach 127.0.0.1"),
        (
            ["--key-env", "NO_SUCH_VARIABLE"],
            "--key-env: the environment variable of this name is not set or empty",
        ),
        (["--split", "train"], "--split 'train': allowed: test, validation"),
        (["--no-value", "maybe"], "--no-value 'maybe': allowed: pass, fail"),
        (["--feedback", "/no/such/directory/votes.jsonl"], "give a file in a directory that exists"),
    ],
)
def test_a_mistake_is_one_message(memory: Path, options: list[str], message: str) -> None:
    code, output = call(str(memory), *options)
    assert code == 2 and message in output
    assert output.count("\n") == 1


def test_no_memory_is_a_mistake(tmp_path: Path) -> None:
    assert call(str(tmp_path / "nothing"))[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_peaceful_end_finishes_what_runs_and_a_kill_breaks_no_line(memory: Path, tmp_path: Path) -> None:
    votes = tmp_path / "votes.jsonl"
    with process(memory, "--feedback", str(votes), "--json") as (server, client):
        stream = ask(client, "bread question?", max_tokens=200, stream=True)
        first = next(stream)
        httpx.post(f"{client.base_url}feedback", json={"id": first.id, "label": True})  # not whole yet: refused
        server.send_signal(signal.SIGTERM)
        whole = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert len(whole) > 60
        output, errors = server.communicate(timeout=60)
        assert (server.returncode, json.loads(output)["answers"], json.loads(output)["votes"]) == (143, 1, 0), errors
    with process(memory, "--feedback", str(votes)) as (server, client):
        answered = ask(client, "bread question?", max_tokens=4)
        assert text_of(answered)
        acknowledged = 0

        def vote() -> None:
            nonlocal acknowledged
            body: dict[str, Any] = {"id": answered.id, "label": True, "correction": "x" * 20_000}
            try:
                while httpx.post(f"{client.base_url}feedback", json=body).status_code == 200:
                    acknowledged += 1
            except httpx.TransportError:
                return

        thread = threading.Thread(target=vote)
        thread.start()
        while acknowledged < 5:
            time.sleep(0.01)
        server.kill()
        thread.join()
    Feedback(votes)
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    assert acknowledged <= len(rows) <= acknowledged + 1
