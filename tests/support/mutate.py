"""Documents of another shape: each field of a sound one replaced, dropped or joined by a stranger."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    5,
    1.5,
    10**400,
    float("nan"),
    1e308,
    "",
    "text",
    "\ud800",
    "x" * 20_000,
    [],
    {},
    [[]],
    [None, 1, "a"],
    {"a": 1},
    {"": {"": []}},
)
"""Values that take the place of any field."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all fields; of a list, its first and last items."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, dict) or key in (0, len(value) - 1):
            yield from places(inner, (*path, key))


def mutations(value: Any, share: float = 1.0, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """(what was done, the document), for every field and every hostile value; `share` of them are drawn."""
    draw = random.Random(seed)
    yield from ((f"the whole is {str(bad)[:20]!r}", bad) for bad in HOSTILE)
    for path in places(value):
        for bad in (*HOSTILE, _DROP, _JOIN):
            if draw.random() >= share:
                continue
            changed = copy.deepcopy(value)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if bad is _DROP:
                del holder[path[-1]]
            elif bad is _JOIN:
                if not isinstance(holder, dict):
                    continue
                holder["stranger"] = holder[path[-1]]
            else:
                holder[path[-1]] = bad
            yield f"{'.'.join(map(str, path))} is {str(bad)[:20]!r}", changed


_DROP, _JOIN = object(), object()
