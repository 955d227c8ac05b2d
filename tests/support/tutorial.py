"""A page of the documents read as a user reads it: its commands run in order, their output held to what the page shows.

On a page, ```bash and ```python blocks are run; a ```text block is the output of the block before it. Of the output, each
shown line must come, in this order, with numbers masked (models and machines differ); `...` stands for anything. A comment
in the line before a block changes that: `<!-- not run -->` (setting up a machine), `<!-- varies -->` (a model's words).
Blocks of other kinds (yaml, json) are pictures.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.people_batch import hidden

BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w+)[^\n]*\n(?P<body>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+(?:[.,:]\d+)*")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A block of a page; `line` is its number, for messages."""

    kind: str
    body: str
    note: str
    line: int


def blocks(text: str) -> list[Block]:
    return [
        Block(m["kind"], m["body"], m["note"] or "", text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)
    ]


def commands(body: str) -> list[str]:
    r"""The commands of a ```bash block, with lines that end in ``\`` joined."""
    lines = body.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def masked(line: str) -> str:
    """A line with # for each number, without intervals: there is none where all rows agree."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", line).replace("[#, #]", "")).strip()


def missing_lines(shown: str, got: str) -> list[str]:
    """Shown lines that do not come in the output, in this order."""
    rest = iter([masked(line) for line in got.splitlines()])
    missing = []
    for line in filter(None, map(masked, shown.splitlines())):
        if line == "...":
            continue
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        if not any(pattern.fullmatch(other) for other in rest):
            missing.append(line)
            break
    return missing


@dataclass
class Reader:
    """Who follows a page.

    Attributes:
        directory: where the reader is; `cd` changes it.
        substitutes: text of the page -> what the test types instead; the whole difference between reader and test.
        code: exit code of the last command, as of ``echo $?``.
        checked: shown blocks that were held to the output.
    """

    directory: Path
    substitutes: Mapping[str, str]
    code: int = 0
    checked: int = 0
    _background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, page: Path) -> None:
        """Run a page from top to bottom.

        Raises:
            AssertionError: a command fails that the page does not show to fail, or shows another output.
        """
        output = ""
        for block in blocks(page.read_text(encoding="utf-8")):
            where = f"{page.name}:{block.line}"
            if block.note == "not run":
                continue
            if block.kind == "bash":
                output = self.type_in(block.body, where)
            elif block.kind == "python":
                output = self.run_python(block.body)
            elif block.kind == "text" and block.note != "varies":
                missing = missing_lines(block.body, output)
                assert not missing, f"{where}: the output has no line {missing[0]!r} (or not there):\n{output}"
                self.checked += 1

    def type_in(self, body: str, where: str) -> str:
        """Run the commands of a block; a command that ends with another code than 0 must be followed by ``echo $?``."""
        todo, outputs = commands(body), []
        for at, command in enumerate(todo):
            text = self.run(command)
            outputs.append(text)
            asked = at + 1 < len(todo) and todo[at + 1] == "echo $?"
            assert self.code == 0 or asked, f"{where}: {command}: exit code {self.code}\n{text}"
        return "\n".join(outputs)

    def run(self, command: str) -> str:
        """Run one command and give what it prints, both streams."""
        if command == "echo $?":
            text, self.code = str(self.code), 0
            return text
        for shown, typed in self.substitutes.items():
            command = command.replace(shown, typed)
        words = shlex.split(command)
        if words[0] == "cd":
            self.directory = (self.directory / words[1]).resolve()
            assert self.directory.is_dir(), command
            return ""
        if words[-1] == "&":
            self._start(command)
            return ""
        if words[:2] == ["lifealign", "annotate"] and "--prepare" not in words:
            return self._shown(self._rate(words[1:]))
        if words[0] == "lifealign" and not {"|", ">", "&&"} & set(words):
            return self._shown(self._lifealign(words[1:]))
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=self._environment(), capture_output=True, text=True
        )
        self.code = done.returncode
        return self._shown(done.stdout + done.stderr)

    def run_python(self, body: str) -> str:
        for shown, typed in self.substitutes.items():
            body = body.replace(shown, typed)
        printed = io.StringIO()
        with contextlib.chdir(self.directory), contextlib.redirect_stdout(printed):
            exec(compile(body, "page", "exec"), {"__name__": "page"})
        return self._shown(printed.getvalue())

    def close(self) -> None:
        """Stop what was started with `&`."""
        for process in self._background:
            process.kill()
            process.wait()

    def _shown(self, text: str) -> str:
        for shown, typed in self.substitutes.items():
            text = text.replace(typed, shown)
        return text

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def _lifealign(self, arguments: list[str]) -> str:
        """In this process, which has imported everything: a command of its own would take ten seconds for that."""
        from lifealign.cli.app import app

        with contextlib.chdir(self.directory):
            result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        return result.output

    def _start(self, command: str) -> None:
        """Start a server that stays, and wait until it answers at the port that the substitutes name."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.removesuffix('&')}"], cwd=self.directory, env=self._environment()
        )
        self._background.append(process)
        ports = [int(word) for word in shlex.split(command) if word.isdigit()]
        for _ in range(1200):  # a minute: a command of lifealign imports torch first
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), 1):
                return
            time.sleep(0.05)
        raise AssertionError(f"{command}: nothing answers at port {ports[0]}")

    def _rate(self, arguments: list[str]) -> str:
        """`lifealign annotate` and the people who open its links: A is better, to every question; then Ctrl-C."""
        import httpx

        command = [sys.executable, "-m", "lifealign", *arguments]
        server = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        said = list(until_serving(server.stderr))
        for link in re.findall(r"http://\S+/join/\S+", "".join(said)):
            with httpx.Client(base_url=link.partition("/join/")[0], follow_redirects=True) as person:
                person.get(link).raise_for_status()
                while 'id="rating"' in (page := person.get("/").text):
                    form = {name: hidden(page, name) for name in ("csrf", "position")}
                    person.post("/rate", data={**form, "winner": "left"}).raise_for_status()
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=30)
        assert server.returncode == 128 + signal.SIGINT, err  # as shells have it
        self.code = 0
        return "".join(said) + out + err


def until_serving(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.startswith("serving"):
            return
    pytest.fail("lifealign annotate ended before it served")
