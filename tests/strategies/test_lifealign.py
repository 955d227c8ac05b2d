"""One consolidation a task, or one a stage, by hand on a two-factor model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import LoraConfig, StrategyChoice
from lifealign.model.adapters import restore, snapshot
from lifealign.strategies import make_strategy
from lifealign.strategies.lifealign import LifeAlign
from lifealign.training.strategy import History
from support.rows import make_task
from support.tiny import make_model

TASK = make_task("bread", train=2, test=1)


class Past:
    """A history with nothing in it but the weights."""

    tasks: tuple[str, ...] = ()

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def adapter(self, task: str | None = None) -> Mapping[str, Tensor]:
        return self.weights


def stages(consolidate: str, lam: float, moves: tuple[float, float]) -> tuple[dict[str, Tensor], LifeAlign, nn.Module]:
    """Weights after a task whose stages move every entry by what `moves` says; theta 1 keeps all of it."""
    options: dict[str, Any] = {"name": "lifealign", "theta": 1.0, "overlap_scale": lam, "consolidate": consolidate}
    strategy = make_strategy(StrategyChoice.model_validate(options), LoraConfig(r=2, alpha=4), 0)
    assert isinstance(strategy, LifeAlign)
    model = strategy.attach(make_model())
    history = cast(History, Past(snapshot(model)))
    for move, end in zip(moves, (strategy.end_sft, strategy.end_task), strict=True):
        restore(model, {name: tensor + move for name, tensor in snapshot(model).items()})
        end(model, TASK, history)
    initial = history.adapter()
    return {name: tensor - initial[name] for name, tensor in snapshot(model).items()}, strategy, model


@pytest.mark.parametrize(
    ("consolidate", "lam", "moved"), [("task", 0.5, 0.3), ("stage", 0.5, 0.2), ("stage", 0.0, 0.1)]
)
def test_what_the_second_stage_repeats_is_damped_only_if_each_stage_is_consolidated(
    consolidate: str, lam: float, moved: float
) -> None:
    """Stages move all entries by 0.1 and 0.2, in one direction: 0.1 + lambda 0.2, or 0.3 where nothing lies between."""
    change, strategy, _ = stages(consolidate, lam, (0.1, 0.2))
    for tensor in change.values():
        assert torch.allclose(tensor, torch.full_like(tensor, moved), atol=1e-6)
    assert not any(name.startswith("start/") for name in strategy.state_dict())


def test_where_the_second_stage_starts_is_part_of_the_state() -> None:
    change, strategy, model = stages("stage", 0.5, (0.1, 0.0))
    history = cast(History, Past(snapshot(model)))
    restore(model, {name: tensor + 0.1 for name, tensor in snapshot(model).items()})
    strategy.end_sft(model, TASK, history)
    again = make_strategy(StrategyChoice(name="lifealign", consolidate="stage"), LoraConfig(r=2, alpha=4), 0)  # type: ignore[call-arg]
    again.load_state_dict(strategy.state_dict())
    start = {n.removeprefix("start/"): t for n, t in again.state_dict().items() if n.startswith("start/")}
    assert set(start) == set(change)
    # The second 0.1 repeats the first task's direction, so half of it stays.
    for name, tensor in start.items():
        assert torch.allclose(tensor, history.adapter()[name] + 0.05, atol=1e-6)
