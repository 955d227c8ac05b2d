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
from lifealign.training.losses import LOSSES, Objective, ObjectiveConfig, Pairs, register_loss
from lifealign.training.pair_losses import (
    STRAIGHT_FROM,
    divergence_log_ratio,
    dpo_loss,
    focal_dpo_loss,
    focal_gradient,
    focal_weight,
    hinge_loss,
    ipo_loss,
    length_normalised_log_ratio,
    log_ratio,
    orpo_loss,
    preference_margin,
    robust_dpo_loss,
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


def test_label_smoothing_by_hand() -> None:
    """sigmoid(ln 3) = 3/4 and e = .1: -.9 ln(3/4) - .1 ln(1/4); gradient -.9/4 + .1 * 3/4 = -.15, none at r = ln 9."""
    margin = torch.tensor([math.log(3), math.log(9)], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(margin, 0.1)
    loss.sum().backward()
    assert loss[0].item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), abs=1e-12)
    assert margin.grad.tolist() == pytest.approx([-0.15, 0.0], abs=1e-12)


def test_robust_by_hand() -> None:
    """r = ln 3, e = .1: (-.9 ln(3/4) + .1 ln(1/4)) / .8; gradient -(.9/4 + .1 * 3/4) / .8 = -.375."""
    margin = torch.tensor([math.log(3)], dtype=torch.float64, requires_grad=True)
    loss = robust_dpo_loss(margin, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx((-0.9 * math.log(0.75) + 0.1 * math.log(0.25)) / 0.8, abs=1e-12)
    assert margin.grad.item() == pytest.approx(-0.375, abs=1e-12)


def test_robust_is_unbiased_under_swapped_labels() -> None:
    margin = torch.linspace(-20, 20, 81, dtype=torch.float64)
    mean = 0.7 * robust_dpo_loss(margin, 0.3) + 0.3 * robust_dpo_loss(-margin, 0.3)
    torch.testing.assert_close(mean, dpo_loss(margin), rtol=0, atol=1e-12)


def test_without_smoothing_both_are_dpo_bit_for_bit() -> None:
    margin = torch.linspace(-60, 60, 999)
    assert torch.equal(dpo_loss(margin, 0.0), dpo_loss(margin))
    assert torch.equal(robust_dpo_loss(margin, 0.0), dpo_loss(margin))


def test_hinge_by_hand() -> None:
    """Short of 1 by .85 and by 3; met at 1.5, without a gradient."""
    margin = torch.tensor([0.15, -2.0, 1.5], dtype=torch.float64, requires_grad=True)
    loss = hinge_loss(margin)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.85, 3.0, 0.0], abs=1e-12)
    assert margin.grad.tolist() == [-1.0, -1.0, 0.0]


def test_length_normalised_by_hand() -> None:
    """(-10 + 11) / 5 - (-12 + 11.5) / 4 = .2 + .125."""
    h = length_normalised_log_ratio(
        pairs([-10.0], [-12.0]), pairs([-11.0], [-11.5]), torch.tensor([5]), torch.tensor([4])
    )
    assert h.item() == pytest.approx(0.325, abs=1e-12)


@pytest.mark.parametrize(
    ("divergence", "alpha", "expected", "slopes"),
    [
        # u_c = 2, u_r = 1/2. The slope is u f''(u): 1, 1/u, 1/(1 + u), u^-alpha.
        ("reverse_kl", None, 2 * math.log(2), (1.0, -1.0)),
        ("forward_kl", None, -1 / 2 + 2, (1 / 2, -2.0)),
        ("js", None, math.log(4 / 3) - math.log(2 / 3), (1 / 3, -2 / 3)),
        ("alpha", 0.5, math.sqrt(2), (math.sqrt(1 / 2), -math.sqrt(2))),
    ],
)
def test_divergences_by_hand(
    divergence: Any, alpha: float | None, expected: float, slopes: tuple[float, float]
) -> None:
    chosen = torch.tensor([-10 + math.log(2)], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-12 - math.log(2)], dtype=torch.float64, requires_grad=True)
    value = divergence_log_ratio(PairLogps(chosen, rejected), pairs([-10.0], [-12.0]), divergence, alpha)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-12)
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx(slopes, abs=1e-12)


def test_alpha_lies_between_the_two_kl() -> None:
    policy, reference = pairs([-10.0, -22.0], [-12.0, -20.0]), pairs([-11.0, -21.0], [-11.5, -20.5])
    for alpha, name in ((1e-9, "reverse_kl"), (1 - 1e-9, "forward_kl")):
        got = divergence_log_ratio(policy, reference, "alpha", alpha)
        torch.testing.assert_close(got, divergence_log_ratio(policy, reference, name), rtol=1e-6, atol=1e-6)


