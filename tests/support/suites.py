"""Floors of the embedded suites: what rules that do not understand a row reach on it."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from lifealign.data.tasks import Row, Task, TaskStream


def rows_of(task: Task) -> tuple[Row, ...]:
    return task.train + task.validation + task.test


def words(text: str) -> int:
    return len(text.split())


def features(text: str) -> set[str]:
    tokens = re.findall(r"\w+|[^\w\s]|\n", text.lower())
    return {*tokens, f"first {tokens[0]}", f"last {tokens[-1]}", f"opening {' '.join(tokens[:2])}"}


def best_length_rule(rows: Sequence[Row], length: Callable[[str], int]) -> float:
    """Share of pairs that the better of "the longer is chosen" and "the shorter is chosen" gets right."""
    longer = sum(length(row.chosen) > length(row.rejected) for row in rows) / len(rows)
    shorter = sum(length(row.chosen) < length(row.rejected) for row in rows) / len(rows)
    return max(longer, shorter)


def best_single_feature(rows: Sequence[Row]) -> tuple[float, str]:
    """The best rule "the answer with (or without) this word or mark is chosen": its share of right pairs, and the word.

    It is right in 1/2 + |surplus| / (2 n) of the pairs.
    """
    surplus: Counter[str] = Counter()
    for row in rows:
        chosen, rejected = features(row.chosen), features(row.rejected)
        surplus.update(chosen - rejected)
        surplus.subtract(rejected - chosen)
    worst, count = max(surplus.items(), key=lambda item: abs(item[1]))
    return 0.5 + abs(count) / (2 * len(rows)), worst


def overlap_rule(rows: Sequence[Row]) -> float:
    """Share of pairs that the better of "more (or fewer) words in common with the prompt" gets right; ties count half."""

    def shared(row: Row, answer: str) -> float:
        asked = set(re.findall(r"\w+", row.prompt[-1].content.lower()))
        said = set(re.findall(r"\w+", answer.lower()))
        return len(asked & said) / len(said)

    more = sum((d := shared(row, row.chosen) - shared(row, row.rejected)) > 0 or 0.5 * (d == 0) for row in rows)
    return max(more, len(rows) - more) / len(rows)


def learnt_on_answers(stream: TaskStream) -> float:
    """A perceptron on words of the answers, without prompts, learnt on train: its share of right test pairs."""
    weights: dict[str, float] = defaultdict(float)

    def margin(row: Row) -> float:
        chosen, rejected = features(row.chosen), features(row.rejected)
        return sum(weights[f] for f in sorted(chosen - rejected)) - sum(weights[f] for f in sorted(rejected - chosen))

    total: dict[str, float] = defaultdict(float)
    train = [row for rows in zip(*(task.train for task in stream.tasks), strict=True) for row in rows]
    for _ in range(5):
        for row in train:
            if margin(row) <= 0:
                chosen, rejected = features(row.chosen), features(row.rejected)
                for feature in chosen - rejected:
                    weights[feature] += 1
                for feature in rejected - chosen:
                    weights[feature] -= 1
        for feature, weight in weights.items():
            total[feature] += weight
    weights = total
    test = [row for task in stream.tasks for row in task.test]
    return sum(margin(row) > 0 for row in test) / len(test)


def naive_bayes(train: Mapping[str, Sequence[str]], test: Mapping[str, Sequence[str]]) -> float:
    """Share of test prompts whose task is found by naive Bayes on words (multinomial, add-one), learnt on train prompts.

    Args:
        train: task -> prompts; as many for each task.
        test: the same.
    """

    def tokens(prompt: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", prompt.lower())

    counts = {task: Counter(word for prompt in prompts for word in tokens(prompt)) for task, prompts in train.items()}
    vocabulary = len({word for found in counts.values() for word in found})
    sizes = {task: sum(found.values()) + vocabulary for task, found in counts.items()}

    def guess(prompt: str) -> str:
        def score(task: str) -> float:
            return sum(math.log((counts[task][word] + 1) / sizes[task]) for word in tokens(prompt))

        return max(counts, key=score)

    right = [guess(prompt) == task for task, prompts in test.items() for prompt in prompts]
    return sum(right) / len(right)
