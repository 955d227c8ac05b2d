"""The read-only view of a memory that strategies get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lifealign.store.layout import ADAPTER, REPLAY, ROOT, START, UPDATE
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired
from lifealign.training.replay import ReplayBuffer

if TYPE_CHECKING:
    from torch import Tensor

    from lifealign.store.manifest import TaskManifest


@dataclass(frozen=True)
class Start:
    """Where a commit that retires tasks begins, instead of at HEAD.

    Attributes:
        retires: names of the tasks.
        adapter: weights of HEAD without what the tasks changed, or those of HEAD if it cannot be taken out.
        taken_out: whether it was taken out.
        state: of the strategy, without what belongs to the tasks alone.
        document: for the commit, see `layout.RETIRED`.
    """

    retires: tuple[str, ...]
    adapter: Mapping[str, Tensor]
    taken_out: bool
    state: Mapping[str, Tensor]
    document: Mapping[str, Any]


def step_of(store: MemoryReader, manifest: TaskManifest) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Long-term weights before and after what a commit's task changed."""
    after = store.load_tensors(manifest, ADAPTER)
    if f"{START}.safetensors" in manifest.files:
        return store.load_tensors(manifest, START), after
    assert manifest.parent is not None, "the root has no task"
    return store.load_tensors(store.find(manifest.parent), ADAPTER), after


class StoreHistory:
    """The read-only view of a memory that strategies get.

    Args:
        store: the memory.
        start: tasks that the commit under way retires, and the weights without them; None: it begins at HEAD.

    Attributes:
        start: as given.
    """

    def __init__(self, store: MemoryReader, start: Start | None = None) -> None:
        self._store = store
        self.start = start

    @property
    def tasks(self) -> list[str]:
        """Names of the commits so far that learnt something, also of tasks that are retired."""
        return [m.name for m in self._store.lineage()[1:] if m.members]

    @property
    def retired(self) -> frozenset[str]:
        """Names of the tasks that are retired, by earlier commits or by the one under way."""
        return frozenset((*retired(self._store), *(self.start.retires if self.start else ())))

    @property
    def replay(self) -> ReplayBuffer:
        """The rows kept for replay, none of them of a retired task."""
        head = self._store.head
        if head.directory == ROOT:
            return ReplayBuffer()
        buffer = ReplayBuffer.from_lines(self._store.load_lines(head, REPLAY), f"{head.directory}/{REPLAY}")
        if self.start is None:
            return buffer
        # `seen` stays: it numbers the candidates of the memory's whole life.
        return replace(buffer, exemplars=tuple(e for e in buffer.exemplars if e.task not in self.start.retires))

    def adapter(self, task: str | None = None) -> Mapping[str, Tensor]:
        """Long-term weights after a task (`initial`: before any); None: where the next task begins."""
        if task is None and self.start is not None:
            return self.start.adapter
        manifest = self._store.head if task is None else self._store.find(ROOT if task == "initial" else task)
        return self._store.load_tensors(manifest, ADAPTER)

    def update(self, task: str) -> Mapping[str, Tensor]:
        """The change of the long-term weights by a task; see `training.strategy.History`."""
        return self._store.load_tensors(self._store.find(task), UPDATE)

    def around(self, task: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Long-term weights before and after what a task changed."""
        return step_of(self._store, self._store.find(task))
