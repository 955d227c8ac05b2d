"""The loop of recovery on a net of two layers: its loss, its elements, its checks and what it takes back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifealign.core.errors import ConfigError
from lifealign.memory.recovery.config import RecoverOptions
from lifealign.memory.recovery.loop import Recoverer

WIDTH = 16
LOST = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]
NEWEST = [[[10, 11, 12], [13, 14, 15]]]


def make(
    metric: Callable[[], float] = lambda: 1.0, apart: float = 0.5, **options: Any
) -> tuple[Recoverer, nn.Sequential]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False))
    behind = nn.Linear(WIDTH, WIDTH, bias=False)
    weights = {"first": net[0].weight, "second": net[2].weight, "behind": behind.weight}
    earlier = {name: w.detach() + apart * torch.randn(w.shape) for name, w in weights.items()}
    inputs = torch.randn(20, WIDTH)

    def hidden(prompts: Any) -> Tensor:
        found: Tensor = net(torch.stack([inputs[list(ids)].sum(0) for ids in prompts]))
        return found

    return Recoverer(weights, earlier, hidden, LOST, NEWEST, metric, RecoverOptions(**options)), net  # type: ignore[arg-type]


def test_the_loss_falls_with_every_step_at_a_small_rate() -> None:
    """The specification's unit test: L_rec falls monotonically for a small rate."""
    recoverer, _ = make(rate=0.002, apart=0.2)
    states, best = recoverer.run()
    losses = [line["loss"] for line in recoverer.log]
    assert len(losses) == 20 and all(after < before for before, after in itertools.pairwise(losses))
    assert best is states[-1] and best.loss < losses[-1] and [s.step for s in states] == [0, 5, 10, 15, 20]


def test_every_element_is_that_of_one_of_the_two_points_and_k_of_n_go_back() -> None:
    """Elementwise, theta is in {theta_A, theta_B}; a step restores k = ceil(rate n), and what no prompt reaches stays."""
    recoverer, _ = make(rate=0.01, steps=5)
    _, best = recoverer.run()
    for name, weight in recoverer.weights.items():
        back, stays = weight == recoverer.earlier[name], weight == recoverer.now[name]
        assert bool((back | stays).all())
        assert torch.equal(back, best.mask.get(name, torch.zeros_like(back)))
    assert recoverer.total == 2 * WIDTH * WIDTH, "the matrix behind the layer is not counted"
    k = math.ceil(0.01 * recoverer.total)
    assert [line["restored"] for line in recoverer.log] == [step * k / recoverer.total for step in range(1, 6)]


def test_gradients_add_up_over_the_steps_if_asked() -> None:
    """The authors' script never zeroes them between ordinary steps: the first step is the same, the next ones differ."""
    masks = []
    for accumulate in (False, True):
        for steps in (1, 8):
            masks.append(make(rate=0.02, steps=steps, accumulate=accumulate)[0].run()[1].mask)
    plain_1, plain_8, added_1, added_8 = masks
    assert all(torch.equal(plain_1[n], added_1[n]) for n in plain_1)
    assert not all(torch.equal(plain_8[n], added_8[n]) for n in plain_8)


def test_a_run_that_hurts_the_newest_task_begins_again_and_takes_steps_back() -> None:
    """Below 0.95 of what it had at a check, the run restarts; then a fifth of each step is taken back."""
    recoverer, _ = make(rate=0.01, apart=0.1)
    recoverer.metric = recoverer.likeness
    states, best = recoverer.run()
    assert [(s.step, s.rolled) for s in states] == [
        (0, False),
        (5, False),
        (5, True),
        (10, True),
        (15, True),
        (20, True),
    ]
    assert states[1].metric < 0.95
    allowed = [s for s in states if s.metric >= 0.95]
    assert best in allowed and best.loss == min(s.loss for s in allowed) < states[0].loss and best is not states[-1]
    first, k = next(line for line in recoverer.log if line["rolled"]), math.ceil(0.01 * recoverer.total)
    taken_back = k - round(first["restored"] * recoverer.total)
    assert 1 <= taken_back <= math.ceil(0.2 * k), "at most a fifth of the step"


def test_without_any_state_within_the_allowed_drop_the_weights_stay() -> None:
    falling = iter([1.0, *[0.5] * 20])
    recoverer, _ = make(metric=lambda: next(falling))
    _, best = recoverer.run()
    assert best.step == 0 and all(torch.equal(w, recoverer.now[n]) for n, w in recoverer.weights.items())


def test_nothing_is_checked_away_before_the_warm_up_ends() -> None:
    falling = iter([1.0, *[0.5] * 20])
    recoverer, _ = make(metric=lambda: next(falling), warm_up=11)
    recoverer.run()
    assert max(line["step"] for line in recoverer.log if not line["rolled"]) == 15


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rate": 0.0}, "rate=0.0: allowed: 0 < rate <= 1"),
        ({"steps": 0}, "steps=0: allowed: 1 <= steps"),
        ({"warm_up": -1}, "warm-up=-1: allowed: 0 <= warm_up"),
        ({"rollback_share": 1.0}, "rollback-share=1.0: allowed: 0 <= rollback_share < 1"),
        ({"allowed_drop": 2.0}, "allowed-drop=2.0: allowed: 0 <= allowed_drop <= 1"),
        ({"layer": 0}, "layer=0: allowed: 1 <= layer"),
    ],
)
def test_an_option_out_of_its_range_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecoverOptions(**option)
