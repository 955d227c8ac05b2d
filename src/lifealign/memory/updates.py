"""The updates of a memory's tasks, and the weights of the memory as a sum of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifealign.memory.history import step_of
from lifealign.store.layout import ADAPTER, RECOVERS, START
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired

if TYPE_CHECKING:
    from torch import Tensor


def in_weights(store: MemoryReader, until: TaskManifest) -> list[TaskManifest]:
    """The commits up to one whose task is in the weights: it is neither superseded nor withdrawn there."""
    gone = retired(store, until)
    every = [m for m in store.lineage()[1:] if m.index <= until.index and m.members]
    return [m for m in every if not set(m.members) <= gone.keys()]


def steps_of(store: MemoryReader, until: TaskManifest) -> tuple[list[dict[str, Tensor]], list[str | None]]:
    """Weights along a memory's life up to a commit, and between each two of them the task that changed them.

    None instead of a task: the task is retired at the commit, or this is where its update was taken out. The two steps
    cancel, so they keep weight 1 whatever the weights of the others are.
    """
    current = {m.name for m in in_weights(store, until)}
    points: list[dict[str, Tensor]] = [store.load_tensors(store.lineage()[0], ADAPTER)]
    names: list[str | None] = []
    for manifest in store.lineage()[1:]:
        if manifest.index > until.index:
            break
        if f"{START}.safetensors" in manifest.files:
            points.append(store.load_tensors(manifest, START))
            names.append(None)
        points.append(store.load_tensors(manifest, ADAPTER))
        name = manifest.meta.get(RECOVERS, manifest.name)  # what brought a task back goes with it
        names.append(name if name in current else None)
    return points, names


def update_of(store: MemoryReader, until: TaskManifest) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Task -> weights before and after what it changed, of the tasks that are in the weights of a commit."""
    return {m.name: step_of(store, m) for m in in_weights(store, until)}
