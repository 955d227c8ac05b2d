"""Progress that keeps what is said, for tests of it."""

from __future__ import annotations

from lifealign.core.progress import NullProgress


class Said(NullProgress):
    """Keeps the lines that are said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
