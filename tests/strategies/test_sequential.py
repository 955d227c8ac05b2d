"""Extrapolative DPO: votes are kept by task, read back, extrapolated and dropped."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from torch import nn

from lifealign.core.config import LoraConfig, StrategyChoice
from lifealign.data.suites.drifting import SUITE_OF_DRIFT
from lifealign.strategies import make_strategy
from lifealign.strategies.sequential import Sequential

STEPS = SUITE_OF_DRIFT["jump"].stream(30, 0, 5).tasks


def strategy(order: int) -> Sequential:
    made = make_strategy(StrategyChoice.model_validate({"name": "sequential", "extrapolate": order}), LoraConfig(), 0)
    assert isinstance(made, Sequential)
    return made


def history(*tasks: str, retired: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(tasks=list(tasks), retired=frozenset(retired), replay=None)


def test_votes_of_earlier_tasks_are_read_back_and_decide_what_is_learnt() -> None:
    model, before, after = nn.Module(), STEPS[2], STEPS[3]  # the jump is between them
    first = strategy(1)
    assert first.training_set(before, history()).rows == before.train  # nothing to extrapolate from
    counts = first.end_task(model, before, history())["extrapolated"]
    assert counts == {"order": 1, "swapped": 0, "repeated": 0, "lowered": 30, "dropped": 0}
    again = strategy(1)
    again.load_state_dict(first.state_dict())
    rows = again.training_set(after, history(before.name)).rows
    turned = {row for row in after.train if replace(row, chosen=row.rejected, rejected=row.chosen) in before.train}
    assert turned and all(rows.count(row) == (3 if row in turned else 1) for row in after.train)
    assert again.end_task(model, after, history(before.name))["extrapolated"]["repeated"] == 2 * len(turned)
    assert sorted(again.state_dict()) == [f"votes/{before.name}", f"votes/{after.name}"]
    again.retire(None, history(before.name, after.name, retired=(before.name,)))  # type: ignore[arg-type]
    assert sorted(again.state_dict()) == [f"votes/{after.name}"]


def test_order_0_keeps_nothing() -> None:
    plain = strategy(0)
    assert plain.training_set(STEPS[0], history()).rows == STEPS[0].train
    assert plain.end_task(nn.Module(), STEPS[0], history()) == {} and plain.state_dict() == {}
