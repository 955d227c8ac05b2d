"""The read-only view of a memory that strategies get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lifealign.store.layout import ADAPTER, REPLAY, ROOT, UPDATE
from lifealign.store.reader import MemoryReader
from lifealign.training.replay import ReplayBuffer

if TYPE_CHECKING:
    from torch import Tensor


class StoreHistory:
    """The read-only view of a memory that strategies get."""

    def __init__(self, store: MemoryReader) -> None:
        self._store = store

    @property
    def tasks(self) -> list[str]:
        """Names of the commits so far."""
        return [m.name for m in self._store.lineage()[1:]]

    @property
    def replay(self) -> ReplayBuffer:
        """The rows kept for replay."""
        head = self._store.head
        if head.directory == ROOT:
            return ReplayBuffer()
        return ReplayBuffer.from_lines(self._store.load_lines(head, REPLAY), f"{head.directory}/{REPLAY}")

    def adapter(self, task: str | None = None) -> Mapping[str, Tensor]:
        """Long-term weights after a task (`initial`: before any); None: the latest."""
        manifest = self._store.head if task is None else self._store.find(ROOT if task == "initial" else task)
        return self._store.load_tensors(manifest, ADAPTER)

    def update(self, task: str) -> Mapping[str, Tensor]:
        """The change of the long-term weights by a task; see `training.strategy.History`."""
        return self._store.load_tensors(self._store.find(task), UPDATE)
