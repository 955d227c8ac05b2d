"""What a memory keeps of a recovery: its document, and its commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lifealign.consolidation.restoring import moved
from lifealign.data.tasks import rows_sha256
from lifealign.memory.history import StoreHistory
from lifealign.memory.recovery.config import RecoverOptions, Space
from lifealign.memory.recovery.loop import Recoverer, State
from lifealign.memory.recovery.points import Points
from lifealign.store.layout import (
    ADAPTER,
    DATA,
    DIAGNOSTICS,
    HELDOUT,
    RECOVERED,
    RECOVERS,
    REPLAY,
    SIGNATURE,
    STATE,
    TRAINING,
    UPDATE,
)
from lifealign.store.manifest import NOTE
from lifealign.store.retired import recovery_name
from lifealign.store.writer import MemoryStore


def document_of(
    points: Points,
    options: RecoverOptions,
    recoverer: Recoverer,
    states: Sequence[State],
    best: State,
    space: Space,
) -> dict[str, Any]:
    """What is kept of a recovery, as plain values."""
    restored = sum(int(mask.sum()) for mask in best.mask.values())
    names = list(best.mask)
    earlier = {name: recoverer.earlier[name] for name in names}
    return {
        "task": points.task,
        "from": points.earlier.directory,
        "space": space,
        "options": vars(options),
        "prompts": {"used": sum(map(len, recoverer.lost)), "source": points.lost.source},
        "newest": {
            "task": points.newest.name,
            "prompts": sum(map(len, recoverer.newest)),
            "checked_by": "representation" if recoverer.metric == recoverer.likeness else "accuracy",
            "before": states[0].metric,
            "after": best.metric,
        },
        "loss": {"before": states[0].loss, "after": best.loss},
        "step": best.step,
        "rolled_back": best.rolled,
        "elements": recoverer.total,
        "restored": restored / recoverer.total,
        "moved": moved(best.mask, earlier, recoverer.now),
        "log": recoverer.log,
    }


def commit(
    store: MemoryStore,
    points: Points,
    adapter: Mapping[str, Tensor],
    document: dict[str, Any],
    seconds: float,
    note: str | None,
) -> str:
    """Add the commit of a recovery, whose document is `document`; returns its directory."""
    head = store.load_tensors(points.now, ADAPTER)
    made = store.commit(
        recovery_name(store, points.task),
        members=[],
        tensors={
            ADAPTER: adapter,
            UPDATE: {name: tensor - head[name] for name, tensor in adapter.items()},
            STATE: store.load_tensors(points.now, STATE),
            SIGNATURE: {},
        },
        documents={
            DIAGNOSTICS: {},
            DATA: {"reports": {}, "requirements": {}, "rows": 0, "from_replay": 0},
            RECOVERED: document,
        },
        lines={REPLAY: StoreHistory(store).replay.to_lines(), HELDOUT: [], TRAINING: []},
        seed=points.now.seed,
        config=points.now.config,
        meta={
            "seconds": seconds,
            "reference_seconds": 0.0,
            "rows_sha256": rows_sha256(()),
            RECOVERS: points.task,
            **({NOTE: note} if note else {}),
        },
    )
    return made.directory
