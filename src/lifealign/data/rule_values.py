"""How far an answer keeps a rule, from 0 to 1: rules with a parameter, checkers by name, and your own. Imports no torch.

A rule is written as `min_words=N`, `max_words=N`, `keywords=A,B`, `avoid=A,B`, `regex=PATTERN`, `json`, `task:NAME` (the
checker of a task of the memory), the name of a checker, or path/to/file.py:function (answer -> True, False or a number).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from lifealign.core.errors import ConfigError
from lifealign.data.suites.rules import CHECKERS, Rule, checker

Value = Callable[[str], float]
"""Answer -> how far it keeps a rule, in [0, 1]."""
TASK = "task:"
"""Before the name of a task whose own rule is meant."""


def find_value(rule: str, rule_of: Callable[[str], Rule] | None = None, *, any_number: bool = False) -> Value:
    """The value function of a rule as a user writes it.

    Args:
        rule: see the module.
        rule_of: name of a task of the memory -> its rule; None: no memory is at hand, and `task:NAME` is refused.
        any_number: a function from outside may return any finite number, as a reward may; else it must be in [0, 1].

    Raises:
        ConfigError: no such rule, a parameter out of range, or a task without a rule.
    """
    name, equals, text = rule.partition("=")
    if name in PARAMETERS and equals:
        return PARAMETERS[name](rule, text)
    if rule in PARAMETERS:
        raise ConfigError(f"rule {rule!r} needs a value, e.g. {EXAMPLES[rule]}")
    if rule == "json":
        return _is_json
    if rule.startswith(TASK):
        if rule_of is None:
            raise ConfigError(f"rule {rule!r}: the rule of a task needs a memory; name the rule itself")
        return _of_checker(rule_of(rule.removeprefix(TASK)))
    if CHECKERS.is_outside(rule) and rule in CHECKERS:
        return _outside(rule, any_number)
    if rule not in CHECKERS:
        forms = ", ".join([*EXAMPLES.values(), "json", "task:NAME", "path/to/file.py:function"])
        raise ConfigError(f"unknown rule {rule!r}; allowed: {forms}, or a checker: {', '.join(sorted(CHECKERS))}")
    return _of_checker(checker(rule))


def _of_checker(rule: Rule) -> Value:
    return lambda answer: float(rule(answer))


def _outside(rule: str, any_number: bool) -> Value:
    function = CHECKERS.find(rule)
    here = f"rule {rule!r} ({CHECKERS.origin(rule)})"

    def value(answer: str) -> float:
        try:
            found = float(function(answer))
        except Exception as error:
            raise ConfigError(f"{here} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(found) or not (any_number or 0 <= found <= 1):
            allowed = "a finite number" if any_number else "True, False or a number from 0 to 1"
            raise ConfigError(f"{here}: expected {allowed}, got {found!r}")
        return found

    return value


def _is_json(answer: str) -> float:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


# --- rules with a parameter ---


def _count(rule: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"rule {rule!r}: expected a whole number of 1 or more")
    return int(text)


def _words(rule: str, text: str) -> list[re.Pattern[str]]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"rule {rule!r}: expected words with commas between them")
    return [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE) for word in words]


def _min_words(rule: str, text: str) -> Value:
    least = _count(rule, text)
    return lambda answer: min(1.0, len(answer.split()) / least)


def _max_words(rule: str, text: str) -> Value:
    most = _count(rule, text)
    return lambda answer: min(1.0, most / max(1, len(answer.split())))


def _keywords(rule: str, text: str) -> Value:
    words = _words(rule, text)
    return lambda answer: sum(word.search(answer) is not None for word in words) / len(words)


def _avoid(rule: str, text: str) -> Value:
    found = _keywords(rule, text)
    return lambda answer: 1 - found(answer)


def _regex(rule: str, text: str) -> Value:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"rule {rule!r}: not a regular expression: {error}") from None
    return lambda answer: float(pattern.search(answer) is not None)


PARAMETERS: Mapping[str, Callable[[str, str], Value]] = {
    "min_words": _min_words,
    "max_words": _max_words,
    "keywords": _keywords,
    "avoid": _avoid,
    "regex": _regex,
}
"""Name -> (rule as written, parameter) -> value function."""
EXAMPLES: Mapping[str, str] = {
    "min_words": "min_words=20",
    "max_words": "max_words=40",
    "keywords": "keywords=refund,receipt",
    "avoid": "avoid=sorry",
    "regex": "regex=^Dear",
}
