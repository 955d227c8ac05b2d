"""Embedded task suites and the rules that score their answers."""

from __future__ import annotations

from collections.abc import Callable

from lifealign.core.errors import DataError


def checker(name: str) -> Callable[[str], bool]:
    """The rule of that name; true of an answer that shows the behaviour.

    Raises:
        DataError: no such rule.
    """
    from lifealign.data.planted.suite import CHECKERS

    if name not in CHECKERS:
        raise DataError(f"unknown checker {name!r}; allowed: {', '.join(sorted(CHECKERS))}")
    return CHECKERS[name]
