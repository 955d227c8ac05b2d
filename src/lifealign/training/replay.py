"""Replay buffers: rows of earlier tasks that are trained on again. Pure functions of rows, without a random generator.

Every random choice is a hash of (seed, task name, row or position), so a buffer depends only on the rows that entered
it: not on the platform, the order of the rows in the task's file, or earlier draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from lifealign.core.config import Frozen
from lifealign.core.documents import Count, Document, Name, check
from lifealign.core.errors import ConfigError
from lifealign.data.stored import stored_row
from lifealign.data.tasks import Row
from lifealign.training.selectors import SelectorName, candidates_of, selected

ReplayPolicy = Literal["reservoir", "oldest_out", "per_task_quota"]


class ReplayConfig(Frozen):
    """Options of the replay buffer; the Configs of strategies that replay inherit from it."""

    replay_keys: ClassVar[frozenset[str]] = frozenset({"replay_select"})
    """Those that came later; a Config adds them to its `_newer`."""
    _newer: ClassVar[frozenset[str]] = replay_keys
    replay_policy: ReplayPolicy = "reservoir"
    """`reservoir`: uniform over all candidates so far. `oldest_out`: the newest stay. `per_task_quota`: equal parts."""
    replay_share: float = Field(0.2, gt=0, le=1)
    """Share of a task's distinct rows that become candidates after it. 0 < replay_share <= 1."""
    replay_capacity: int = Field(3000, ge=1)
    """Largest number of rows in the buffer. 1 <= replay_capacity."""
    replay_select: SelectorName = "random"
    """Which rows become candidates: `random`, `isa_tail` (unusual ones), `isa_mode` (typical ones), or path/to/file.py:function."""


@dataclass(frozen=True)
class Exemplar:
    """One row kept for replay.

    Attributes:
        row: the pair.
        task: the task it came from.
        index: its number among all candidates of the memory's life, from 0.
    """

    row: Row
    task: str
    index: int

    def to_json(self) -> dict[str, Any]:
        """The row as `Row.to_json`, with task and index."""
        return {"task": self.task, "index": self.index, **self.row.to_json()}


class Seen(Document):
    """The first line of a stored buffer."""

    seen: Count


class Kept(Document):
    """What a stored row has besides the row."""

    task: Name
    index: Count


@dataclass(frozen=True)
class ReplayBuffer:
    """The rows kept for replay, and the count of candidates so far.

    Attributes:
        exemplars: reservoir: in slots; the other policies: oldest first.
        seen: candidates so far over the memory's life, kept or not.
    """

    exemplars: tuple[Exemplar, ...] = ()
    seen: int = 0

    def to_lines(self) -> list[dict[str, Any]]:
        """JSON values, one per line: first the count of candidates, then the exemplars."""
        return [{"seen": self.seen}, *(e.to_json() for e in self.exemplars)]

    @classmethod
    def from_lines(cls, lines: Sequence[Any], where: str = "replay.jsonl") -> ReplayBuffer:
        """Make a buffer from the values of `to_lines`.

        Raises:
            StoreError: names `where` and the line that cannot be read.
        """
        seen = check(Seen, lines[0], f"{where}:1").seen if lines else 0
        exemplars = []
        for number, value in enumerate(lines[1:], 2):
            kept = check(Kept, value, f"{where}:{number}")
            exemplars.append(Exemplar(stored_row(value, f"{where}:{number}"), kept.task, kept.index))
        return cls(tuple(exemplars), seen)


