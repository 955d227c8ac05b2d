"""Prompts of one conversation, cut at several turns: rows of it on both sides of a split would leak; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lifealign.data.tasks import Row

Turns = tuple[str, ...]

PROMPT = "prompt"
CONVERSATION = "conversation"


def turns_key(row: Row) -> Turns:
    """The prompt's turns with case and white space normalised, as in `tasks.prompt_key`."""
    return tuple(f"{m.role}: {' '.join(m.content.split()).casefold()}" for m in row.prompt)


class HeldOut:
    """Prompts that must not be trained on.

    Args:
        rows: held-out rows, each with the name of the task that holds it out.
    """

    def __init__(self, rows: Iterable[tuple[str, Row]]) -> None:
        self._whole: dict[Turns, str] = {}
        self._begun: dict[Turns, str] = {}  # what a held-out conversation begins with
        for task, row in rows:
            key = turns_key(row)
            self._whole.setdefault(key, task)
            for turns in range(1, len(key)):
                self._begun.setdefault(key[:turns], task)

    def find(self, row: Row) -> tuple[str, str] | None:
        """`PROMPT` or `CONVERSATION`, and the task, if a row's prompt is held out; None: it is not.

        A conversation is held out if a held-out prompt begins with the row's prompt, or the row's with a held-out one.
        """
        key = turns_key(row)
        if key in self._whole:
            return PROMPT, self._whole[key]
        if key in self._begun:
            return CONVERSATION, self._begun[key]
        found = next((self._whole[key[:n]] for n in range(1, len(key)) if key[:n] in self._whole), None)
        return None if found is None else (CONVERSATION, found)


def conversations(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by conversation, in the order in which the first row of each appears.

    Rows are of one conversation if the prompt of one is that of the other or begins with it, directly or through others.
    """
    keys = [turns_key(row) for row in rows]
    known = set(keys)
    first: dict[Turns, Turns] = {}

    def root(key: Turns) -> Turns:
        while (up := first.setdefault(key, key)) != key:
            first[key] = first[up]
            key = up
        return key

    for key in dict.fromkeys(keys):
        for turns in range(1, len(key)):
            if key[:turns] in known:
                first[root(key)] = root(key[:turns])
    groups: dict[Turns, list[Row]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(root(key), []).append(row)
    return list(groups.values())
