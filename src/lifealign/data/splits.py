"""Split one task into training, validation and test rows with a seed; no prompt is in more than one split."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lifealign.core.errors import DataError
from lifealign.data.tasks import DataReport, Row, Task, kinds_of, prompt_key

if TYPE_CHECKING:
    from lifealign.core.config import TaskConfig
    from lifealign.data.cleaning import Cleaned

DEFAULT_TEST_ROWS = 40
PROMPT_IN_TEST = "prompt also in test"


def drop_shared_prompts(train: Cleaned, test: Sequence[Row]) -> Cleaned:
    """`train` without the rows whose prompt is also in `test`; its report counts them as dropped."""
    held_out = {prompt_key(row) for row in test}
    kept: list[Row] = []
    kept_numbers: list[int] = []
    kept_scores: list[tuple[float, float] | None] = []
    dropped_numbers: list[int] = []
    for row, number, scores in zip(train.rows, train.numbers, train.scores, strict=True):
        if prompt_key(row) in held_out:
            dropped_numbers.append(number)
        else:
            kept.append(row)
            kept_numbers.append(number)
            kept_scores.append(scores)
    if not dropped_numbers:
        return train
    dropped = {**train.report.dropped, PROMPT_IN_TEST: tuple(dict.fromkeys(dropped_numbers))}
    left = set(kept_numbers)
    doubtful = {r: tuple(n for n in numbers if n in left) for r, numbers in train.report.doubtful.items()}
    doubtful = {reason: numbers for reason, numbers in doubtful.items() if numbers}
    report = replace(train.report, kept=len(kept), dropped=dropped, doubtful=doubtful, kinds=kinds_of(kept))
    return replace(train, rows=tuple(kept), numbers=tuple(kept_numbers), scores=tuple(kept_scores), report=report)


def split_task(
    config: TaskConfig,
    train: Sequence[Row],
    test: Sequence[Row] | None,
    reports: tuple[DataReport, ...],
    seed: int,
    test_rows: int = DEFAULT_TEST_ROWS,
) -> Task:
    """Divide cleaned rows into the splits of a task; the global random generator is not used.

    Args:
        config: name and sizes.
        train: rows to learn from, and to take held-out rows from.
        test: held-out rows; None: taken from `train`.
        reports: one for each source read, that of the training rows first.
        seed: with the task's name, the only input of every draw.
        test_rows: number of test rows taken from `train` if `config` gives none; a few less or more where the rows of one
            prompt, which stay together, do not add up to it.

    Raises:
        DataError: too few rows for the requested sizes.
    """
    rng = random.Random(f"{seed}/{config.name}/splits")
    if test is None:
        smallest = min(Counter(prompt_key(row) for row in train).values(), default=0)
        wanted_test = config.test_rows or max(test_rows, smallest)
        parts, rest = _draw(train, (wanted_test, config.validation_rows), rng)
        drawn_test, validation = parts
        fitting = len(drawn_test) == wanted_test or (config.test_rows is None and bool(drawn_test))
    else:
        wanted_test = 0
        parts, rest = _draw(train, (config.validation_rows,), rng)
        validation = parts[0]
        fitting = True
        shuffled = random.Random(f"{seed}/{config.name}/test").sample(list(test), len(test))
        drawn_test = tuple(shuffled[: config.test_rows])
    if not rest or not fitting or len(validation) < config.validation_rows:
        raise DataError(
            f"task {config.name}: {len(train)} usable rows of {reports[0].source} are too few for "
            f"{f'{wanted_test} test rows, ' if test is None else ''}{config.validation_rows} validation rows and at "
            "least one training row (rows of one prompt stay together); add rows, or lower test_rows and validation_rows"
        )
    train = rest[: config.train_rows]
    return Task(
        config.name, train, validation, drawn_test, config.checker, reports, config.requirement, config.supersedes
    )


def _draw(
    rows: Sequence[Row], sizes: Sequence[int], rng: random.Random
) -> tuple[list[tuple[Row, ...]], tuple[Row, ...]]:
    """Draw random parts of the given sizes, and return them and the rest; rows of one prompt stay together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(prompt_key(row), []).append(row)
    order = list(groups.values())
    rng.shuffle(order)
    parts = []
    for size in sizes:
        part: list[Row] = []
        rest: list[list[Row]] = []
        for group in order:
            if len(part) + len(group) <= size:
                part += group
            else:
                rest.append(group)
        parts.append(tuple(part))
        order = rest
    return parts, tuple(row for group in order for row in group)
