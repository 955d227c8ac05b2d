"""A memory's life in a few calls, for tests of strategies."""

from __future__ import annotations

from lifealign.testing import assert_same, learn, start, tiny_task

TASKS = [tiny_task(name, train=6, test=2) for name in ("bread", "stars", "music")]

__all__ = ["TASKS", "assert_same", "learn", "start"]
