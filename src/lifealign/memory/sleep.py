"""Sleep: at the end of a task, teach one adapter what each stored update knows of its own task.

The sum of the updates loses what each of them knows ([Routed prompts](docs/explanation/routing.md)). The teachers are the
updates, each alone on the initial adapter; the student is one adapter, trained from the initial one on the rows that are
kept and those of the new task. Its loss on a pair is the cross-entropy between the teacher's and the student's Bradley-Terry
probabilities that the chosen answer is better (distillation of soft labels: Hinton et al. 2015, arXiv 1503.02531, on
DPO's implicit reward, arXiv 2305.18290, eq. 5), plus the chosen answer's negative log-likelihood per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lifealign.data.tasks import Row, Task
from lifealign.memory.composer import Composer
from lifealign.memory.history import StoreHistory
from lifealign.memory.updates import in_weights
from lifealign.model.adapters import holding, restore, snapshot
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.model.encoding import EncodedPair
from lifealign.store.heldout import heldout, without_rows
from lifealign.store.layout import SLEEP
from lifealign.store.reader import MemoryReader
from lifealign.training.feedback import with_others
from lifealign.training.loop import LogLine, Loop, train_stage
from lifealign.training.losses import Losses, ObjectiveConfig
from lifealign.training.strategy import Strategy

if TYPE_CHECKING:
    from lifealign.memory.session import Session

CHECKED = 16
"""Validation rows of each task on which the slept adapter is compared with the sum of the updates."""


@dataclass(frozen=True)
class Slept:
    """What a sleep left.

    Attributes:
        adapter: of the student; empty if the sum of the updates is better on the validation rows.
        diagnostics: plain values for the commit.
        log: lines of its training steps.
    """

    adapter: Mapping[str, Tensor]
    diagnostics: Mapping[str, Any]
    log: Sequence[LogLine]

    @property
    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The commit's file of the adapter, if there is one."""
        return {SLEEP: self.adapter} if self.adapter else {}

    @property
    def document(self) -> dict[str, Mapping[str, Any]]:
        """The part of the commit's diagnostics."""
        return {"sleep": self.diagnostics} if self.diagnostics else {}


class Student(Strategy):
    """Learns the teachers' preferences; not in the registry, as it learns no task."""

    teacher_N: Tensor
    """Log-ratio of each pair under its teacher, against the base model; NaN for a row that is no pair."""

    def loss(self, batch: PreferenceBatch, policy: PairLogps, reference: PairLogps, objective: Losses) -> Tensor:
        """Cross-entropy of the preferences and the likelihood term; rows that are no pairs have their own loss."""
        asked = torch.sigmoid(self.config.beta * self.teacher_N[batch.index_B.cpu()]).to(policy.chosen.device)
        given = self.config.beta * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))
        nll = -policy.chosen / batch.chosen_lengths_B.clamp(min=1)
        distilled = F.binary_cross_entropy_with_logits(given, asked.nan_to_num(0.5), reduction="none")
        return torch.where(asked.isnan(), objective.loss, distilled + self.config.rpo_alpha * nll)


def rest(
    session: Session,
    store: MemoryReader,
    group: Sequence[Task],
    history: StoreHistory,
    update: Mapping[str, Tensor],
    workspace: Path,
) -> Slept:
    """`sleep`, if the strategy asks for one; says whether it was worth it."""
    if not getattr(session.strategy.config, "sleep_epochs", 0):
        return Slept({}, {}, ())
    earlier = {member for m in in_weights(store, store.head) for member in m.members}
    if not earlier - {task.name for task in group} - {*history.retired, *without_rows(store)}:
        return Slept({}, {}, ())  # the update of a single task needs no teaching
    slept = sleep(session, store, group, history, update, workspace)
    found = slept.diagnostics
    if "slept" in found:
        verdict = (
            "is the one adapter of this commit" if found["used"] else "is not used: the sum of the updates is better"
        )
        session.progress.say(
            f"sleep: {100 * found['slept']:.0f}% of the validation pairs right, {100 * found['summed']:.0f}% with the sum of the "
            f"updates; the slept adapter {verdict}"
        )
    return slept


