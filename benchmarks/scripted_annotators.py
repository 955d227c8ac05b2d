"""Annotators made of a rule, in a browser: they use the page of `lifealign annotate` as people do, by keyboard.

    python benchmarks/scripted_annotators.py http://127.0.0.1:8500/join/... http://127.0.0.1:8500/join/... --noise 0.1

Each compares what the page shows: the answer that is more like the reference wins, equally like ones are a tie, and of
a pair without a reference (a gold question) the longer one wins. With `--noise` some choices are turned round. This
shows that the way from answers to results works; what it says of the answers is no more than that rule.
"""

from __future__ import annotations

import argparse
import difflib
import random
import shutil
from typing import Any

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NEAR = 0.02  # likeness, 0 to 1, within which two answers are equally like the reference


def likeness(text: str, reference: str) -> float:
    """Share of the characters that two texts have in common, in order, 0 to 1."""
    return difflib.SequenceMatcher(None, text, reference, autojunk=False).ratio()


def choose(sides: list[str], reference: str | None) -> float:
    """Above 0 where the left one is better, below 0 where the right one is, 0 for a tie."""
    if reference is None:
        return float(len(sides[0]) - len(sides[1]))
    gain = likeness(sides[0], reference) - likeness(sides[1], reference)
    return gain if abs(gain) > NEAR else 0.0


def score(side: str, reference: str | None) -> int:
    """1 to 10, by likeness; 5 without a reference."""
    return 5 if reference is None else 1 + round(9 * likeness(side, reference))


def rate_all(page: Any, noise: float, generator: random.Random) -> int:
    """Answer every question; the number of them."""
    done = 0
    while True:
        page.wait_for_selector("[data-ready]")
        if not page.locator("#rating").count():
            return done
        sides = page.locator(".side").all_inner_texts()
        shown = page.locator(".reference .text")
        reference = shown.inner_text() if shown.count() else None
        for step in page.locator(".step").all():
            page.keyboard.press(step.locator("input").first.get_attribute("data-keys"))
        if len(sides) == 2:
            gain = choose([text.partition("\n")[2] for text in sides], reference)
            gain = -gain if generator.random() < noise else gain
            key = "ArrowLeft" if gain > 0 else "ArrowRight" if gain < 0 else "t"
        else:
            value = score(sides[0].partition("\n")[2], reference)
            value = generator.randint(1, 10) if generator.random() < noise else value
            key = str(value % 10)
        page.keyboard.press(key)
        done += 1
        page.wait_for_selector(f'progress[value="{done}"], #status.bad')
        if page.locator("#status.bad").count():
            raise SystemExit(f"question {done}: {page.locator('#status').inner_text()}")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("links", nargs="+", metavar="LINK", help="personal links that `lifealign annotate` printed")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the choices that are turned round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for number, link in enumerate(options.links):
            page = browser.new_context().new_page()
            page.goto(link)
            page.goto(link.partition("/join/")[0] + "/")
            page.wait_for_selector("[data-ready]")
            already = page.locator("progress").get_attribute("value")
            if already != "0":
                raise SystemExit(f"{link}: {already} rated already; these annotators begin at the beginning")
            count = rate_all(page, options.noise, random.Random(f"{options.seed} {number}"))
            print(f"{page.locator('.who b').inner_text()}: {count} rated")
        browser.close()


if __name__ == "__main__":
    main()