def update_buffer(
    buffer: ReplayBuffer,
    rows: Sequence[Row],
    task: str,
    *,
    policy: ReplayPolicy = "reservoir",
    share: float = 0.2,
    capacity: int = 3000,
    seed: int = 0,
    select: str = "random",
    features: Callable[[Sequence[Row]], Any] | None = None,
) -> ReplayBuffer:
    """The buffer after a task: a random share of its rows are candidates, and the policy decides which stay.

    Rows count once (by `Row.digest`), and rows that are in the buffer already are not candidates.

    Args:
        buffer: as it was before the task; not changed.
        rows: the task's training rows.
        task: the task's name.
        policy: `reservoir` keeps each candidate of the whole life with equal probability capacity / seen (algorithm R,
            Vitter 1985), so a task's part is in proportion to its candidates; `oldest_out` lets the oldest leave (the
            paper); `per_task_quota` keeps capacity // tasks rows of each task.
        share: 0 <= share <= 1; rounded to the nearest number of rows, at least one; 0: none.
        capacity: rows, >= 1.
        seed: of the run.
        select: which rows become candidates, a name of `selectors`.
        features: rows -> [N, D] tensor or array, for selectors that ask for it.

    Raises:
        ConfigError: an option is out of range, or the quota leaves no row for a task.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"replay_share must be in [0, 1], got {share}")
    if capacity < 1:
        raise ConfigError(f"replay_capacity must be at least 1, got {capacity}")
    count = max(1, int(share * len({row.digest for row in rows}) + 0.5)) if share else 0
    new = _candidates(buffer, rows, task, count, seed, select, features)
    seen = buffer.seen + len(new)
    match policy:
        case "reservoir":
            kept = _reservoir(buffer.exemplars, new, capacity, seed)
        case "oldest_out":
            kept = [*buffer.exemplars, *new][-capacity:]
        case "per_task_quota":
            kept = _quota([*buffer.exemplars, *new], capacity, seed)
        case _:
            raise ConfigError(f"replay_policy must be one of reservoir, oldest_out, per_task_quota, got {policy!r}")
    return ReplayBuffer(tuple(kept), seen)


def task_quota(tasks: Collection[str], capacity: int) -> int:
    """Rows of each task under `per_task_quota`.

    Raises:
        ConfigError: fewer rows than tasks.
    """
    if capacity < len(tasks):
        raise ConfigError(
            f"replay_capacity {capacity} is less than one row for each of {len(tasks)} tasks (per_task_quota); "
            f"set it to {len(tasks)} or more"
        )
    return capacity // len(tasks)


def add_rows(buffer: ReplayBuffer, rows: Sequence[Row], task: str, *, count: int, seed: int = 0) -> ReplayBuffer:
    """The buffer with up to `count` (>= 1) random rows of a task added; nothing leaves. Rows count once, as above."""
    new = _candidates(buffer, rows, task, count, seed)
    return ReplayBuffer((*buffer.exemplars, *new), buffer.seen + len(new))


def shuffled(keys: Sequence[str], seed: int, task: str, what: str) -> list[int]:
    """Positions of `keys` (distinct) in a random order, the same for the same arguments on every machine."""
    return sorted(range(len(keys)), key=lambda i: _draw(seed, task, f"{what} {keys[i]}"))


def _draw(seed: int, task: str, what: str) -> int:
    """A number uniform in [0, 2^256), the same for the same arguments on every machine."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, task, what]).encode()).digest(), "big")


def _candidates(
    buffer: ReplayBuffer,
    rows: Sequence[Row],
    task: str,
    count: int,
    seed: int,
    select: str = "random",
    features: Callable[[Sequence[Row]], Any] | None = None,
) -> list[Exemplar]:
    distinct = {row.digest: row for row in reversed(rows)}  # of equal rows the first stays
    given = candidates_of(list(distinct.values()), task, seed, features)
    drawn = [given.rows[i].digest for i in selected(select, given, count)] if count else []
    present = {e.row.digest for e in buffer.exemplars}
    fresh = [digest for digest in drawn if digest not in present]
    return [Exemplar(distinct[digest], task, buffer.seen + i) for i, digest in enumerate(fresh)]


def _reservoir(old: Sequence[Exemplar], new: Sequence[Exemplar], capacity: int, seed: int) -> list[Exemplar]:
    slots = _thin(old, capacity, seed)  # only if the capacity was lowered since
    for candidate in new:
        if len(slots) < capacity:
            slots.append(candidate)
        else:
            slot = _draw(seed, candidate.task, f"slot {candidate.index}") % (candidate.index + 1)
            if slot < capacity:
                slots[slot] = candidate
    return slots


def _quota(exemplars: Sequence[Exemplar], capacity: int, seed: int) -> list[Exemplar]:
    tasks = list(dict.fromkeys(e.task for e in exemplars))
    quota = task_quota(tasks, capacity) if tasks else 0
    return [e for task in tasks for e in _thin([e for e in exemplars if e.task == task], quota, seed)]


def _thin(exemplars: Sequence[Exemplar], size: int, seed: int) -> list[Exemplar]:
    """`size` of them at random, order kept; a smaller size keeps a subset of what a larger one keeps."""
    by_priority = sorted(exemplars, key=lambda e: _draw(seed, e.task, e.row.digest))
    kept = {e.index for e in by_priority[:size]}
    return [e for e in exemplars if e.index in kept]
