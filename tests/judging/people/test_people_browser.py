"""Two annotators in Chromium: a batch by keyboard, a killed server, hostile text, a phone, light and dark."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign.judging.people.database import Ratings
from lifealign.judging.people.export import export_rows
from support.colours import channels, contrast
from support.paths import ROOT
from support.people_batch import EVIL, ratings_of, record, two_methods

pytest.importorskip("fastapi", reason="the extra `annotate` is not installed")

pytestmark = pytest.mark.browser


class Server:
    """`lifealign annotate` in a process of its own, on a port that it gets again after it was killed."""

    def __init__(self, db: Path) -> None:
        self.db = db
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "lifealign", "annotate", "--db", str(self.db), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert self.process.stderr
        self.links: dict[str, str] = {}
        for line in self.process.stderr:
            if line.startswith("serving"):
                return
            name, link = line.split(" ")[:2]
            self.links[name.rstrip(":")] = link
        raise AssertionError(f"the server did not start: {self.links}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(db: Path) -> Server:
        servers.append(Server(db))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


class Annotator:
    """A person at a keyboard. Any error in the script, and any request to anywhere else, fails."""

    def __init__(self, browser: Any, link: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        origin = link.partition("/join")[0]
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda one: one.url.startswith(origin) or self.errors.append(one.url))
        self.page.on("dialog", lambda one: (self.errors.append(one.message), one.dismiss()))
        self.page.goto(link)

    def begin(self) -> None:
        self.page.wait_for_selector("[data-ready]")
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("[data-ready] #rating")

    def sides(self) -> list[str]:
        return list(self.page.locator(".side .text").all_inner_texts())

    def count(self) -> int:
        return int(self.page.locator(".count b").inner_text())

    def press(self, *keys: str) -> None:
        """Keys for the question at hand; the last one rates it, and the next question comes up."""
        self.page.wait_for_selector("[data-ready]")
        before = self.count()
        for key in keys:
            self.page.keyboard.press(key)
        self.page.wait_for_selector(f'progress:not([value="{before}"])')

    def close(self) -> None:
        self.context.close()
        assert self.errors == []


def test_two_annotators_finish_by_keyboard_and_a_killed_server_goes_on(
    browser: Any, serve: Any, tmp_path: Path
) -> None:
    db = tmp_path / "r.sqlite"
    records = [*two_methods(3), *two_methods(2, ["see-a-professional"])]
    ratings_of(db, records, ["ada", "ben"], gold=1)
    server = serve(db)
    ada, ben = (Annotator(browser, server.links[name]) for name in ("ada", "ben"))
    ada.begin()
    ben.begin()
    for number in range(6):
        for person, liked in ((ada, "ours"), (ben, "theirs")):
            page = person.page
            page.wait_for_selector("[data-ready]")
            left, right = person.sides()
            first = ["w"] if page.locator(".step").count() else []
            if (person, number) == (ada, 3):
                # The server dies while ada has a comment in hand; what she wrote is kept until it is back.
                page.keyboard.press("c")
                page.keyboard.type("written while it was away: a b 1 2")
                page.keyboard.press("Escape")
                for key in first:
                    page.keyboard.press(key)
                server.kill()
                page.keyboard.press("f")
                page.keyboard.press("ArrowLeft" if liked in left else "ArrowRight" if liked in right else "t")
                page.wait_for_selector("text=Not saved yet")
                assert Ratings.open(db).progress("ada") == (3, 6)
                server.start()
                page.wait_for_selector('progress[value="4"]')
                continue
            person.press(*first, "a" if liked in left else "b" if liked in right else "=")
    for person in (ada, ben):
        person.page.wait_for_selector("text=All 6 done. Thank you!")
        person.close()
    rows = export_rows(Ratings.open(db))
    assert len(rows) == 12
    plain = [row for row in rows if row["gold_ok"] is None]
    assert all(
        row[f"{row['winner']}_by"] == {"ada": "ours@last", "ben": "theirs@last"}[row["annotator"]] for row in plain
    )
    assert {row["winner"] for row in plain} == {"left", "right"}
    assert [row["steps"] for row in plain if row["task"] == "see-a-professional"] == [{"request": "unsafe"}] * 4
    (kept,) = [row for row in rows if row["comment"]]
    assert kept["comment"] == "written while it was away: a b 1 2" and kept["flag"] and kept["annotator"] == "ada"
    assert all(0 < row["seconds"] < 60 for row in rows)


def test_undo_skip_and_the_guide_by_keyboard(browser: Any, serve: Any, tmp_path: Path) -> None:
    db = tmp_path / "r.sqlite"
    ratings_of(db, two_methods(3))
    ada = Annotator(browser, serve(db).links["ada"])
    ada.begin()
    first = ada.sides()
    ada.press("t")
    assert ada.sides() != first
    ada.press("u")
    assert ada.sides() == first and ada.page.locator("button.before").inner_text().endswith("Tie")
    ada.press("x")
    ada.press("ArrowRight")
    ada.page.wait_for_selector("[data-ready]")
    ada.page.keyboard.press("?")
    ada.page.wait_for_selector("a.go:has-text('Continue')")
    ada.begin()
    assert ada.count() == 2
    ada.close()
    assert [(row["winner"], row["flag"]) for row in export_rows(Ratings.open(db))] == [(None, True), ("right", False)]


def test_keys_are_not_taken_twice_nor_while_typing(browser: Any, serve: Any, tmp_path: Path) -> None:
    db = tmp_path / "r.sqlite"
    ratings_of(db, [*two_methods(1, ["see-a-professional"]), *two_methods(5)])
    ada = Annotator(browser, serve(db).links["ada"])
    ada.begin()
    page = ada.page
    while not page.locator(".step").count():
        ada.press("t")
    done = ada.count()
    page.wait_for_selector("[data-ready]")
    page.keyboard.press("a")
    page.wait_for_selector("text=Answer the question above first.")
    assert page.locator(".step.missing").count() == 1 and Ratings.open(db).progress("ada")[0] == done
    page.keyboard.press("q")
    assert page.locator(".step.missing").count() == 0
    # Held down, it rates one question only.
    page.keyboard.down("a")
    page.wait_for_selector(f'progress[value="{done + 1}"]')
    page.wait_for_selector("[data-ready]")
    page.keyboard.down("a")
    page.wait_for_timeout(300)
    page.keyboard.up("a")
    assert ada.count() == done + 1 == Ratings.open(db).progress("ada")[0]
    ada.close()


def test_hostile_text_is_shown_as_text(browser: Any, serve: Any, tmp_path: Path) -> None:
    db = tmp_path / "r.sqlite"
    ratings_of(db, [record(0, "ours", EVIL, reference=EVIL), record(0, "theirs", EVIL + "!", reference=EVIL)])
    ada = Annotator(browser, serve(db).links["ada"])
    ada.begin()
    page = ada.page
    assert page.title() == "1 of 1" and page.locator(".side img, .side script, .reference script").count() == 0
    as_seen = EVIL.replace("\u202e", "U+202E").replace("\u202c", "U+202C")
    assert sorted(ada.sides()) == [as_seen, as_seen + "!"]
    # The word behind the override is drawn from left to right: its first letter is left of its last one.
    first, last = page.evaluate(
        """() => {
          const node = document.querySelector(".side .unseen").nextSibling;
          return [0, node.length - 1].map(at => { const range = new Range(); range.setStart(node, at);
            range.setEnd(node, at + 1); return range.getBoundingClientRect().left; });
        }"""
    )
    assert first < last
    ada.press("t")
    ada.close()


@pytest.mark.parametrize("mode", ["pairwise", "absolute"])
def test_a_phone_shows_all_and_rates_by_finger(browser: Any, serve: Any, tmp_path: Path, mode: str) -> None:
    db = tmp_path / "r.sqlite"
    wide = [record(0, source, f"{source} " + "longword" * 40 + " text" * 200) for source in ("ours", "theirs")]
    ratings_of(db, wide, mode=mode)
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    ada = Annotator(browser, serve(db).links["ada"], **phone)
    page = ada.page
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".go").tap()
    # A page that has begun to arrive is measured without its style: the script that marks it ready runs after that.
    page.wait_for_selector("[data-ready] #rating")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    boxes = [one.bounding_box() for one in page.locator(".choices button").all()]
    assert all(box["height"] >= 44 and box["width"] >= 44 and box["y"] + box["height"] <= 740 for box in boxes)
    if mode == "pairwise":  # the second answer begins below the screen
        page.locator(".choices button").last.tap()
        page.wait_for_selector("text=Read answer B first.")
        assert Ratings.open(db).progress("ada")[0] == 0
        page.wait_for_selector("#status:empty", state="attached")  # it has been seen: the page scrolls to it
    page.get_by_text("Comment").tap()
    page.locator("textarea").fill("by thumb")
    page.locator(".choices button").last.tap()
    page.wait_for_selector('progress[value="1"]')
    ada.close()
    (row,) = export_rows(Ratings.open(db))
    assert row["comment"] == "by thumb" and (row["winner"], row["score"]) == (
        ("right", None) if mode == "pairwise" else (None, 10)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Any, serve: Any, tmp_path: Path, scheme: str) -> None:
    """WCAG contrast of at least 4.5 of every text on the two pages against what is behind it."""
    db = tmp_path / "r.sqlite"
    ratings_of(db, two_methods(1, ["see-a-professional"]))
    ada = Annotator(browser, serve(db).links["ada"], color_scheme=scheme)
    for page in ("guide", "question"):
        found = ada.page.evaluate(
            """() => Array.from(document.querySelectorAll("body *")).filter(one => one.offsetParent &&
              Array.from(one.childNodes).some(node => node.nodeType === 3 && node.data.trim())).map(one => {
                let behind = one;
                const clear = colour => /rgba\\(.*, 0\\)|transparent/.test(colour);
                while (behind.parentElement && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
                return [one.className + " " + one.textContent.trim().slice(0, 30), getComputedStyle(one).color,
                  getComputedStyle(behind).backgroundColor]; })"""
        )
        assert len(found) > 15
        poor = [(text, a, b) for text, a, b in found if contrast(channels(a), channels(b), channels(b)) < 4.5]
        assert poor == []
        if page == "guide":
            ada.begin()
    dark = channels(ada.page.evaluate("getComputedStyle(document.body).backgroundColor"))[0] < 128
    assert dark == (scheme == "dark")
    ada.close()


def test_without_a_script_it_is_a_form(browser: Any, serve: Any, tmp_path: Path) -> None:
    db = tmp_path / "r.sqlite"
    ratings_of(db, two_methods(2))
    ada = Annotator(browser, serve(db).links["ada"], java_script_enabled=False)
    ada.page.locator(".go").click()
    for left in (1, 0):
        ada.page.get_by_role("button", name="A is better").click()
        assert re.search(f"{2 - left}.*of 2", ada.page.locator(".count").inner_text())
    ada.page.get_by_role("button", name="Undo").click()
    assert ada.count() == 1
    ada.close()


def test_scripted_annotators_rate_by_their_rule(browser: Any, tmp_path: Path) -> None:
    """`ours` is the reference with one letter more; of the gold pair, whose reference is hidden, the longer one wins."""
    db = tmp_path / "r.sqlite"
    texts = [("ours", "the right reference 1!"), ("theirs", "something else")]
    records = [
        record(i, source, f"{text} {i}", task=task, reference=f"the right reference 1 {i}", rejected="no")
        for i in range(2)
        for source, text in texts
        for task in ("myths", "see-a-professional")
    ]
    ratings_of(db, records, ["ada", "ben"], gold=1)
    script = ROOT / "examples" / "scripted_annotators.py"
    done = subprocess.run(
        [sys.executable, str(script), str(db), "--noise", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "ada: 5 rated\nben: 5 rated\n", done.stderr
    rows = export_rows(Ratings.open(db))
    assert {row[f"{row['winner']}_by"] for row in rows} == {"ours@last", "reference@data"} and len(rows) == 10
