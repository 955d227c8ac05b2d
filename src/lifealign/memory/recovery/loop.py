"""The loop of recovery: restore, check the newest task, take back what hurts it (arXiv 2504.09757). Knows no memory.

L_rec = -cos(mean of h over a batch, d_h), where d_h is the mean over the task's prompts of h under the earlier weights; L_back is
the same for the newest task's prompts, with d_b under the present weights. h is the hidden state of the last prompt token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lifealign.consolidation import restoring
from lifealign.core.errors import TrainingError
from lifealign.core.progress import NullProgress, Progress
from lifealign.memory.recovery.config import EVERY, RecoverOptions

Prompts = Sequence[Sequence[int]]
"""Token ids of one batch."""


@dataclass(frozen=True)
class State:
    """A saved state.

    Attributes:
        step: from 1; 0: the present weights.
        rolled: whether steps were taken back.
        loss: L_rec, -1 to 1; the least possible is -1.
        metric: of the newest task, 0 to 1.
        mask: where the earlier weights are.
    """

    step: int
    rolled: bool
    loss: float
    metric: float
    mask: Mapping[str, Tensor]


@dataclass
class Recoverer:
    """Restores elements of `earlier` in `weights`, which begin as the present ones.

    Args:
        weights: the model's own parameters, changed in place.
        earlier: their values when the task was known.
        hidden: hidden state [N, D] of prompts under `weights`, with a graph.
        lost: batches of the task's prompts.
        newest: batches of the newest task's prompts.
        metric: of the newest task under `weights`, 0 to 1.
        options: see there.
        progress: where to report.
    """

    weights: Mapping[str, torch.nn.Parameter]
    earlier: Mapping[str, Tensor]
    hidden: Callable[[Prompts], Tensor]
    lost: Sequence[Prompts]
    newest: Sequence[Prompts]
    metric: Callable[[], float]
    options: RecoverOptions
    progress: Progress = field(default_factory=NullProgress)
    log: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.now = {name: p.detach().clone() for name, p in self.weights.items()}
        self._put(self.earlier)
        self.lost_direction = self._mean(self.lost)
        self._put(self.now)
        self.newest_direction = self._mean(self.newest)
        # Weights behind the layer have no part in h: they stay, and are not counted.
        self.names = list(self._gradient(self.lost, self.lost_direction)[1])
        self.total = restoring.elements(self.weights, self.names)

    def run(self) -> tuple[list[State], State]:
        """Every saved state, the first of which is where it began, and the best of those within the allowed drop."""
        first = self._state(0, False, restoring.nothing(self._own(self.now)))
        allowed = (1 - self.options.allowed_drop) * first.metric
        states = [first, *self._steps(False, allowed)]
        if states[-1].metric < allowed:
            states += self._steps(True, allowed)
        best = min((s for s in states if s.metric >= allowed), key=lambda s: s.loss)
        self._put(restoring.mixed(best.mask, self._own(self.earlier), self._own(self.now)))
        return states, best

    def likeness(self) -> float:
        """Cosine of the newest task's mean representation with that under the present weights; 1 where it began."""
        return float(F.cosine_similarity(self._mean(self.newest), self.newest_direction, dim=0))

    def _steps(self, roll: bool, allowed: float) -> list[State]:
        """States of one run from the present weights; without taking back it ends where the newest task lost too much."""
        earlier, now, options = self._own(self.earlier), self._own(self.now), self.options
        mask, states, total = restoring.nothing(now), list[State](), dict[str, Tensor]()
        self._put(now)
        with self.progress.stage("recover, taking back" if roll else "recover", options.steps) as stage:
            for step in range(1, options.steps + 1):
                loss, gradient = self._gradient(self.lost, self.lost_direction)
                if options.accumulate and not roll:
                    gradient = total = {n: g + total[n] if total else g for n, g in gradient.items()}
                own = self._own(self.weights)
                put = restoring.choose(own, earlier, gradient, restoring.count_of(options.rate, self.total))
                mask = {name: mask[name] | put[name] for name in mask}
                self._put(restoring.mixed(mask, earlier, now))
                if roll:
                    hurt = self._gradient(self.newest, self.newest_direction)[1]
                    count = math.ceil(options.rollback_share * sum(int(m.sum()) for m in put.values()))
                    back = restoring.choose(self._own(self.weights), now, hurt, count, among=put)
                    mask = {name: mask[name] & ~back[name] for name in mask}
                    self._put(restoring.mixed(mask, earlier, now))
                restored = sum(int(m.sum()) for m in mask.values()) / self.total
                self.log.append({"step": step, "rolled": roll, "loss": loss, "restored": restored})
                stage.advance(1, loss=loss)
                if step % EVERY and step != options.steps:
                    continue
                states.append(self._state(step, roll, mask))
                self.log[-1]["metric"] = states[-1].metric
                if not roll and step >= options.warm_up and states[-1].metric < allowed:
                    break
        return states

    def _state(self, step: int, roll: bool, mask: Mapping[str, Tensor]) -> State:
        with torch.no_grad():
            losses = [float(self._loss(batch, self.lost_direction)) for batch in self.lost]
        return State(step, roll, sum(losses) / len(losses), self.metric(), mask)

    def _loss(self, batch: Prompts, direction: Tensor) -> Tensor:
        return -F.cosine_similarity(self.hidden(batch).mean(0), direction, dim=0)

    def _gradient(self, batches: Sequence[Prompts], direction: Tensor) -> tuple[float, dict[str, Tensor]]:
        """Mean loss of the batches, and the sum of their gradients, of the weights that the loss depends on."""
        found: dict[str, Tensor] = {}
        value = 0.0
        for batch in batches:
            loss = self._loss(batch, direction)
            value += float(loss.detach()) / len(batches)
            parts = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
            for name, part in zip(self.weights, parts, strict=True):
                if part is not None:
                    found[name] = found[name] + part if name in found else part
        if not math.isfinite(value) or not all(bool(part.isfinite().all()) for part in found.values()):
            raise TrainingError("recovery: a loss or gradient is not finite; nothing was changed")
        return value, found

    @torch.no_grad()
    def _mean(self, batches: Sequence[Prompts]) -> Tensor:
        return torch.cat([self.hidden(batch) for batch in batches]).mean(0)

    def _own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[name].detach() for name in self.names}

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)
