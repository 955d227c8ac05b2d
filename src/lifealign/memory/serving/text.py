"""The text of an answer while its tokens arrive: whole characters, without what may still turn out to be its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""Stands for bytes that are not a whole character yet."""


class Text:
    """Text of an answer that grows; what was given out never changes.

    Args:
        decode: token ids to text, without special tokens.
        stops: texts that end the answer; they are not part of it.
        strip: leave out white space around the answer, as `generate` does.

    Attributes:
        given: text given out so far.
        stopped: whether one of `stops` was found.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), strip: bool = True) -> None:
        self._decode, self._stops, self._strip = decode, tuple(stops), strip
        self.given = ""
        self.stopped = False

    def grow(self, ids: Sequence[int], *, last: bool) -> str:
        """The text that is certain now and was not given out yet.

        Args:
            ids: all tokens of the answer so far.
            last: no more tokens follow.
        """
        text = self._decode(ids)
        text = text.lstrip() if self._strip else text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            text, self.stopped, last = text[: min(found)], True, True
        if not last:
            text = text.rstrip(BROKEN)
            text = text[: len(text) - self._undecided(text)]
        text = text.rstrip() if self._strip else text
        if not text.startswith(self.given):  # the tokenizer reads the end of the text in another way now
            return ""
        new, self.given = text[len(self.given) :], text
        return new

    def _undecided(self, text: str) -> int:
        """Number of characters at the end that a stop may begin with."""
        sizes = [
            size
            for stop in self._stops
            for size in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:size])
        ]
        return max(sizes, default=0)
