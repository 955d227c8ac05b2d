"""The state that spans the updates that are left, when another one was taken out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lifealign.consolidation.adapter import ConsolidationConfig, consolidate_adapter, state_of

pytestmark = pytest.mark.usefixtures("one_thread")
Adapter = dict[str, Tensor]
NAMES = ("m.lora_A", "m.lora_B")


def life(changes: list[tuple[list[float], list[float]]], config: ConsolidationConfig) -> tuple[list[Adapter], Adapter]:
    """Weights after each of some changes of A [1, 2] and B [2, 1], each consolidated, and the state at the end."""
    points: list[Adapter] = [{"m.lora_A": torch.tensor([[1.0, 1.0]]), "m.lora_B": torch.zeros(2, 1)}]
    state: Adapter = {}
    for i, (a, b) in enumerate(changes):
        start = points[-1]
        now = {
            "m.lora_A": start["m.lora_A"] + torch.tensor([a]),
            "m.lora_B": start["m.lora_B"] + torch.tensor(b)[:, None],
        }
        made = consolidate_adapter(start, now, state, config, scaling=2.0, seed=0, task_index=i)
        points.append(made.adapter)
        state = made.state
    return points, state


def span(rows: Tensor) -> Tensor:
    return rows.double().T @ rows.double()


def test_a_later_update_keeps_the_direction_that_it_shares_with_the_one_that_is_gone() -> None:
    """Along e1, e1 again, then e2: without the first, both directions stay; without the first two, e2 alone."""
    plain = ConsolidationConfig(theta=1.0, projection="none")
    points, whole = life([([2, 0], [3, 0]), ([4, 0], [1, 0]), ([0, 5], [0, 1])], plain)
    steps = list(itertools.pairwise(points))
    for name in NAMES:
        assert whole[f"{name}.rows"].shape[0] == 2
        again = state_of(steps, plain, scaling=2.0)
        for key in ("rows", "energy"):
            torch.testing.assert_close(again[f"{name}.{key}"], whole[f"{name}.{key}"], atol=1e-6, rtol=0)
    left = state_of(steps[1:], plain, scaling=2.0)
    torch.testing.assert_close(span(left["m.lora_A.rows"]), torch.eye(2).double(), atol=1e-6, rtol=0)
    assert left["m.lora_A.energy"].diagonal().tolist() == pytest.approx([16, 25])
    last = state_of(steps[2:], plain, scaling=2.0)
    assert last["m.lora_A.rows"].abs().tolist() == [[0, 1]] and last["m.lora_B.energy"].tolist() == [[1]]
    assert state_of([], plain, scaling=2.0) == {}


def test_an_update_that_is_only_rounding_spans_nothing() -> None:
    plain = ConsolidationConfig(theta=1.0, projection="none")
    points, _ = life([([2, 0], [3, 0]), ([0, 1e-7], [0, 0])], plain)
    state = state_of(list(itertools.pairwise(points))[1:], plain, scaling=2.0)
    assert state == {}


def test_capacity_is_kept() -> None:
    one = ConsolidationConfig(theta=1.0, projection="none", basis_capacity=1)
    points, _ = life([([2, 0], [3, 0]), ([0, 5], [0, 1])], one)
    state = state_of(list(itertools.pairwise(points)), one, scaling=2.0)
    assert state["m.lora_A.rows"].abs().tolist() == [[0, 1]] and state["m.lora_B.rows"].abs().tolist() == [[1, 0]]


def test_in_delta_w_the_pieces_are_the_changes_of_the_product() -> None:
    config = ConsolidationConfig(space="delta_w", theta=1.0, projection="none")
    g = torch.Generator().manual_seed(1)
    points = [
        {"m.lora_A": torch.randn(2, 6, generator=g), "m.lora_B": torch.randn(5, 2, generator=g)} for _ in range(3)
    ]
    steps = list(itertools.pairwise(points))
    state = state_of(steps, config, scaling=2.0)
    for i, (before, after) in enumerate(steps):
        piece = state[f"m.history.{i:05d}.B"].double() @ state[f"m.history.{i:05d}.A"].double()
        dense = [2.0 * p["m.lora_B"].double() @ p["m.lora_A"].double() for p in (before, after)]
        torch.testing.assert_close(piece, dense[1] - dense[0], atol=1e-5, rtol=0)
    alone = state_of(steps[1:], config, scaling=2.0)
    assert sorted(alone) == ["m.history.00000.A", "m.history.00000.B"]
    twice = state_of([steps[0], steps[0]], config, scaling=2.0)  # the same change again adds no direction
    assert sorted(twice) == ["m.history.00000.A", "m.history.00000.B"]
    # What comes out is a state that the next consolidation takes.
    made = consolidate_adapter(points[2], points[0], alone, config, scaling=2.0, seed=0, task_index=2)
    assert made.diagnostics["matrices"]["m"]["basis_rank"] == 2
