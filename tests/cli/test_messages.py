"""Start-up, exit codes, and one message for each mistake."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from lifealign.cli import output
from lifealign.cli.app import main
from lifealign.cli.help import GROUPS
from lifealign.cli.output import coloured
from support.cli import lifealign

COMMANDS = (
    "run",
    "learn",
    "evaluate",
    "check-data",
    "report",
    "log",
    "show",
    "verify",
    "rollback",
    "withdraw",
    "recover",
    "export",
    "generate",
    "related",
    "compose",
)


def test_run_with_a_wrong_file_lists_all_mistakes(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(sys.modules["lifealign.memory.learning"], "learn_stream", None, raising=False)
    path = tmp_path / "run.yaml"
    path.write_text("sed: 1\ntrain: {epochs: -1}")
    result = lifealign("run", path, "--set", "lora.r=0")
    assert result.exit_code == 2
    assert "did you mean 'seed'?" in result.stderr
    assert "train.epochs" in result.stderr
    assert "lora.r" in result.stderr


@pytest.mark.parametrize("call", [("evaluate", "--nope"), ("nope",), ("learn",)])
def test_a_wrong_call_is_one_document_where_one_is_asked_for(
    call: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["lifealign", *call, *flags])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert "Usage: " in err
        if flags:
            document = json.loads(out)
            assert document["exit_code"] == 2 and document["error"] in err
        else:
            assert out == ""


# --- start-up ---------------------------------------------------------------------------------------------------------


def test_help_is_fast_and_imports_no_heavy_module():
    program = (
        "import sys\nfrom lifealign.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'datasets', 'accelerate', 'pydantic', 'rich'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, f"imported at start: {done.stderr}"
        assert "check-data" in done.stdout
    # CPU time: a machine that does other things meanwhile takes no more of it. The promise is 0.5 s; twice that for a slower one.
    assert statistics.median(seconds) < 1.0


def test_the_installed_command_answers():
    command = Path(sys.executable).parent / "lifealign"
    if not command.exists():
        pytest.skip("the package is not installed, only importable")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lifealign 0.")


@pytest.mark.parametrize(("group", "titles"), [((), [*GROUPS]), (("ratings",), ["Commands"])])
def test_every_summary_is_a_whole_sentence_at_80_columns(
    group: tuple[str, ...], titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = lifealign(*group, "-h")
    assert result.output == lifealign(*group, "--help").output
    sections = re.split(r"^(\S.*):$", result.output, flags=re.MULTILINE)
    listed = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert [title for title in listed if title != "Options"] == titles  # no command is left over for OTHERS
    summaries = [line for title in titles for line in listed[title].strip().splitlines()]
    assert len(summaries) >= 2 and all(line.endswith(".") and not line.endswith("...") for line in summaries)
    assert all(len(line) <= 80 for line in summaries)


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = coloured("-8", "loss")
    assert text != "-8"
    output.echo(text)
    assert capsys.readouterr().out == "-8\n"  # no terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for no_colour, shown in (("", text), ("1", "-8")):
        monkeypatch.setenv("NO_COLOR", no_colour)
        output.echo(text)
        assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    result = lifealign(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


# --- exit codes and messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("learn",),
        ("evaluate", "m", "--generations", "-1"),
        ("generate", "m", "--batch-size", "0"),
        ("log", "m", "--verbose"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments):
    result = lifealign(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr


def test_a_mistake_is_one_message_on_stderr(tmp_path, fake):
    result = lifealign("log", tmp_path)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"lifealign: {tmp_path}: no memory\n")


def test_a_mistake_with_json_is_still_one_document(tmp_path, fake):
    result = lifealign("log", tmp_path, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"error": f"{tmp_path}: no memory", "exit_code": 2}


def test_a_bug_keeps_its_traceback(memory, fake):
    fake.failure = ZeroDivisionError("a bug")
    result = lifealign("log", memory)
    assert isinstance(result.exception, ZeroDivisionError)


def test_stopping_is_130_and_says_how_to_go_on(memory, fake):
    fake.failure = KeyboardInterrupt()
    result = lifealign("evaluate", memory)
    assert result.exit_code == 130
    assert result.stderr == "lifealign: stopped; run the same command again to continue\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_no_bug(memory, fake, number):
    fake.failure = OSError(number, os.strerror(number), "/some/file")
    result = lifealign("export", memory, "--out", "x")
    assert result.exit_code == 2
    assert result.stderr == f"lifealign: /some/file: {os.strerror(number)}\n"


def test_another_system_error_is_a_bug(memory, fake):
    fake.failure = OSError(errno.EBADF, "bad descriptor")
    assert isinstance(lifealign("log", memory).exception, OSError)
