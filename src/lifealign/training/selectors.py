"""Selectors of rows by name, for training (`data.select`) and for replay (`strategy.replay_select`).

Shapes: N rows, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from lifealign.core.errors import TrainingError
from lifealign.core.registry import Registry
from lifealign.data.tasks import Row

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Rows to choose from.

    Attributes:
        rows: different ones that can be encoded.
        task: their task's name.
        seed: of the run.
        features: computes [N, D]: the base model's last hidden states, the mean over a row's prompt and its chosen answer.
    """

    rows: Sequence[Row]
    task: str
    seed: int
    features: Callable[[], Array]


def candidates_of(
    rows: Sequence[Row], task: str, seed: int, features: Callable[[Sequence[Row]], Any] | None = None
) -> Candidates:
    """Candidates whose features are computed when they are first asked for.

    Args:
        rows: different ones.
        task: their task's name.
        seed: of the run.
        features: rows -> [N, D]; None: there are none.
    """
    known: list[Array] = []

    def computed() -> Array:
        if features is None:
            raise TrainingError(f"task {task!r}: this selector asks for features, which are not known here; use random")
        if not known:
            known.append(np.asarray(features(rows), dtype=np.float64))
        return known[0]

    return Candidates(rows, task, seed, computed)


SelectFunction = Callable[[Candidates, int], Sequence[int]]
"""(candidates, number of rows wanted) -> positions of the rows to keep, all different."""

SELECTORS: Registry[SelectFunction] = Registry(
    "selector",
    "lifealign.selectors",
    check=lambda value: (
        None if callable(value) else f"expected a function (candidates, count) -> positions, got {value!r}"
    ),
)


def register_selector(name: str, function: Any = None) -> Any:
    """Register a selector under a name; a decorator if `function` is left out. See `SelectFunction`.

    Raises:
        ConfigError: the name is taken or malformed, or `function` cannot be called.
    """
    if function is None:
        return lambda function: register_selector(name, function)
    return SELECTORS.register(name, function)


SelectorName = Annotated[str, AfterValidator(SELECTORS.known)]


def selected(name: str, candidates: Candidates, count: int) -> list[int]:
    """Positions of `count` rows, or of all if they are fewer, as the selector orders them.

    Raises:
        TrainingError: the selector returned something else.
    """
    wanted = min(count, len(candidates.rows))
    found = [int(i) for i in SELECTORS.find(name)(candidates, wanted)]
    if len(found) != wanted or len(set(found)) != wanted or not set(found) <= set(range(len(candidates.rows))):
        raise TrainingError(
            f"selector {name!r} returned {len(found)} positions for {wanted} of {len(candidates.rows)} rows; return that many "
            "different positions, counted from 0"
        )
    return found


def random_rows(candidates: Candidates, count: int) -> list[int]:
    """A uniform sample, the same for the same rows, task and seed on every machine."""

    def draw(i: int) -> str:
        text = json.dumps([candidates.seed, candidates.task, candidates.rows[i].digest])
        return hashlib.sha256(text.encode()).hexdigest()

    return sorted(range(len(candidates.rows)), key=draw)[:count]


SELECTORS.built_in(
    {"random": random_rows, **{name: f"lifealign.training.isa:{name}" for name in ("isa_tail", "isa_mode")}}
)
