"""`lifealign view` in Chromium: the printed link, the pages, and the loss of a task that is being learnt as it comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign.core.config import RunConfig
from lifealign.core.progress import NullProgress
from lifealign.memory.api import Memory
from lifealign.store.layout import WORK
from lifealign.training.live_log import LiveLog
from support.rows import make_task

pytestmark = pytest.mark.browser
NAMES = {"task": "stars", "stage": "preference", "steps": 4}


@pytest.fixture
def desk(config: Callable[..., RunConfig], tmp_path: Path, one_thread: None) -> Memory:
    memory = Memory.create(tmp_path / "runs" / "desk", config("train.epochs=1"))
    memory.learn(make_task("bread", train=4, test=9))
    memory.evaluate()
    return memory


@pytest.fixture
def link(desk: Memory) -> Iterator[str]:
    command = [sys.executable, "-m", "lifealign", "view", str(desk.path.parent), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as run:
        assert run.stderr is not None
        line = run.stderr.readline()
        found = re.search(r"http://\S+/open/[\w-]+", line)
        assert found is not None, line
        yield found.group()
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 143


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_pages_and_the_loss_as_it_comes(browser: Any, desk: Memory, link: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.goto(link)
    assert page.url.endswith("/") and "/open/" not in page.url
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(fits)
    page.locator("a", has_text="desk").click()
    live = page.locator("#live")
    assert not live.is_visible() and page.evaluate(fits)
    with LiveLog(desk.path / WORK / "stars", NAMES, [], NullProgress()) as log:
        log.add({"step": 1, "loss": 0.7, "accuracy": 0.5})
        live.wait_for()
        log.add({"step": 2, "loss": 0.35, "accuracy": 0.75})
        page.get_by_text("step 2 of 4, loss 0.350, 75% of its pairs right").wait_for()
        assert page.locator("#live-line").get_attribute("d").count("L") == 1
        assert page.locator("#live-title").text_content() == "stars: preference, loss" and page.evaluate(fits)
    for path in (desk.path / WORK / "stars").iterdir():
        path.unlink()
    live.wait_for(state="hidden")  # learnt: the page is loaded again
    page.locator("a", has_text="Report").click()
    page.locator(".tile").first.wait_for()
    page.locator("nav a", has_text="desk").click()
    page.locator("a", has_text="Compare two points").click()
    page.locator("select").first.select_option("base")
    page.locator("button").click()
    assert "from base to now" in page.locator("h1").text_content()
    assert not errors
    context.close()
