"""Each tutorial, followed from its first command to its last, with a tiny random model in the place of the real one."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import ROOT
from support.tutorial import Reader, blocks, commands, missing_lines

TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = ("first-memory", "own-data", "feedback", "judging", "study")
BEFORE = {"judging": ("own-data",)}
"""Page -> pages that its reader follows before, as its first lines say; they are held to their output on the way."""
EXTRAS = {"feedback": ("fastapi",), "judging": ("openai", "fastapi"), "study": ("matplotlib",)}
"""Page -> what the extras that it installs bring."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def reader(tiny_dir: Path, tmp_path: Path) -> Iterator[Reader]:
    """In the folder of the examples. The test types other words than the page in these cases and no other ones."""
    substitutes = {
        "smollm2-135m": str(tiny_dir),  # two random layers, so that a page takes seconds
        "8731": str(free_port()),  # the judge's server and the annotators' page: tests may run beside each other
        "8500": str(free_port()),
        "8600": str(free_port()),  # lifealign serve
    }
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for path in tmp_path.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for shown, typed in substitutes.items():
            text = text.replace(shown, typed)
        path.write_text(text, encoding="utf-8")
    found = Reader(tmp_path, substitutes)
    yield found
    found.close()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in sum(BEFORE.values(), ())])
def test_a_reader_can_follow_the_page(page: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in EXTRAS.get(page, ()):
        pytest.importorskip(module)
    # Whose environment this is must not matter: no key and no cache of theirs.
    monkeypatch.delenv("LIFEALIGN_JUDGE_KEY", raising=False)
    for name in (*BEFORE.get(page, ()), page):  # a page goes on where the one before it ended
        reader.checked = 0
        reader.follow(TUTORIALS / f"{name}.md")
        assert reader.checked >= 1


def test_every_tutorial_is_followed() -> None:
    assert sorted(path.stem for path in TUTORIALS.glob("*.md") if path.stem != "index") == sorted(PAGES)


def test_of_a_page_only_the_set_up_is_not_run() -> None:
    """What is marked `not run` installs things, or gets the files."""
    for page in PAGES:
        skipped = [block for block in blocks((TUTORIALS / f"{page}.md").read_text("utf-8")) if block.note == "not run"]
        typed = [command for block in skipped for command in commands(block.body)]
        assert all(command.split()[0] in ("git", "cd", "pip", "python", ".", "export") for command in typed), typed
        assert all("lifealign " not in command.removeprefix("cd lifealign") for command in typed), typed


def test_shown_lines_are_held_to_the_output() -> None:
    """Numbers may differ, words and their order may not."""
    got = "after json   50.00 [1, 2]\nreport: out/report.html\nlast"
    assert missing_lines("after json 91.67 [3, 4]\n...\nlast", got) == []
    assert missing_lines("report: .../report.html", got) == []
    assert missing_lines("after sentence 91.67", got) == ["after sentence #"]
    assert missing_lines("last\nafter json 91.67 [3, 4]", got) == ["after json #"]
