"""A memory with its model: learn, score, answer, recompose."""

from __future__ import annotations

from lifealign.memory.api import Memory

__all__ = ["Memory"]
