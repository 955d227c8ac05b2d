"""Preference losses against golden and hand-derived numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lifealign.core.config import load_config
from lifealign.core.errors import ConfigError
from lifealign.model.batch import PairLogps
from lifealign.training.losses import Objective, ObjectiveConfig
from lifealign.training.pair_losses import (
    dpo_loss,
    focal_dpo_loss,
    focal_gradient,
    focal_weight,
    ipo_loss,
    log_ratio,
    orpo_loss,
    preference_margin,
    sft_nll,
    simpo_loss,
)
from support.golden import golden_numbers

TYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_numbers("losses")  # type: ignore[no-any-return]


def pairs(chosen: list[float], rejected: list[float], dtype: torch.dtype = torch.float64) -> PairLogps:
    return PairLogps(torch.tensor(chosen, dtype=dtype), torch.tensor(rejected, dtype=dtype))


def golden_margin(golden: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    policy = pairs(golden["policy_chosen"], golden["policy_rejected"], dtype)
    reference = pairs(golden["reference_chosen"], golden["reference_rejected"], dtype)
    return preference_margin(policy, reference, golden["beta"])


@pytest.mark.parametrize("dtype", TYPES)
def test_golden(golden: dict[str, Any], dtype: torch.dtype) -> None:
    # The golden digits are eight decimals, so float64 can only be held to half of the last of them.
    atol = 1e-6 if dtype == torch.float32 else 5.1e-9
    margin = golden_margin(golden, dtype)
    close = {"rtol": 0, "atol": atol}
    expected = {k: torch.tensor(v, dtype=dtype) for k, v in golden.items() if isinstance(v, list)}
    # The margins have few digits: they are exact to rounding.
    torch.testing.assert_close(margin, expected["reward_margin"], rtol=0, atol=1e-6 if atol == 1e-6 else 1e-12)
    torch.testing.assert_close(focal_weight(margin, golden["gamma"]), expected["weight"], **close)
    torch.testing.assert_close(dpo_loss(margin), expected["dpo_loss"], **close)
    torch.testing.assert_close(focal_dpo_loss(margin, golden["gamma"]), expected["fpo_loss"], **close)
    torch.testing.assert_close(focal_gradient(margin, golden["gamma"]), expected["dfpo_dr"], **close)
    assert focal_dpo_loss(margin).mean().item() == pytest.approx(
        golden["mean_fpo"], abs=max(1e-6 * (atol > 1e-7), 1e-10)
    )
    assert dpo_loss(margin).mean().item() == pytest.approx(golden["mean_dpo"], abs=max(1e-6 * (atol > 1e-7), 1e-10))


@pytest.mark.parametrize("dtype", TYPES)
def test_gradient_goes_through_the_weight(golden: dict[str, Any], dtype: torch.dtype) -> None:
    margin = golden_margin(golden, dtype).requires_grad_()
    focal_dpo_loss(margin, golden["gamma"]).sum().backward()
    assert margin.grad is not None
    expected = torch.tensor(golden["dfpo_dr"], dtype=dtype)
    torch.testing.assert_close(margin.grad, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 5.1e-9)
    # A detached weight would give -w (1 - p) instead: at r = 0, -.25 * .5 = -.125 and not -.298.
    assert margin.grad[2].item() == pytest.approx(-0.25 * (0.5 + math.log(2)), abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_closed_form_gradient_is_the_gradient(gamma: float) -> None:
    margin = torch.linspace(-40, 40, 401, dtype=torch.float64).requires_grad_()
    focal_dpo_loss(margin, gamma).sum().backward()
    torch.testing.assert_close(margin.grad, focal_gradient(margin.detach(), gamma), rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_step_zero_identity(dtype: torch.dtype, gamma: float) -> None:
    logps = pairs([-10.3, -250.0], [-7.9, -3.1], dtype)
    margin = preference_margin(logps, logps, 0.1)
    assert margin.tolist() == [0.0, 0.0]
    expected = torch.full((2,), math.log(2) * 0.5**gamma, dtype=dtype)
    torch.testing.assert_close(
        focal_dpo_loss(margin, gamma), expected, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0
    )


def test_gamma_zero_is_dpo_bit_for_bit() -> None:
    margin = torch.linspace(-60, 60, 999).requires_grad_()
    again = margin.detach().clone().requires_grad_()
    assert torch.equal(focal_dpo_loss(margin, 0.0), dpo_loss(again))
    focal_dpo_loss(margin, 0.0).sum().backward()
    dpo_loss(again).sum().backward()
    assert torch.equal(margin.grad, again.grad)


def test_facts_about_the_focal_gradient() -> None:
    """Section 2 of the specification: .298 against .5 at r = 0, equal at r = -.859, at most 1.129 at r = -2.79."""
    r = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    fpo, dpo = focal_gradient(r, 2.0).abs(), focal_gradient(r, 0.0).abs()
    at_zero = 80_000
    assert (fpo[at_zero].item(), dpo[at_zero].item()) == (pytest.approx(0.298, abs=5e-4), pytest.approx(0.5, abs=1e-12))
    assert r[fpo > dpo].max().item() == pytest.approx(-0.859, abs=5e-4)
    assert bool((fpo > dpo)[r < -0.8595].all())
    assert fpo.max().item() == pytest.approx(1.129, abs=5e-4)
    assert r[fpo.argmax()].item() == pytest.approx(-2.79, abs=5e-3)


def test_far_margins_stay_finite_and_positive() -> None:
    """At r = 30 the weight is e^-60 (1 - sigmoid(30) is 0 in float32); at r = -1000 the loss is 1000."""
    margin = torch.tensor([30.0, 1000.0, -1000.0], requires_grad=True)
    loss = focal_dpo_loss(margin, 2.0)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all() and torch.isfinite(margin.grad).all())
    assert focal_weight(torch.tensor([30.0]), 2.0).item() == pytest.approx(math.exp(-60), rel=1e-4)
    assert loss[2].item() == 1000.0
    assert margin.grad[2].item() == pytest.approx(-1.0)


def test_ipo_by_hand() -> None:
    """h = (-10+11) - (-12+11.5) = 1.5; tau .1 pulls it to 5: (1.5 - 5)^2 = 12.25. Gradient 2 (h - 5) = -7."""
    h = log_ratio(pairs([-10.0], [-12.0]), pairs([-11.0], [-11.5])).requires_grad_()
    loss = ipo_loss(h, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(12.25, abs=1e-12)
    assert h.grad.item() == pytest.approx(-7.0, abs=1e-12)


def test_simpo_by_hand() -> None:
    """Means -10/5 = -2 and -12/4 = -3; 2 (-2 + 3) - .5 = 1.5; -log sigmoid(1.5) = ln(1 + e^-1.5)."""
    loss = simpo_loss(pairs([-10.0], [-12.0]), torch.tensor([5]), torch.tensor([4]), beta=2.0, target_margin=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-12)


def test_orpo_by_hand() -> None:
    """P_c = 1/2, P_r = 1/4: odds 1 and 1/3, log odds ratio ln 3, sigmoid 3/4; ln 2 - .1 ln(3/4)."""
    policy = pairs([3 * math.log(0.5)], [2 * math.log(0.25)])
    loss = orpo_loss(policy, torch.tensor([3]), torch.tensor([2]), weight=0.1)
    assert loss.item() == pytest.approx(math.log(2) - 0.1 * math.log(0.75), abs=1e-12)


def test_orpo_survives_certainty() -> None:
    chosen = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    rejected = torch.tensor([-200.0, 0.0, -1e-9], requires_grad=True)
    loss = orpo_loss(PairLogps(chosen, rejected), torch.ones(3), torch.ones(3), weight=1.0)
    loss.sum().backward()
    assert bool(
        torch.isfinite(loss).all() and torch.isfinite(chosen.grad).all() and torch.isfinite(rejected.grad).all()
    )


def test_sft_nll_is_per_token() -> None:
    assert sft_nll(torch.tensor([-6.0, -6.0]), torch.tensor([2, 4])).tolist() == [3.0, 1.5]


def test_pair_logps_refuses_half_precision_and_unlike_shapes() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        PairLogps(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="they must be equal"):
        PairLogps(torch.zeros(2), torch.zeros(3))


POLICY, REFERENCE = pairs([-10.0, -22.0], [-12.0, -20.0]), pairs([-11.0, -21.0], [-11.5, -20.5])
LENGTHS = torch.tensor([5, 11]), torch.tensor([4, 10])
MARGIN = torch.tensor([0.15, -0.15], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected", "weight"),
    [
        ({"loss": "dpo"}, dpo_loss(MARGIN), torch.ones(2)),
        ({"loss": "fpo"}, focal_dpo_loss(MARGIN, 2.0), focal_weight(MARGIN, 2.0)),
        ({"loss": "fpo", "gamma": 1.0}, focal_dpo_loss(MARGIN, 1.0), focal_weight(MARGIN, 1.0)),
        ({"loss": "fpo", "gamma": 0.0}, dpo_loss(MARGIN), torch.ones(2)),
        ({"loss": "dpo", "beta": 0.2}, dpo_loss(2 * MARGIN), torch.ones(2)),
        ({"loss": "ipo"}, (MARGIN * 10 - 5) ** 2, torch.ones(2)),
        ({"loss": "simpo"}, simpo_loss(POLICY, *LENGTHS, 2.0, 0.5), torch.ones(2)),
        ({"loss": "simpo", "simpo_margin": 1.0}, simpo_loss(POLICY, *LENGTHS, 2.0, 1.0), torch.ones(2)),
        ({"loss": "orpo"}, orpo_loss(POLICY, *LENGTHS, 0.1), torch.ones(2)),
        ({"loss": "orpo", "orpo_weight": 0.3}, orpo_loss(POLICY, *LENGTHS, 0.3), torch.ones(2)),
    ],
)
def test_objective(options: dict[str, Any], expected: torch.Tensor, weight: torch.Tensor) -> None:
    config = ObjectiveConfig(**options)
    got = Objective(config)(POLICY, REFERENCE, *LENGTHS)
    torch.testing.assert_close(got.loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.weight, weight.double(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.margin, MARGIN * config.beta / 0.1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["dpo", "fpo", "ipo", "simpo", "orpo"])
def test_objective_pushes_the_right_way(loss: str) -> None:
    chosen = torch.tensor([-10.0, -22.0], requires_grad=True)
    rejected = torch.tensor([-12.0, -20.0], requires_grad=True)
    losses = Objective(ObjectiveConfig(loss=loss))(PairLogps(chosen, rejected), REFERENCE, *LENGTHS)
    assert losses.loss.shape == (2,)
    assert not losses.margin.requires_grad and not losses.weight.requires_grad
    losses.loss.sum().backward()
    assert bool((chosen.grad < 0).all() and (rejected.grad > 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dpo", "gamma": 2.0}, "gamma is read by loss fpo only"),
        ({"loss": "simpo", "gamma": 2.0}, "gamma is read by loss fpo only"),
        ({"loss": "fpo", "simpo_margin": 0.5}, "simpo_margin is read by loss simpo only"),
        ({"loss": "dpo", "orpo_weight": 0.5}, "orpo_weight is read by loss orpo only"),
        ({"loss": "dpo", "normalise_weights": True}, "normalise_weights is read by loss fpo only"),
        ({"loss": "simpo", "reference": "task_start"}, "reads no reference"),
        ({"loss": "orpo", "reference": "previous_task"}, "reads no reference"),
        ({"loss": "orpo", "beta": 0.2}, "reads no beta"),
        ({"loss": "fpo", "gamma": -1.0}, "greater than or equal to 0"),
        ({"beta": 0.0}, "greater than 0"),
        ({"loss": "kto"}, "unknown loss 'kto'; allowed: dpo, fpo, ipo, orpo, simpo"),
        ({"loss": ["dpo"]}, "valid string"),
    ],
)
def test_options_that_are_not_read_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig(**options)
    with pytest.raises(ConfigError, match=message):
        load_config(None, base={"strategy": {"name": "it", **options}}, strategy_configs={"it": ObjectiveConfig})


class FocalByDefault(ObjectiveConfig):
    loss: str = "fpo"


def test_defaults_are_filled_in_and_round_trip() -> None:
    assert FocalByDefault().gamma == 2.0
    assert FocalByDefault(loss="dpo").gamma is None
    assert (ObjectiveConfig().beta, ObjectiveConfig(loss="simpo").beta) == (0.1, 2.0)
    for config in (FocalByDefault(), FocalByDefault(gamma=1.0), *(FocalByDefault(loss=n) for n in ("simpo", "orpo"))):
        assert FocalByDefault.model_validate_json(config.model_dump_json()) == config
