"""Every `lifealign ...` call on a page is one that the parser knows: its command, its options, and what they require."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from site_commands import commands
from support.paths import ROOT

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "console", "sh", "shell", "yaml"}
"""Languages of blocks that hold commands; those of a workflow stand after ``run:``."""
START = re.compile(
    r"^(?:- )?(?:run: )?(?:\$ )?(?:[A-Z_]+=\S+ )*(?:accelerate launch .*-m |python -m )?lifealign (?=\S)"
)
SEPARATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}


def calls(text: str) -> list[str]:
    """What follows `lifealign` in each command of a page: in blocks, fenced or indented, and in `code` inside sentences."""
    blocks = [m["body"] for m in FENCE.finditer(text) if m["language"] in SHELL]
    lines = [line.strip() for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    pieces = [piece.strip() for line in lines for piece in re.split(r"&&|;", line)]
    pieces += re.findall(r"^ {4}(\S.*)$", FENCE.sub("", text), re.MULTILINE)
    pieces += re.findall(r"(?<!`)`(lifealign [^`\n]+)`(?!`)", FENCE.sub("", text))
    return [piece[match.end() :] for piece in pieces if (match := START.match(piece))]


def mistakes(call: str) -> list[str]:
    """What is wrong with a call, by the parser's own description of the command."""
    known = commands()
    words = shlex.split(call, comments=True)
    stop = next((i for i, word in enumerate(words) if word in SEPARATORS), len(words))
    words = words[:stop]
    name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    if name in ("--version", "--help"):
        return []
    if name not in known:
        return [f"no command {name!r}"]
    options = {o: p for p in known[name].params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)}
    return _wrong_options(words[len(name.split()) :], options, known[name])


def _wrong_options(words: list[str], options: dict[str, Any], command: Any) -> list[str]:
    wrong, positional, left = [], 0, iter(words)
    for word in left:
        option, _, value = word.partition("=")
        if not word.startswith("--"):
            positional += 1
        elif option == "--help":
            return []
        elif option not in options:
            wrong.append(f"no option {option}")
        elif not options[option].is_flag and not value and next(left, None) is None:
            wrong.append(f"{option} has no value")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if positional > len(arguments) and not any(p.nargs == -1 or p.multiple for p in arguments):
        wrong.append(f"{positional} arguments, {len(arguments)} are known")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_on_a_page_are_ones_that_exist(page: Path) -> None:
    found = {call: mistakes(call) for call in calls(page.read_text(encoding="utf-8"))}
    assert {call: wrong for call, wrong in found.items() if wrong} == {}


def test_calls_are_found() -> None:
    """Else the test above would hold of pages that it cannot read."""
    texts = {page.name: calls(page.read_text(encoding="utf-8")) for page in PAGES}
    for name in ("choose-a-method.md", "ci-gates.md", "export.md", "from-trl.md", "gpu.md", "repair.md", "README.md"):
        assert texts[name], name
    assert any(call.startswith("study examples/studies/real-five.yaml") for call in texts["reproduction.md"]), (
        "indented"
    )
    assert any(call.startswith("learn memories/two") for call in texts["gpu.md"]), "behind accelerate launch"
    assert any(call.endswith("> gates.json") for call in texts["ci-gates.md"]), "in a workflow"


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("evaluate MEMORY --gate 'bwt>=-1' --json > gates.json", []),
        ("learn MEMORY ROWS --name a --set train.epochs=3", []),
        ("log MEMORY OTHER", ["2 arguments, 1 are known"]),
        ("export MEMORY --output DIR", ["no option --output"]),
        ("export MEMORY --out", ["--out has no value"]),
        ("mend MEMORY", ["no command 'mend'"]),
    ],
)
def test_mistakes_in_a_call_are_seen(call: str, wrong: list[str]) -> None:
    found = mistakes(call)
    assert found[: len(wrong)] == wrong and bool(found) == bool(wrong)
