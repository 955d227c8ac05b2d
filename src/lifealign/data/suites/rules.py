"""Rules that score the behaviour of one generated answer, by name: those of the embedded suites, and your own."""

from __future__ import annotations

import inspect
from typing import Any

from lifealign.core.errors import ConfigError, DataError, UserError
from lifealign.core.registry import Registry
from lifealign.data.suites import contested_rules, drifting_rules, long_rules, planted_rules, revised_rules
from lifealign.data.suites.suite import Rule as Rule


def _check(value: Any) -> str | None:
    return None if callable(value) else f"expected a function answer -> bool, got {value!r}"


CHECKERS: Registry[Rule] = Registry("checker", "lifealign.checkers", check=_check, error=DataError)
for _rules in (planted_rules.RULES, contested_rules.RULES, revised_rules.RULES, long_rules.RULES, drifting_rules.RULES):
    CHECKERS.built_in(_rules)


def register_checker(name: str, function: Any = None) -> Any:
    """Register your own rule for the `checker` of a task; without `function`, returns a decorator.

    Args:
        name: lower-case letters, digits, - and _.
        function: answer -> whether it shows the behaviour.

    Raises:
        ConfigError: the name is taken or invalid, or `function` is not callable.
    """
    if function is None:
        return lambda function: register_checker(name, function)
    return CHECKERS.register(name, function)


def checker(name: str) -> Rule:
    """The rule of this name, or of a reference; it returns True if an answer shows the behaviour.

    A rule from outside that fails, or returns neither True nor False, raises a `ConfigError` that names it.

    Raises:
        DataError: no such rule.
        ConfigError: it cannot be loaded.
    """
    rule = CHECKERS.find(name)
    if not CHECKERS.is_outside(name):
        return rule
    here = f"checker {name!r} ({CHECKERS.origin(name)})"

    def checked(answer: str) -> bool:
        try:
            found = rule(answer)
            known = found in (True, False)
        except Exception as error:
            raise ConfigError(f"{here} failed: {type(error).__name__}: {error}") from error
        if not known:
            raise ConfigError(f"{here}: expected True or False, got {found!r}")
        return bool(found)

    return checked


def in_words(name: str | None) -> str | None:
    """What a rule asks for: the first paragraph of its docstring. None without one, or if it is not loaded here."""
    try:
        found = None if name is None else CHECKERS.find(name)
    except ConfigError:  # a rule from outside, which is not here
        return None
    text = inspect.cleandoc(getattr(found, "__doc__", None) or "").split("\n\n")[0] if found is not None else ""
    return " ".join(text.split()) or None


def check_rule(task: str, name: str | None) -> None:
    """Refuse a task whose rule cannot be used, before its rows are read; None: it has no rule.

    Raises:
        ConfigError: names the task, the rule and what is allowed.
    """
    if name is not None:
        try:
            checker(name)
        except UserError as error:
            raise ConfigError(f"task {task}: checker: {error}") from error