def test_a_lost_answer_has_a_finite_gradient() -> None:
    """u^-1 = e^1000 is infinite in float32: from e^30 on it is a straight line, and its square is finite."""
    chosen = torch.tensor([-STRAIGHT_FROM - 2, -1000.0], requires_grad=True)
    zeros = torch.zeros(2)
    value = divergence_log_ratio(PairLogps(chosen, zeros), PairLogps(zeros, zeros), "forward_kl")
    value.sum().backward()
    assert value[0].item() == pytest.approx(1 - 3 * math.exp(STRAIGHT_FROM), rel=1e-6)
    assert chosen.grad.tolist() == pytest.approx([math.exp(STRAIGHT_FROM)] * 2, rel=1e-6)
    assert bool((chosen.grad**2).isfinite().all())


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
        ({"loss": "hinge"}, 1 - MARGIN, torch.ones(2)),
        ({"loss": "robust"}, dpo_loss(MARGIN) - 0.125 * MARGIN, torch.ones(2)),
        ({"loss": "robust", "label_smoothing": 0.0}, dpo_loss(MARGIN), torch.ones(2)),
        ({"label_smoothing": 0.2}, dpo_loss(MARGIN) + 0.2 * MARGIN, torch.ones(2)),
        ({"rpo_alpha": 0.5}, dpo_loss(MARGIN) + 0.5 * torch.tensor([2.0, 2.0]), torch.ones(2)),
        (
            {"loss": "simpo", "rpo_alpha": 1.0},
            simpo_loss(POLICY, *LENGTHS, 2.0, 0.5) + torch.tensor([2.0, 2.0]),
            torch.ones(2),
        ),
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


VARIANTS: list[dict[str, Any]] = [
    {"label_smoothing": 0.3},
    {"loss": "robust", "label_smoothing": 0.3},
    {"loss": "hinge"},
    {"length_normalised": True},
    {"loss": "ipo", "length_normalised": True},
    {"f_divergence": "forward_kl"},
    {"f_divergence": "js"},
    {"f_divergence": "alpha", "f_alpha": 0.9},
    {"loss": "hinge", "f_divergence": "forward_kl"},
    {"loss": "fpo", "f_divergence": "forward_kl"},
    {"loss": "robust", "f_divergence": "forward_kl"},
    {"rpo_alpha": 1.0},
]


