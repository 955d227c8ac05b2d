"""Annotators made of a rule, in a browser: they use the page of `lifealign annotate` as people do, by keyboard.

    lifealign annotate ANSWERS... --db ratings.sqlite --annotator ada --annotator ben --prepare
    python examples/scripted_annotators.py ratings.sqlite

They stand for people where the whole way from answers to results is tried, and say no more of the answers than their
rule: the answer that is more like the reference wins, equally like ones are a tie, and where no reference is shown (a
batch with gold questions) the longer one wins. `--noise` turns some choices round, so that they do not agree in everything. Needs
Chromium and playwright; stopped and started again, they go on.
"""

import argparse
import difflib
import random
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NEAR = 0.02  # likeness, 0 to 1, within which two answers are equally like the reference


def likeness(text, reference):
    """Share of the characters that two texts have in common, in order, 0 to 1."""
    return difflib.SequenceMatcher(None, text, reference, autojunk=False).ratio()


def key_of_pair(left, right, reference, turned):
    """The key that says which side is better."""
    gain = len(left) - len(right)
    if reference is not None:
        gain = likeness(left, reference) - likeness(right, reference)
        gain = gain if abs(gain) > NEAR else 0
    if gain == 0:
        return "t"
    return "ArrowLeft" if (gain > 0) != turned else "ArrowRight"


def key_of_score(text, reference, turned):
    """The key of a score from 1 to 10: by likeness, 5 without a reference; turned round, as far from the other end."""
    score = 5 if reference is None else 1 + round(9 * likeness(text, reference))
    return str((11 - score if turned else score) % 10)


def rate(page, name, noise, seed):
    """Rate all that is open."""
    while True:
        page.wait_for_selector("[data-ready]")
        done = int(page.locator("progress").get_attribute("value"))
        if not page.locator("#rating").count():
            return done
        # The first line is the letter of the side.
        texts = [side.partition("\n")[2] for side in page.locator(".side").all_inner_texts()]
        shown = page.locator(".reference .text")
        reference = shown.inner_text() if shown.count() else None
        for step in page.locator(".step").all():
            page.keyboard.press(step.locator("input").first.get_attribute("data-keys"))
        turned = random.Random(f"{seed} {name} {done}").random() < noise
        choose = key_of_pair if len(texts) == 2 else key_of_score
        page.keyboard.press(choose(*texts, reference, turned))
        page.wait_for_selector(f'progress[value="{done + 1}"]')


def main():
    """Serve the file, rate as each of its annotators, and stop serving."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", metavar="FILE", help="of lifealign annotate --db")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the choices that are turned round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command = [sys.executable, "-m", "lifealign", "annotate", "--db", options.db, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in server.stderr:
        if line.startswith("serving"):
            break
        lines.append(line)
    else:
        sys.exit("".join(lines))
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            for line in lines:
                name, link = line.split(": ", 1)[0], line.split()[1]
                page = browser.new_context().new_page()
                page.goto(link)
                page.goto(link.partition("/join/")[0] + "/")
                print(f"{name}: {rate(page, name, options.noise, options.seed)} rated", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
