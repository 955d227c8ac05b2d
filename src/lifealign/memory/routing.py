"""Route prompts: which stored tasks a prompt may belong to, and so whose updates answer it. `signatures` on stored tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifealign.core.errors import ConfigError, StoreError
from lifealign.data.tasks import Row, Task
from lifealign.memory import signatures
from lifealign.memory.composer import Composer, stored_strategy
from lifealign.memory.signatures import Signature
from lifealign.memory.updates import in_weights
from lifealign.store.heldout import without_rows
from lifealign.store.layout import SIGNATURE, SLEEP
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.store.retired import retired
from lifealign.training.schedule import row_order
from lifealign.training.strategy import ModelView

if TYPE_CHECKING:
    from torch import Tensor

    from lifealign.model.encoding import Encoder

HELD = 8
"""Most composed adapters that a `Routes` keeps."""


def prompt_features(
    view: ModelView, encoder: Encoder, rows: Sequence[Row], seed: int, name: str, depth: float
) -> Tensor | None:
    """Features [N, D] of at most `signatures.PROMPTS` prompts, drawn with the seed; None if no prompt fits.

    Rows of feedback on one prompt count once.
    """
    order = row_order(seed, name, "signature", 0, len(rows))
    every = (tuple(encoder.prompt_ids(rows[i].prompt)) for i in order)
    fitting = (ids for ids in dict.fromkeys(every) if 0 < len(ids) < encoder.max_length)
    prompts = list(itertools.islice(fitting, signatures.PROMPTS))
    return view.features(prompts, depth) if prompts else None


def task_signatures(
    view: ModelView, encoder: Encoder, store: MemoryReader | None, tasks: Sequence[Task], seed: int
) -> dict[str, Tensor]:
    """Signatures of tasks for a commit; a task without a usable training prompt is left out.

    Args:
        view: of the loaded model.
        encoder: of the memory.
        store: the memory; None: one that is being made. Its signatures say which hidden states are read.
        tasks: with training rows, and validation rows to calibrate on; without these, some training prompts are kept out of the
            signature for that (`signatures.held_back`).
        seed: of the run.
    """
    depth = stored_depth(store)
    found: dict[str, Signature] = {}
    for task in tasks:
        features = prompt_features(view, encoder, task.train, seed, task.name, depth)
        if features is not None:
            checks = prompt_features(view, encoder, task.validation[: signatures.CHECKS], seed, task.name, depth)
            if checks is None:
                features, checks = signatures.held_back(features)
            found[task.name] = signatures.make_signature(features, checks, depth)
    return signatures.to_tensors(found)


def stored_depth(store: MemoryReader | None) -> float:
    """The depth of the hidden states that a memory's signatures are of; it is kept for the memory's life."""
    if store is None:
        return signatures.DEPTH
    stored = (s for s in stored_signatures(store, store.head).values() if s is not None)
    return next((s.depth for s in stored), signatures.DEPTH)


def stored_signatures(store: MemoryReader, until: TaskManifest) -> dict[str, Signature | None]:
    """Signature of every task up to a commit, in the order they were learnt; None if it has none."""
    found: dict[str, Signature | None] = {}
    gone = retired(store, until)
    for manifest in in_weights(store, until):
        known = f"{SIGNATURE}.safetensors" in manifest.files
        own = signatures.from_tensors(store.load_tensors(manifest, SIGNATURE)) if known else {}
        found |= {name: own.get(name) for name in manifest.members if name not in gone}
    return found


class Router:
    """Finds the tasks that prompts may belong to, among those in the weights of a commit.

    Args:
        store: the memory.
        until: the commit.

    Attributes:
        names: the tasks.
        always: tasks that take part in every answer: an adapter that the memory began with and whose rows are not known.
        calibration: see `signatures.calibrate`.

    Raises:
        StoreError: a task has no signature, or no task is learnt.
    """

    def __init__(self, store: MemoryReader, until: TaskManifest) -> None:
        self.always = tuple(without_rows(store, until))
        known = {n: s for n, s in stored_signatures(store, until).items() if n not in self.always}
        if missing := [name for name, s in known.items() if s is None]:
            raise StoreError(
                f"{store.path}: no signature for {', '.join(missing)} (learnt before signatures were kept), so "
                "prompts cannot be routed; give weights instead, or learn the tasks again"
            )
        if not known:
            raise StoreError(f"{store.path}: no task learnt up to {until.directory} to route to; learn a task first")
        self.names = tuple(known)
        self._signatures = [s for s in known.values() if s is not None]
        self.calibration = signatures.calibrate(self._signatures)

    def tasks(self, view: ModelView, prompts: Sequence[Sequence[int]]) -> list[tuple[str, ...]]:
        """The tasks that each prompt may belong to, in the order they were learnt; none: it belongs to no task.

        Args:
            view: of the loaded model.
            prompts: token ids, at least one each.
        """
        features = view.features(prompts, self._signatures[0].depth)
        found = signatures.chosen(signatures.distances(features, self._signatures), self.calibration)
        return [tuple(name for name, is_in in zip(self.names, row, strict=True) if is_in) for row in found.tolist()]


@dataclass(frozen=True)
class Routed:
    """Prompts that are answered by the same weights.

    Attributes:
        tasks: whose updates they are the sum of; none: the prompts belong to no task, and the stored weights answer them.
        members: positions of the prompts.
        adapter: the weights.
    """

    tasks: tuple[str, ...]
    members: Sequence[int]
    adapter: Mapping[str, Tensor]


class Routes:
    """Answers each prompt of a memory by the sum of the updates of the tasks that it may belong to.

    A prompt that belongs to no task is answered by the adapter of the commit's sleep, or else by the sum of all updates.

    Args:
        store: the memory.
        until: the commit.

    Raises:
        ConfigError: the strategy's memory is no sum of updates.
        StoreError: see `Router`.
    """

    def __init__(self, store: MemoryReader, until: TaskManifest) -> None:
        self._store, self._until = store, until
        self.composer = Composer(store, until)
        self.router = Router(store, until)
        self._held: dict[tuple[str, ...], Mapping[str, Tensor]] = {}

    def weights(self, tasks: Sequence[str]) -> dict[str, float]:
        """Weight of each task's update for prompts that may belong to these tasks; all 1 if there is none."""
        wanted = {*tasks, *self.router.always} if tasks else set(self.composer.names)
        return {name: float(name in wanted) for name in self.composer.names}

    def adapter(self, tasks: tuple[str, ...]) -> Mapping[str, Tensor]:
        """The weights for prompts that may belong to these tasks."""
        if tasks not in self._held:
            while len(self._held) >= HELD:
                del self._held[next(iter(self._held))]
            slept = not tasks and f"{SLEEP}.safetensors" in self._until.files
            self._held[tasks] = (
                self._store.load_tensors(self._until, SLEEP) if slept else self.composer(self.weights(tasks)).adapter
            )
        return self._held[tasks]

    def groups(self, view: ModelView, prompts: Sequence[Sequence[int]]) -> list[Routed]:
        """The prompts by the tasks that they may belong to, in the order of the first of each."""
        found: dict[tuple[str, ...], list[int]] = {}
        # A prompt without a token has no features, and belongs to no task.
        there = [i for i, ids in enumerate(prompts) if ids]
        tasks = self.router.tasks(view, [prompts[i] for i in there]) if there else []
        chosen = dict(zip(there, tasks, strict=True))
        for i in range(len(prompts)):
            found.setdefault(chosen.get(i, ()), []).append(i)
        return [Routed(tasks, members, self.adapter(tasks)) for tasks, members in found.items()]


