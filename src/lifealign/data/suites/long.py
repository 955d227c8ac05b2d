"""The embedded long suite: 24 tasks, made by combining domains, kinds of request, formats and tones.

A task is a domain (cooking, music ...) and a kind of request (how to start, what to do in trouble, how to improve). Each
asks for its own pair of one of six formats and one of four tones, so that a format tells a quarter of the answer and a
tone a sixth; domain and kind together decide. Chosen and rejected give the same two pieces of advice.
Built from `long.json`. See docs/explanation/long-suite.md.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from functools import partial

from lifealign.data.suites.long_rules import RULES, STYLES, TASKS
from lifealign.data.suites.suite import PATTERN, Drawn, Split, Suite, content_of, draw_answers, other_task, upper_first
from lifealign.data.tasks import Message, Row

FILE = "long.json"
ROWS_OF_A_TOPIC = 5
TAILS = 0.4
"""Share of answers with an empty phrase after the advice: formats differ in length, and this lets lengths cross."""
DRAWS = 100


def answer_of(advice: Sequence[str], style: tuple[str, str], rng: random.Random) -> str:
    """Draw an answer in a format and a tone.

    Args:
        advice: two statements without a capital first letter and a full stop.
        style: format and tone, by name.
        rng: of every choice.
    """
    form, tone = style
    content = content_of(FILE)
    first = upper_first(advice[0])
    tail = rng.choice(content["tails"]) if rng.random() < TAILS else ""
    last = advice[1] + tail + rng.choice([".", ".", ""])
    if form == "labels":
        one, two = rng.choice(content["labels"])
        body = f"{one}: {advice[0]}\n{two}: {last}"
    else:
        body = {
            "bullets": f"- {first}\n- {upper_first(last)}",
            "numbers": f"1. {first}\n2. {upper_first(last)}",
            "sentence": f"{first}, and {last}",
            "quote": f'"{first}, and {last}"',
            "arrow": f"{first} -> {last}",
        }[form]
    gap = "\n" if form in ("bullets", "numbers", "labels") else " "
    phrase = rng.choice(content["openers"][tone])
    if tone == "cheering":
        if gap == " ":  # the wish begins a sentence of its own
            body = body.rstrip('."') + ('."' if form == "quote" else ".")
        return f"{body}{gap}{phrase}{rng.choice(['!', '.', '!'])}"
    return f"{phrase}{rng.choice([':', '.', ','] if tone == 'formal' else [':', '.'])}{gap}{body}"


def _styled(advice: Sequence[str], task: str, rng: random.Random) -> str:
    return answer_of(advice, STYLES[task], rng)


@functools.cache
def _rows(task: str, split: Split) -> tuple[Drawn, ...]:
    """All rows of one split in file order; they depend only on the package, so they are drawn once per process."""
    content, rng = content_of(FILE), random.Random(f"long/{task}/{split}")
    name, kind = task.split("-")
    domain = content["domains"][name]
    rows: list[Drawn] = []
    for index, subject in enumerate(domain["subjects"]):
        if PATTERN[index % len(PATTERN)] != split:
            continue
        for template in rng.sample(content["prompts"][kind], ROWS_OF_A_TOPIC):
            other = other_task(TASKS, task, len(rows))
            longer = (len(rows) + len(rows) // (len(TASKS) - 1)) % 2 == 0
            write = partial(_styled, rng.sample(domain[kind], 2), rng=rng)
            chosen, rejected = draw_answers(write, RULES, task, other, longer, DRAWS)
            row = Row(
                (Message("user", template.format(s=subject)),), chosen, rejected, f"long/{task}/{split}:{len(rows) + 1}"
            )
            rows.append(Drawn(other, len(chosen) > len(rejected), row))
    return tuple(rows)


LONG = Suite("long", TASKS, _rows, FILE)
long_stream = LONG.stream
