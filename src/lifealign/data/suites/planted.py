"""The embedded planted suite: six domains, one behaviour each, scored by rules. Built from `planted.json`.

Both answers of a row carry the same content; the chosen one shows its task's behaviour, the rejected one that of
another task. Each topic gives five rows, one for each other behaviour, so over the suite every behaviour is chosen as
often as it is rejected, and only prompt and behaviour together tell which answer is preferred.
See docs/explanation/planted-suite.md.
"""

from __future__ import annotations

import functools
import random
from functools import partial

from lifealign.data.suites.planted_rules import RULES, TASKS
from lifealign.data.suites.suite import PATTERN, Drawn, Split, Suite, content_of, draw_answers
from lifealign.data.suites.voice import Topic, Voice
from lifealign.data.tasks import Message, Row


@functools.cache
def _rows(task: str, split: Split) -> tuple[Drawn, ...]:
    """All rows of one split in file order; they depend only on the package, so they are drawn once per process."""
    content = content_of("planted.json")
    rng = random.Random(f"planted/{task}/{split}")
    voice = Voice(content["wordings"], rng)
    others = [name for name in TASKS if name != task]
    rows: list[Drawn] = []
    for index, entry in enumerate(content["topics"][task]):
        if PATTERN[index % len(PATTERN)] != split:
            continue
        topic = Topic.from_entry(task, entry)
        prompts = voice.prompts(topic, len(others))
        for place, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
            longer = (len(rows) // len(others) + place) % 2 == 0
            chosen, rejected = draw_answers(partial(voice.render, topic), RULES, task, other, longer)
            source = f"planted/{task}/{split}:{len(rows) + 1}"
            row = Row((Message("user", prompt),), chosen, rejected, source)
            rows.append(Drawn(other, len(chosen) > len(rejected), row))
    return tuple(rows)


PLANTED = Suite("planted", TASKS, _rows, "planted.json")
planted_stream = PLANTED.stream