def why_not_routed(store: MemoryReader, until: TaskManifest) -> str | None:
    """The reason why prompts cannot be routed at a commit; None if they can."""
    try:
        Routes(store, until)
    except (ConfigError, StoreError) as error:
        return str(error)
    return None


def routes_prompts(store: MemoryReader, until: TaskManifest) -> bool:
    """Whether a memory was made with `strategy.route` and has a task to route to at a commit."""
    return bool(stored_strategy(store).routes and in_weights(store, until))


def one_adapter_notes(store: MemoryReader, until: TaskManifest) -> list[str]:
    """A sentence for an export of a routed memory, whose one set of weights answers otherwise; none for others."""
    if not routes_prompts(store, until):
        return []
    what = "the adapter of its sleep" if f"{SLEEP}.safetensors" in until.files else "the sum of all updates"
    return [
        f"the memory routes its prompts, and its scores are those of routed prompts; this export is {what}, which lifealign evaluate "
        "MEMORY --one-adapter scores"
    ]


def calibration_line(calibration: signatures.Calibration, tasks: int) -> str:
    """How sure the routing of a memory is, as a sentence."""
    if not calibration.prompts:
        return "routing is not calibrated, because no task has enough prompts: no prompt is ever of no task"
    share = "" if math.isnan(calibration.nearest) else f"{100 * calibration.nearest:.0f}% are nearest to their own task"
    few = "" if math.isfinite(calibration.farthest) else "; these are too few to tell a prompt of no task"
    return f"routing, calibrated on {calibration.prompts} held-out prompts of {tasks} {'task' if tasks == 1 else 'tasks'}: {share}{few}"
