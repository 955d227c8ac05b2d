"""The embedded contested suite: one support desk, eight policies, each for one detail of a request.

Every prompt has the same kinds of sentences about the same products. A task's prompts have its detail (a high price,
another country, an angry tone ...) and neutral values for all others, so that the topic of a prompt tells nothing of
its task. Chosen shows the behaviour that the detail asks for, rejected that of another task, with the same content.
Built from `contested.json`. See docs/explanation/contested-suite.md.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from lifealign.data.suites.contested_rules import RULES, TASKS
from lifealign.data.suites.suite import (
    PATTERN,
    Drawn,
    Split,
    Suite,
    content_of,
    draw_answers,
    framed,
    other_task,
    upper_first,
)
from lifealign.data.tasks import Message, Row

FILE = "contested.json"
ROWS_OF_A_TOPIC = 5

DETAILS: Mapping[str, str] = dict(
    zip(TASKS, ("price", "place", "tone", "photo", "gift", "customer", "count", "subscription"), strict=True)
)
"""Task -> the part of a prompt that decides for it."""


def prompt_of(topic: tuple[str, str, str], detail: str | None, split: Split, rng: random.Random) -> str:
    """Draw a prompt about a topic.

    Args:
        topic: product, fault and cause.
        detail: the part that has the detail; None: all parts are neutral.
        split: decides which places are named.
        rng: of every choice.
    """
    wordings = content_of(FILE)["wordings"]
    parts = {
        part: rng.choice(wordings["detail" if part == detail else "neutral"][part]) for part in wordings["neutral"]
    }
    parts["place"] = rng.choice(wordings["abroad" if detail == "place" else "home"][split])
    parts["price"] = str(rng.randint(45, 98) * 10 if detail == "price" else rng.randint(12, 98))
    return str(rng.choice(wordings["prompts"])).format(product=topic[0], fault=topic[1], **parts)


def answer_of(cause: str, behaviour: str, rng: random.Random) -> str:
    """Draw an answer that states the cause and shows the behaviour of the task of this name."""
    wordings: Mapping[str, Any] = content_of(FILE)["wordings"]
    text = str(rng.choice(wordings["answers"][behaviour])).format(b=cause, B=upper_first(cause))
    # An apology comes first, and an invoice last.
    return framed(text, wordings, rng, opener=behaviour != "angry-tone", closer=behaviour != "business-customers")


@functools.cache
def _rows(task: str, split: Split) -> tuple[Drawn, ...]:
    """All rows of one split in file order; they depend only on the package, so they are drawn once per process."""
    rng = random.Random(f"contested/{task}/{split}")
    rows: list[Drawn] = []
    seen: set[str] = set()
    for index, entry in enumerate(content_of(FILE)["topics"]):
        if PATTERN[index % len(PATTERN)] != split:
            continue
        for _ in range(ROWS_OF_A_TOPIC):
            while (prompt := prompt_of(entry, DETAILS[task], split, rng)) in seen:
                pass
            seen.add(prompt)
            other = other_task(TASKS, task, len(rows))
            longer = len(rows) // (len(TASKS) - 1) % 2 == 0
            chosen, rejected = draw_answers(partial(answer_of, entry[2], rng=rng), RULES, task, other, longer)
            row = Row((Message("user", prompt),), chosen, rejected, f"contested/{task}/{split}:{len(rows) + 1}")
            rows.append(Drawn(other, len(chosen) > len(rejected), row))
    return tuple(rows)


CONTESTED = Suite("contested", TASKS, _rows, FILE)
contested_stream = CONTESTED.stream
