"""The embedded drifting suite: one kind of request, six steps, and a preference that drifts from step to step.

The tasks are the steps in time. The pairs of answers are the same at every step; only what is preferred changes, so that a pair
has a vote at each step. A training pair differs in several attributes, a held-out pair in one alone: a probe, whose five kinds
together tell what a model prefers (`evaluation.following`). Built from `drifting.json`. See docs/explanation/drifting-suite.md.
"""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle, islice

from lifealign.core.errors import ConfigError
from lifealign.data.suites.drifting_rules import (
    ATTRIBUTES,
    DRIFTS,
    RULES,
    STEPS,
    Vector,
    phi,
    preference,
    tasks_of,
    worth,
)
from lifealign.data.suites.suite import MAX_PIECES, PATTERN, Drawn, Split, Suite, content_of, lengths, upper_first
from lifealign.data.tasks import Message, Row

FILE = "drifting.json"
ROWS_OF_A_TOPIC = 5
CLEAR = 0.05
"""The two answers of a pair differ by at least this much in worth at every step of every drift: no vote is a tie."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, without a preference.

    Attributes:
        prompt: text of the user's turn.
        one: an answer.
        other: another one.
        kind: attributes in which they differ.
    """

    prompt: str
    one: str
    other: str
    kind: str


def answer_of(clauses: list[str], wanted: Vector, rng: random.Random) -> str:
    """Draw an answer with these attributes that carries the clauses, at least the first two of them."""
    content = content_of(FILE)
    long, polite, hedged, formal, eager = (value > 0 for value in wanted)
    while True:
        steps = f"{clauses[0]}, then {clauses[1]}" + (f", and at last {clauses[2]}" if long else "")
        body = str(rng.choice(content["hedged"])).format(c=steps) if hedged else steps
        parts = [body, rng.choice(content["formal" if formal else "informal"])]
        if long:
            parts.insert(1, rng.choice(content["more"]))
        if polite:
            parts.insert(rng.choice([0, len(parts)]), rng.choice(content["polite"]))
        marks = ["."] * len(parts)
        if eager:
            marks[rng.randrange(len(parts))] = "!"
        text = " ".join(upper_first(part) + mark for part, mark in zip(parts, marks, strict=True))
        if phi(text) == wanted and lengths(text)[2] <= MAX_PIECES + 15:
            return text


def _two(rng: random.Random, probe: int | None) -> tuple[Vector, Vector]:
    """Attributes of two answers that differ in one attribute, or in several with a clear preference at every step."""
    count = len(ATTRIBUTES)
    while True:
        one = tuple(rng.choice([-1.0, 1.0]) for _ in range(count))
        other = tuple(rng.choice([-1.0, 1.0]) for _ in range(count))
        if probe is not None:
            other = tuple(-value if k == probe else value for k, value in enumerate(one))
        difference = tuple(a - b for a, b in zip(one, other, strict=True))
        apart = sum(value != 0 for value in difference)
        enough = apart == 1 if probe is not None else apart >= 2
        if enough and all(abs(worth(preference(task), difference)) >= CLEAR for task in RULES):
            return one, other


@functools.cache
def pairs_of(split: Split) -> tuple[Pair, ...]:
    """All pairs of one split in file order, the same for every step; drawn once per process."""
    rng, content, pairs = random.Random(f"drifting/{split}"), content_of(FILE), list[Pair]()
    for index, (subject, clauses) in enumerate(content["topics"]):
        if PATTERN[index % len(PATTERN)] != split:
            continue
        prompts = rng.sample(content["prompts"], ROWS_OF_A_TOPIC)
        for place, prompt in enumerate(prompts):
            probe = None if split == "train" else place % len(ATTRIBUTES)
            one, other = _two(rng, probe)
            kind = "+".join(name for name, a, b in zip(ATTRIBUTES, one, other, strict=True) if a != b)
            texts = answer_of(clauses, one, rng), answer_of(clauses, other, rng)
            pairs.append(Pair(prompt.format(s=subject), *texts, kind))
    return tuple(pairs)


@functools.cache
def _rows(task: str, split: Split) -> tuple[Drawn, ...]:
    """The pairs of a split with the preference of a task's step."""
    w, rows = preference(task), list[Drawn]()
    for number, pair in enumerate(pairs_of(split), 1):
        first = worth(w, phi(pair.one)) > worth(w, phi(pair.other))
        chosen, rejected = (pair.one, pair.other) if first else (pair.other, pair.one)
        row = Row((Message("user", pair.prompt),), chosen, rejected, f"drifting/{task}/{split}:{number}")
        rows.append(Drawn(pair.kind, len(chosen) > len(rejected), row))
    return tuple(rows)


@dataclass(frozen=True)
class DriftingSuite(Suite):
    """A suite whose tasks share their pairs, so that a smaller count takes the same ones at every step."""

    def _take(self, task: str, split: Split, count: int | None, seed: int) -> tuple[Row, ...]:
        rows = self.rows(task, split)
        count = len(rows) if count is None else count
        if not 0 <= count <= len(rows):
            raise ConfigError(f"drifting suite, {task}/{split}: {count} rows requested; allowed: 0 to {len(rows)}")
        rng = random.Random(f"drifting/{split}/{seed}")
        kinds: dict[str, list[int]] = defaultdict(list)
        for place in rng.sample(range(len(rows)), len(rows)):
            kinds[rows[place].other if split != "train" else ""].append(place)
        # One of each kind of probe in turn, so that every attribute is measured equally well.
        turns = (kinds[kind].pop() for kind in cycle(sorted(kinds)) if kinds[kind])
        taken = list(islice(turns, count))
        rng.shuffle(taken)
        return tuple(rows[place].row for place in taken)


SUITE_OF_DRIFT = {drift: DriftingSuite("drifting", tasks_of(drift), _rows, FILE) for drift in DRIFTS}
"""Drift -> its suite."""
DRIFTING = SUITE_OF_DRIFT["linear"]
assert len(DRIFTING.tasks) == STEPS