def sleep(
    session: Session,
    store: MemoryReader,
    group: Sequence[Task],
    history: StoreHistory,
    update: Mapping[str, Tensor],
    workspace: Path,
) -> Slept:
    """Train the one adapter of a commit that is about to be made; resumes from its own checkpoints.

    The model holds the weights of the commit, before and afterwards.

    Args:
        session: of the memory; its strategy says for how long (`sleep_epochs`) and at which rate.
        store: the memory as it was before the task.
        group: the new task.
        history: what strategies see of it, without tasks that the commit retires.
        update: what the new task changed in the weights.
        workspace: of the task; checkpoints go into a folder of it.
    """
    strategy, model, view = session.strategy, session.model, session.view
    names = {task.name for task in group}
    after = snapshot(model)
    seen = {row.digest for task in group for row in task.train}
    past = [(e.task, e.row) for e in history.replay.exemplars if e.row.digest not in seen]
    every: list[tuple[str, Row]] = [*((task.name, row) for task in group for row in task.train), *past]
    pairs, _ = session.encoder.encode([row for _, row in every])
    owners = [every[pair.position][0] for pair in pairs]
    teachers = _Teachers(store, names, update, after)
    objective = ObjectiveConfig(beta=strategy.reward_beta, rpo_alpha=1.0)
    student = Student(objective, session.config.lora, session.config.seed)
    every_pair, feedback = with_others(pairs, objective)
    reference = view.reference(every_pair, title="sleep: reference")
    student.teacher_N = _ratios(session, pairs, owners, reference, teachers)
    loop = Loop(
        f"{'+'.join(sorted(names))}: sleep",
        model,
        student,
        session.config.train,
        session.config.seed,
        view.shared_prefix(pairs),
        session.accelerator,
        workspace / "sleep",
        session.progress,
        tokens_per_pack=view.tokens_per_pack(pairs),
    )
    options = strategy.config.sleep_epochs, strategy.config.sleep_learning_rate
    restore(model, teachers.initial)
    train_stage(loop, loop.stage("preference", *options, every_pair, reference, view.losses_on, feedback))
    slept = snapshot(model)
    restore(model, after)
    scores = _compare(session, [*heldout(store), *group], history.retired, slept)
    better = not scores or scores["slept"] >= scores["summed"]
    measured = {"rows": len(pairs), "kept_rows": len(past), **scores, "used": better}
    log: list[LogLine] = [{**line, "stage": "sleep"} for line in loop.log]
    return Slept(slept if better else {}, measured, log)


def _ratios(
    session: Session, pairs: Sequence[EncodedPair], owners: Sequence[str], reference: Tensor, teachers: _Teachers
) -> Tensor:
    """Log-ratio of each pair under its owner's teacher, by the row's position; NaN where a row is no pair."""
    found = torch.full((max(pair.position for pair in pairs) + 1,), torch.nan)
    for name in dict.fromkeys(owners):
        own = [i for i, owner in enumerate(owners) if owner == name and pairs[i].chosen and pairs[i].rejected]
        if own:
            with holding(session.model, teachers.of(name)):
                logps = session.view.logps([pairs[i] for i in own], base=False, title=f"sleep: teacher of {name}")
            gaps = logps - reference[own]
            found[[pairs[i].position for i in own]] = gaps[:, 0] - gaps[:, 1]
    return found


class _Teachers:
    """The weights that teach the rows of a task: its own update alone, on the initial adapter."""

    def __init__(
        self, store: MemoryReader, new: set[str], update: Mapping[str, Tensor], after: Mapping[str, Tensor]
    ) -> None:
        self._composer = Composer(store, store.head)
        always = set(without_rows(store))
        self._always = {name: float(name in always) for name in self._composer.names}
        self._new, self._update = new, update
        begun = self._composer(self._always).adapter if self._composer.names else None
        self.initial = begun if begun is not None else {name: after[name] - update[name] for name in after}

    def of(self, name: str) -> Mapping[str, Tensor]:
        """The teacher of a task's rows."""
        if name in self._new:
            return {key: tensor + self._update[key] for key, tensor in self.initial.items()}
        return self._composer({**self._always, name: 1.0}).adapter


def _compare(
    session: Session, tasks: Sequence[Task], retired: frozenset[str], slept: Mapping[str, Tensor]
) -> dict[str, float]:
    """Mean share of validation pairs that the slept and the summed weights prefer rightly; empty without such rows."""
    shares: dict[str, list[float]] = {"slept": [], "summed": []}
    for task in tasks:
        rows = [row for row in task.validation if row.kind == "pair"][:CHECKED]
        pairs = session.encoder.encode(rows, allow_none=True)[0] if task.name not in retired else []
        if not pairs:
            continue
        reference = session.view.reference(pairs, title="sleep: reference")
        for which, weights in (("slept", slept), ("summed", snapshot(session.model))):
            with holding(session.model, weights):
                ratio = session.view.logps(pairs, base=False, title=f"sleep: {which}, {task.name}") - reference
            shares[which].append(float((ratio[:, 0] > ratio[:, 1]).double().mean()))
    return {which: sum(found) / len(found) for which, found in shares.items() if found}