@pytest.mark.parametrize(
    ("loss", "link", "options"),
    [
        ("dpo", dpo_loss, {"length_normalised": True, "beta": 0.1}),
        ("hinge", hinge_loss, {"length_normalised": True, "beta": 0.1}),
        ("fpo", focal_dpo_loss, {"length_normalised": True, "beta": 0.1}),
        ("ipo", lambda r: (10 * r - 5) ** 2, {"length_normalised": True, "beta": 0.1}),
        ("dpo", dpo_loss, {"f_divergence": "forward_kl"}),
        ("hinge", hinge_loss, {"f_divergence": "forward_kl"}),
        ("fpo", focal_dpo_loss, {"f_divergence": "forward_kl"}),
    ],
)
def test_an_option_of_the_reward_reaches_every_loss_that_reads_it(
    loss: str, link: Any, options: dict[str, Any]
) -> None:
    got = Objective(ObjectiveConfig(loss=loss, **options))(POLICY, REFERENCE, *LENGTHS)
    by_length = [0.325, -1 / 11 - 0.05]
    by_divergence = [-math.exp(-1) + math.exp(0.5), -math.exp(1) + math.exp(-0.5)]
    h = torch.tensor(by_length if "length_normalised" in options else by_divergence, dtype=torch.float64)
    torch.testing.assert_close(got.loss, link(0.1 * h), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.margin, 0.1 * h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients_of_variants_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    objective = Objective(ObjectiveConfig(**options))

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return objective(PairLogps(chosen, rejected), REFERENCE, *LENGTHS).loss

    start = (POLICY.chosen.clone().requires_grad_(), POLICY.rejected.clone().requires_grad_())
    assert torch.autograd.gradcheck(loss, start, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_stay_finite_far_from_the_reference_and_at_it(options: dict[str, Any]) -> None:
    far = [-5000.0, -1.0, -5000.0, -5000.0, -30.0]
    chosen, rejected = torch.tensor(far, requires_grad=True), torch.tensor(far[::-1], requires_grad=True)
    reference = PairLogps(
        torch.tensor([-1.0, -5000.0, -5000.0, -1.0, -30.0]), torch.tensor([-30.0, -1.0, -1.0, -1.0, -1.0])
    )
    objective, lengths = Objective(ObjectiveConfig(**options)), torch.full((5,), 3.0)
    losses = objective(PairLogps(chosen, rejected), reference, lengths, lengths)
    losses.loss.sum().backward()
    for values in (losses.loss, losses.margin, losses.weight, chosen.grad**2, rejected.grad**2):
        assert bool(values.isfinite().all())
    start = PairLogps(chosen.detach(), rejected.detach())
    at_start = objective(start, start, lengths, lengths)
    assert at_start.margin.tolist() == [0.0] * 5 and bool(at_start.loss.isfinite().all())


def test_a_loss_from_outside_names_the_options_it_reads() -> None:
    def squared_hinge(pairs: Pairs, options: ObjectiveConfig) -> torch.Tensor:
        return hinge_loss(pairs.margin) ** 2

    with pytest.raises(ConfigError, match=r"unknown options \['rpo'\]; allowed: \['gamma', "):
        register_loss("squared_hinge", squared_hinge, options=["rpo"])
    register_loss("squared_hinge", squared_hinge, options=["rpo_alpha", "length_normalised"])
    try:
        config = ObjectiveConfig(loss="squared_hinge", rpo_alpha=0.5, length_normalised=True, beta=2.0)
        got = Objective(config)(POLICY, REFERENCE, *LENGTHS)
        assert got.loss[0].item() == pytest.approx((1 - 0.65) ** 2 + 0.5 * 2)
        with pytest.raises(
            ValidationError, match="ld_alpha is read by the losses dpo, fpo, ipo, hinge and robust only"
        ):
            ObjectiveConfig(loss="squared_hinge", ld_alpha=0.5)
    finally:
        del LOSSES._entries["squared_hinge"]


@pytest.mark.parametrize("loss", ["dpo", "fpo", "ipo", "hinge", "robust", "simpo", "orpo", "aft"])
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
        ({"loss": "fpo", "gamma": -1.0}, "greater than or equal to 0|must be at least 0"),
        ({"beta": 0.0}, "greater than 0"),
        ({"loss": "kto"}, "unknown loss 'kto'; allowed: aft, aft_bc, aft_dc, aft_rank, dpo, fpo, hinge, ipo, orpo, "),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing is read by the losses dpo and robust only"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"loss": "ipo", "f_divergence": "js"}, "f_divergence is read by the losses dpo, fpo, hinge and robust only"),
        ({"loss": "simpo", "length_normalised": True}, "length_normalised is read by the losses dpo, fpo, ipo, hinge"),
        (
            {"loss": "orpo", "rpo_alpha": 1.0},
            "rpo_alpha is read by the losses dpo, fpo, ipo, hinge, robust, simpo, aft, aft_dc, aft_bc and aft_rank only",
        ),
        ({"f_alpha": 0.5}, "f_alpha is read by f_divergence alpha only"),
        ({"f_divergence": "alpha", "f_alpha": 1.0}, "less than 1"),
        ({"ld_alpha": 1.1}, "less than or equal to 1|must be at most 1"),
        ({"ld_alpha": 0.5, "f_divergence": "js"}, "ld_alpha and f_divergence each define the reward of an answer"),
        ({"ld_alpha": 0.5, "rpo_alpha": 1.0}, "ld_alpha takes part of their tokens out"),
        ({"loss": "fpo", "normalise_weights": True, "rpo_alpha": 1.0}, "divide the likelihood term of rpo_alpha"),
        ({"loss": ["dpo"]}, "valid string|expected text"),
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
    assert ObjectiveConfig(loss="robust").label_smoothing == 0.1
    assert ObjectiveConfig(length_normalised=True).beta == 5.0
    assert ObjectiveConfig(length_normalised=True, beta=1.0).beta == 1.0
    assert ObjectiveConfig(f_divergence="alpha").f_alpha == 0.5
    for options in (*VARIANTS, {"loss": "robust", "label_smoothing": 0.0}, {"ld_alpha": 0.0}):
        made = ObjectiveConfig(**options)
        assert ObjectiveConfig.model_validate_json(made.model_dump_json()) == made
    assert FocalByDefault().gamma == 2.0
    assert FocalByDefault(loss="dpo").gamma is None
    assert (ObjectiveConfig().beta, ObjectiveConfig(loss="simpo").beta) == (0.1, 2.0)
    for config in (FocalByDefault(), FocalByDefault(gamma=1.0), *(FocalByDefault(loss=n) for n in ("simpo", "orpo"))):
        assert FocalByDefault.model_validate_json(config.model_dump_json()) == config


def test_later_options_are_left_out_of_a_configuration_that_does_not_use_them() -> None:
    """Or the ids of studies, and what a memory has recorded, would change."""
    first = {"loss", "beta", "gamma", "normalise_weights", "simpo_margin", "orpo_weight", "reference"}
    for loss in ("dpo", "fpo", "ipo", "simpo", "orpo"):
        assert set(ObjectiveConfig(loss=loss).model_dump()) == first
    assert set(ObjectiveConfig(loss="robust").model_dump()) == first | {"label_smoothing"}
    assert set(ObjectiveConfig(rpo_alpha=1.0).model_dump(mode="json")) == first | {"rpo_alpha"}
