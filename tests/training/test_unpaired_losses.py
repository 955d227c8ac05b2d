"""Losses of unpaired feedback against numbers derived by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lifealign.training.pair_losses import dpo_loss
from lifealign.training.unpaired_losses import (
    LabelWeights,
    balanced_weights,
    bco_loss,
    bco_shift,
    kto_loss,
    kto_reference_point,
)

BOTH = torch.tensor([True, False])
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [
    lambda policy, reference, desirable: kto_loss(policy, reference, desirable, 0.7, 0.5, LabelWeights(1.5, 2.0)),
    lambda policy, reference, desirable: bco_loss(policy, reference, desirable, 0.7, 0.5, LabelWeights(1.5, 2.0)),
]


def exact(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_kto_by_hand() -> None:
    """beta (r - z0) = .5 (2 ln 3 + 1 - 1) = ln 3, sigmoid 3/4: losses 1.5 (1 - 3/4) = .375 and 2 (1 - 1/4) = 1.5.

    Gradients -+ lambda beta 3/4 1/4: -.140625 and .1875.
    """
    policy = exact(-10 + 2 * math.log(3) + 1, -20 + 2 * math.log(3) + 1).requires_grad_()
    loss = kto_loss(policy, exact(-10, -20), BOTH, 1.0, 0.5, LabelWeights(1.5, 2.0))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.375, 1.5], abs=1e-12)
    assert policy.grad.tolist() == pytest.approx([-0.140625, 0.1875], abs=1e-12)


def test_kto_reference_point_by_hand() -> None:
    """Mean of 1 and .5; a negative mean counts as none; no gradient."""
    policy = exact(-10, -20).requires_grad_()
    z0 = kto_reference_point(policy, exact(-11, -20.5))
    assert z0.item() == 0.75 and not z0.requires_grad
    assert kto_reference_point(policy, exact(-9, -20)).item() == 0


def test_bco_by_hand() -> None:
    """r = .5 (2 ln 3 + 1), delta = .5: logit ln 3: -1.5 ln(3/4) and -2 ln(1/4); gradients -1.5 / 8 and 2 * 3/8."""
    policy = exact(-10 + 2 * math.log(3) + 1, -20 + 2 * math.log(3) + 1).requires_grad_()
    loss = bco_loss(policy, exact(-10, -20), BOTH, 0.5, 0.5, LabelWeights(1.5, 2.0))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-1.5 * math.log(0.75), -2 * math.log(0.25)], abs=1e-12)
    assert policy.grad.tolist() == pytest.approx([-0.1875, 0.75], abs=1e-12)


def test_bco_shift_by_hand() -> None:
    """Rewards .1, .3 and .5 desirable (mean .3), -.1 not: delta .1, where the mean over rows is .2."""
    policy, reference = exact(1, 3, 5, -1).requires_grad_(), exact(0, 0, 0, 0)
    delta = bco_shift(policy, reference, torch.tensor([True, True, True, False]), 0.1)
    assert delta.item() == pytest.approx(0.1, abs=1e-12) and not delta.requires_grad
    assert bco_shift(policy, reference, torch.ones(4, dtype=torch.bool), 0.1).item() == pytest.approx(0.2, abs=1e-12)


def test_bco_bounds_dpo() -> None:
    """-log sigmoid(a) - log sigmoid(b) >= -log sigmoid(a + b), for any shift."""
    chosen, rejected = torch.randn(2, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    zeros, yes = torch.zeros_like(chosen), torch.ones(200, dtype=torch.bool)
    both = bco_loss(chosen, zeros, yes, 0.3, 1.0) + bco_loss(rejected, zeros, ~yes, 0.3, 1.0)
    assert bool((both >= dpo_loss(chosen - rejected)).all())


@pytest.mark.parametrize(
    ("counts", "ratio", "weights"),
    [
        ((10, 10), 1.0, (1.0, 1.0)),
        ((1, 10), 1.0, (10.0, 1.0)),
        ((1, 10), 1.5, (15.0, 1.0)),
        ((30, 10), 1.5, (1.0, 2.0)),
        ((5, 0), 1.0, (1.0, 1.0)),
        ((0, 5), 1.5, (1.0, 1.0)),
    ],
)
def test_balanced_weights(counts: tuple[int, int], ratio: float, weights: tuple[float, float]) -> None:
    """lambda_D n_D / (lambda_U n_U) = ratio: 15 * 1 / 10 and 1 * 30 / (2 * 10) are 1.5."""
    assert balanced_weights(*counts, ratio) == pytest.approx(weights)


@pytest.mark.parametrize("loss", LOSSES, ids=["kto", "bco"])
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    policy, desirable = exact(-10, -22, -5, -7).requires_grad_(), torch.tensor([True, False, False, True])
    assert torch.autograd.gradcheck(lambda p: loss(p, exact(-11, -21, -6, -6.5), desirable), (policy,), atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES, ids=["kto", "bco"])
def test_far_rows_stay_finite_and_keep_their_sign(loss: Loss) -> None:
    policy = torch.tensor([-5000.0, -1.0, -5000.0, -1.0, -70.0], requires_grad=True)
    reference, desirable = (
        torch.tensor([-1.0, -5000.0, -5000.0, -1.0, -30.0]),
        torch.tensor([True, True, False, False, True]),
    )
    values = loss(policy, reference, desirable)
    values.sum().backward()
    assert bool(values.isfinite().all() and policy.grad.isfinite().all() and (values >= 0).all())
    assert bool((policy.grad * torch.where(desirable, 1.0, -1.0) <= 0).all()) and float(policy.grad[4]) < 0


@pytest.mark.parametrize(
    ("loss", "value"), [(partial(kto_loss, beta=0.1), 0.5), (partial(bco_loss, beta=0.1), math.log(2))]
)
def test_at_the_reference(loss: Callable[..., Tensor], value: float) -> None:
    logps = torch.tensor([-10.3, -250.0])
    assert loss(logps, logps, BOTH, 0.0).tolist() == pytest.approx([value, value])
    assert kto_reference_point(logps, logps).item() == 0 and bco_shift(logps, logps, BOTH, 0.1).item() == 0


def test_a_desirable_row_far_above_the_point_keeps_its_small_loss() -> None:
    """1 - sigmoid(30) is 0 in float32; the loss is e^-30."""
    value = kto_loss(torch.tensor([30.0]), torch.tensor([0.0]), torch.tensor([True]), 0.0, 1.0)
    assert value.item() == pytest.approx(math.exp(-30), rel=1e-4)
