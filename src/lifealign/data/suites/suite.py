"""What the embedded suites share: how answers are drawn, how rows go to splits, and how a stream takes a part of them.

The rows of a suite depend only on the package. Both answers of a row carry the same content; the chosen one shows its
task's behaviour, the rejected one that of another task.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import DataReport, Row, Task, TaskStream, as_feedback

Rule = Callable[[str], bool]
"""Answer -> whether it shows the behaviour."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

PATTERN: tuple[Split, ...] = ("train", "train", "test", "train", "validation")
"""The topics of a suite go to the splits in this pattern: 3 / 1 / 1 of five."""

MAX_PIECES = 45
"""Words and marks of the longest answer."""
FILLERS = 0.15
"""Share of answers with a polite or empty phrase at either end, before lengths are balanced. More would teach nothing."""


@dataclass(frozen=True)
class Drawn:
    """One row of a suite.

    Attributes:
        other: the behaviour of the rejected answer, by the name of a task.
        longer: whether the chosen answer has more characters than the rejected one.
        row: the row itself.
    """

    other: str
    longer: bool
    row: Row


@dataclass(frozen=True)
class Suite:
    """Tasks that the package holds, with rules that score their answers.

    Attributes:
        name: as in `stream` of a configuration, and first part of the rows' sources.
        tasks: names of the tasks in the order in which they arrive; each is the name of its rule, too.
        rows: (task, split) -> all rows of the split in a fixed order.
        content: file of this folder that holds texts and requirements; its bytes stand for the suite in a study's id.
        supersedes: task -> the earlier task whose rule it changes.
    """

    name: str
    tasks: tuple[str, ...]
    rows: Callable[[str, Split], Sequence[Drawn]]
    content: str
    supersedes: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Digest of the content file."""
        return hashlib.sha256(_file(self.content).encode()).hexdigest()

    def stream(
        self,
        train_rows: int | None = None,
        validation_rows: int | None = None,
        test_rows: int | None = None,
        seed: int = 0,
        unpaired: bool = False,
    ) -> TaskStream:
        """The tasks of the suite in its own order.

        The full set of rows is fixed; the seed decides only which rows a smaller count takes, and their order.

        Args:
            train_rows: rows per task; None takes all.
            validation_rows: rows per task; None takes all.
            test_rows: rows per task; None takes all.
            seed: any integer; equal arguments give equal streams.
            unpaired: split each training pair into two rows of feedback on one answer, so that a task has twice as many.

        Returns:
            A stream of the suite's name; each task's checker is its own name.

        Raises:
            ConfigError: a number of rows is out of range.
        """
        requirements = content_of(self.content)["requirements"]
        tasks = []
        for name in self.tasks:
            taken: dict[str, tuple[Row, ...]] = {}
            for split, count in zip(SPLITS, (train_rows, validation_rows, test_rows), strict=True):
                taken[split] = self._take(name, split, count, seed)
            if unpaired:
                taken["train"] = as_feedback(taken["train"])
            total = sum(map(len, taken.values()))
            report = DataReport(source=f"{self.name}/{name}", read=total, kept=total)
            task = Task(
                name,
                **taken,
                checker=name,
                reports=(report,),
                requirement=requirements[name],
                supersedes=self.supersedes.get(name),
            )
            tasks.append(task)
        return TaskStream(self.name, tuple(tasks))

    def _take(self, task: str, split: Split, count: int | None, seed: int) -> tuple[Row, ...]:
        """A seeded subset in seeded order that balances the rejected behaviours and the lengths."""
        rows, where = self.rows(task, split), f"{task}/{split}"
        if count is None:
            count = len(rows)
        if not 0 <= count <= len(rows):
            raise ConfigError(f"{self.name} suite, {where}: {count} rows requested; allowed: 0 to {len(rows)}")
        rng = random.Random(f"{self.name}/{where}/{seed}")
        strata: dict[tuple[str, bool], list[Row]] = defaultdict(list)
        for drawn in rows:
            strata[drawn.other, drawn.longer].append(drawn.row)
        keys = sorted(strata)
        rng.shuffle(keys)
        for key in keys:
            rng.shuffle(strata[key])
        # One row of each stratum in turn, so that any count is balanced to within one row if the strata are.
        turns = [strata[key][turn] for turn in range(len(rows)) for key in keys if turn < len(strata[key])]
        taken = turns[:count]
        rng.shuffle(taken)
        return tuple(taken)


def _file(name: str) -> str:
    return resources.files("lifealign.data.suites").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def content_of(name: str) -> Any:
    """A content file of this folder, read once per process."""
    return json.loads(_file(name))


def with_articles(text: str) -> str:
    """The text with "a" turned into "an" before a vowel ("a unicycle" and its like stay)."""
    return re.sub(r"\b([Aa])(?= (?!uni)[aeiou])", r"\1n", text)


def upper_first(text: str) -> str:
    """The text with its first letter capitalised and the rest unchanged."""
    return text[:1].upper() + text[1:]


def lengths(text: str) -> tuple[int, int, int]:
    """Characters, words, and pieces: words and runs of marks, which is close to the number of tokens."""
    return len(text), len(text.split()), len(re.findall(r"\w+|[^\w\s]+", text))


def draw_answers(
    write: Callable[[str], str], rules: Mapping[str, Rule], task: str, other: str, longer: bool, draws: int = 1000
) -> tuple[str, str]:
    """Draw (chosen, rejected) until chosen is the longer answer (or the shorter one) in characters, words and pieces.

    If no draw meets all three, use the first that meets characters and words, else the first of all.

    Args:
        write: draws one answer that is meant to show the behaviour of a task.
        rules: by task; an answer that does not show its behaviour is drawn again.
        task: whose behaviour chosen shows.
        other: whose behaviour rejected shows.
        longer: whether chosen must be the longer one.
        draws: how often to draw at most.
    """
    spare: tuple[str, str] | None = None
    spare_holds = False
    for _ in range(draws):
        chosen, rejected = write(task), write(other)
        met = [a > b if longer else a < b for a, b in zip(lengths(chosen), lengths(rejected), strict=True)]
        if spare is not None and not all(met) and (spare_holds or not all(met[:2])):
            continue
        if max(lengths(chosen)[2], lengths(rejected)[2]) > MAX_PIECES:
            continue
        if not (rules[task](chosen) and rules[other](rejected)):
            continue  # a short sentence may have come out too long
        if all(met):
            return chosen, rejected
        spare, spare_holds = (chosen, rejected), all(met[:2])
    assert spare is not None, "no draw shows both behaviours"
    return spare


def other_task(tasks: Sequence[str], task: str, place: int) -> str:
    """The behaviour of the rejected answer of a task's row number `place`: all others in turn, each task from its own next.

    So every behaviour is rejected as often as chosen over the suite, even where the rows of a task do not divide evenly.
    """
    return tasks[(tasks.index(task) + 1 + place % (len(tasks) - 1)) % len(tasks)]


def framed(
    text: str,
    wordings: Mapping[str, Any],
    rng: random.Random,
    *,
    opener: bool = True,
    closer: bool = True,
    full_stop: bool = True,
) -> str:
    """Add a polite phrase at either end, or drop the last full stop; neither tells anything of the behaviour.

    Args:
        text: ends with a full stop, if `full_stop` is given.
        wordings: lists `openers` and `closers`.
        rng: of every choice.
        opener: whether a phrase may stand before the text.
        closer: whether a phrase may stand after it.
        full_stop: whether the last mark may be dropped.
    """
    if opener and rng.random() < FILLERS:
        text = f"{rng.choice(wordings['openers'])}. {text}"
    if closer and rng.random() < FILLERS:
        return f"{text} {rng.choice(wordings['closers'])}"
    return text[:-1] if full_stop and rng.random() < 0.2 else text
