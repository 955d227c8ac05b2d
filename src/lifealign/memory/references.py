"""Log-probs of the policies that a task's stages compare with, computed once before each stage, through the cache.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lifealign.core.config import SftConfig
from lifealign.core.errors import ConfigError, StoreError
from lifealign.memory.history import StoreHistory
from lifealign.memory.retiring import put
from lifealign.memory.session import Session
from lifealign.memory.work import Work
from lifealign.model.encoding import EncodedPair
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import is_withdrawal
from lifealign.training.sft_losses import SFT_LOSSES

BASE = "base"


def pair_reference(session: Session, store: MemoryReader, work: Work, history: StoreHistory) -> Tensor:
    """Log-probs [N, 2] of the reference policy that the strategy's objective names, summed as the objective asks."""
    pairs = session.view.in_context(work.pairs, work.dataset.rows)
    which, beyond = session.strategy.reference, session.strategy.objective.beyond
    if which == "base":
        return session.view.reference(pairs, title="reference log-probs", beyond=beyond)
    if which == "task_start":
        return session.view.logps(pairs, base=False, title="reference log-probs (after SFT)", beyond=beyond)
    return _before(session, store, pairs, history, "reference log-probs (previous task)", beyond)


def sft_reference(
    session: Session, store: MemoryReader, work: Work, history: StoreHistory, options: SftConfig
) -> Tensor:
    """Log-prob per token of the chosen answers, the mean over `sft.references`, in the first column of [N, 2]; else zeros.

    Raises:
        ConfigError: a reference that the memory does not have.
    """
    pairs = work.pairs
    found = torch.zeros(len(pairs), 2)
    if not SFT_LOSSES.find(options.loss).reads_reference:
        return found
    lengths = torch.tensor([float(max(pair.chosen_tokens, 1)) for pair in pairs])
    policies = _policies(session, store, history, options)
    work.sft_references = list(policies)
    session.progress.say(f"{work.task.name}: sft.loss={options.loss} compares with {', '.join(policies)}")
    for name, logps in policies.items():
        found[:, 0] += logps(pairs, f"SFT reference: {name}")[:, 0] / lengths / len(policies)
    return found


def _policies(
    session: Session, store: MemoryReader, history: StoreHistory, options: SftConfig
) -> Mapping[str, Callable[[Sequence[EncodedPair], str], Tensor]]:
    """Name of a policy -> (rows, title) -> its log-probs [N, 2]; before the first task, every name means the base model."""
    commits = [m for m in store.lineage()[1:] if not is_withdrawal(m)]
    earlier = [m for m in commits if m.name not in history.retired]

    def base(pairs: Sequence[EncodedPair], title: str) -> Tensor:
        return session.view.reference(pairs, title=title)

    def at(point: TaskManifest) -> Callable[[Sequence[EncodedPair], str], Tensor]:
        def logps(pairs: Sequence[EncodedPair], title: str) -> Tensor:
            with session.as_of(store, point):
                return session.view.logps(pairs, base=False, title=title)

        return logps

    found: dict[str, Callable[[Sequence[EncodedPair], str], Tensor]] = {}
    for name in options.references:
        if name == BASE or (not earlier and name in ("previous_task", "earlier_tasks")):
            found[BASE] = base
        elif name == "previous_task":
            found[store.head.directory] = lambda pairs, title: _before(session, store, pairs, history, title)
        elif name == "earlier_tasks":
            found |= {point.directory: at(point) for point in earlier if point.directory not in found}
        else:
            try:
                point = store.find(name)
            except StoreError as error:
                raise ConfigError(
                    f"sft.references: {name!r} is no point of this memory ({error}); use previous_task, base, earlier_tasks, or a "
                    "task that was learnt before"
                ) from None
            found[point.directory] = at(point)
    return found


def _before(
    session: Session,
    store: MemoryReader,
    pairs: Sequence[EncodedPair],
    history: StoreHistory,
    title: str,
    beyond: float = 1.0,
) -> Tensor:
    """Log-probs [N, 2] of the policy before the task, without the tasks that it retires."""
    with session.as_of(store, store.head):
        if history.start is not None:
            put(session, history.start)
        return session.view.logps(pairs, base=False, title=title, beyond=beyond)
