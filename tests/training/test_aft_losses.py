"""AFT: values and gradients of groups of answers, and groups that stay whole in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from lifealign.core.config import LoraConfig, StrategyChoice, TrainConfig
from lifealign.data.tasks import Message, Row
from lifealign.model.adapters import snapshot
from lifealign.model.batch import PairLogps
from lifealign.model.encoding import Encoder
from lifealign.model.logp_cache import pair_logps
from lifealign.model.packing import split_by_budget
from lifealign.strategies import make_strategy
from lifealign.training.aft_losses import aft_losses, every_pair, group_loss, ranked_pairs
from lifealign.training.loop import Loop, train_stage
from lifealign.training.loss_registry import Pairs
from support.rows import rows
from support.tiny import make_model, make_tokenizer

SCORES = (-0.5, -0.8, -0.9, -2.0)  # two chosen answers, two rejected ones
ORDER = [(0, 2), (0, 3), (1, 2), (1, 3)]


def scores(values: Sequence[float] = SCORES) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_values_and_gradients_are_the_computed_ones() -> None:
    """s_p = (-.5, -.8), s_n = (-.9, -2.0), beta = .4: values recomputed from the formulas of arXiv 2309.02144.

    L_A = 1.131235; B = -1.2 and L_BC = 1.881134 with dL/ds_n = 0.108322 above the boundary and -0.315911 below it.
    """
    plain = group_loss(scores(), ORDER, "plain")
    assert float(plain.detach()) == pytest.approx(1.131235, abs=1e-6)
    at = scores()
    bounded = group_loss(at, ORDER, "bounded", 0.4)
    bounded.backward()
    assert float(bounded.detach()) == pytest.approx(1.881134, abs=1e-6)
    assert at.grad is not None
    assert at.grad[2:].tolist() == pytest.approx([0.108322, -0.315911], abs=1e-6)


def test_detached_rejected_answers_have_no_gradient_and_the_plain_value() -> None:
    at = scores()
    detached = group_loss(at, ORDER, "detached")
    detached.backward()
    assert float(detached.detach()) == pytest.approx(1.131235, abs=1e-6)
    assert at.grad is not None and at.grad[2:].tolist() == [0, 0] and bool((at.grad[:2] < 0).all())


@pytest.mark.parametrize("chosen", [(-0.5,), (-0.5, -0.8), (-0.3, -0.7, -1.1)])
def test_a_rejected_answer_at_the_boundary_has_no_gradient(chosen: tuple[float, ...]) -> None:
    """The condition from which T_p is derived: sum over p of e^(s_n - s_p) - e^(T_p - s_n) is 0 just at s_n = B, for any |P|."""
    boundary = min(chosen) - 0.4
    order = [(p, len(chosen)) for p in range(len(chosen))]
    for gap, sign in ((0.0, 0), (0.2, 1), (-0.2, -1)):
        at = scores((*chosen, boundary + gap))
        group_loss(at, order, "bounded", 0.4).backward()
        assert at.grad is not None
        found = float(at.grad[-1])
        assert abs(found) < 1e-12 if sign == 0 else math.copysign(1, found) == sign


@pytest.mark.parametrize("form", ["plain", "bounded"])
def test_gradients_are_those_of_finite_differences_with_the_boundary_held(form: Any) -> None:
    """T_p has no gradient: differences are taken of the formula with T_p fixed at its value."""
    at = scores()
    group_loss(at, ORDER, form, 0.4).backward()
    targets = {p: 2 * (min(SCORES[:2]) - 0.4) - SCORES[p] for p in (0, 1)}

    def by_hand(s: Sequence[float]) -> float:
        terms = [math.exp(s[n] - s[p]) for p, n in ORDER]
        if form == "bounded":
            terms += [math.exp(targets[p] - s[n]) for p, n in ORDER]
        return math.log(1 + sum(terms))

    for i in range(4):
        up, down = list(SCORES), list(SCORES)
        up[i] += 1e-6
        down[i] -= 1e-6
        assert at.grad is not None
        assert float(at.grad[i]) == pytest.approx((by_hand(up) - by_hand(down)) / 2e-6, abs=1e-6)


def test_pairs_to_compare() -> None:
    """Answers 0 and 1 are chosen, 2 and 3 rejected; a ranking 0 > 1 > 2 comes as two rows and has three pairs."""
    assert list(every_pair([(0, 2), (1, 3)])) == ORDER
    assert list(every_pair([(0, 1), (1, 2)])) == [(0, 1), (0, 2), (1, 2)]  # 1 is never compared with itself
    assert list(ranked_pairs([(0, 2), (1, 3)])) == [(0, 2), (1, 3)]
    assert list(ranked_pairs([(0, 1), (1, 2)])) == [(0, 1), (0, 2), (1, 2)]
    assert list(ranked_pairs([(0, 1), (1, 0)])) == [(0, 1), (1, 0)]  # a contradiction ends, too


def test_rows_of_a_prompt_share_the_loss_of_their_group() -> None:
    """An answer in several rows counts once; a row alone is P = N = 1, where plain AFT is log(1 + e^(s_n - s_p))."""
    chosen, rejected = torch.tensor([-1.0, -1.6, -1.0, -3.0]), torch.tensor([-1.8, -4.0, -4.0, -2.0])
    lengths = torch.full((4,), 2.0)
    answers = [((1,), (3,)), ((2,), (4,)), ((1,), (4,)), ((5,), (6,))]
    pairs = Pairs(
        PairLogps(chosen, rejected),
        PairLogps(chosen, rejected),
        lengths,
        lengths,
        chosen,
        chosen,
        [(7,), (7,), (7,), (8,)],
        answers,
    )
    found = aft_losses(pairs, "bounded", 0.4)
    whole = group_loss(torch.tensor(SCORES), ORDER, "bounded", 0.4)
    torch.testing.assert_close(found[:3], whole.repeat(3))
    alone = aft_losses(pairs._replace(prompts=(), answers=()), "plain")
    torch.testing.assert_close(alone, torch.log1p(torch.exp(rejected / 2 - chosen / 2)))
    torch.testing.assert_close(aft_losses(pairs, "plain")[3], alone[3])


def groups() -> list[Row]:
    """Three prompts with three rows each, not in order."""
    made = [replace(row, prompt=(Message("user", f"question {i % 3}?"),)) for i, row in enumerate(rows("bread", 9))]
    return made


def run(loss: str, tokens_per_pack: int) -> tuple[dict[str, torch.Tensor], Loop, Any]:
    method = make_strategy(StrategyChoice(name="sequential", loss=loss), LoraConfig(r=2), 0)
    model = method.attach(make_model("llama"))
    pairs, _ = Encoder(make_tokenizer(), "chat", 256).encode(groups())
    accelerator = Accelerator(cpu=True)
    reference = pair_logps(model, pairs, shared_prefix=True, tokens_per_pack=512, accelerator=accelerator)
    config = TrainConfig(pairs_per_step=4, learning_rate=5e-3)
    loop = Loop("bread", model, method, config, 0, True, accelerator, tokens_per_pack=tokens_per_pack)
    stage = loop.stage("preference", 3, 5e-3, pairs, reference, lambda r: iter(()))
    train_stage(loop, stage)
    return snapshot(model), loop, stage


def test_groups_stay_whole_in_steps_and_forwards() -> None:
    """So packs change nothing, and a step of at most 4 pairs takes one prompt of three."""
    whole, loop, stage = run("aft_bc", 512)
    prompts = [{stage.pairs[i].prompt for i in window} for window in stage.windows]
    assert [len(w) for w in stage.windows] == [3] * 9 and all(len(p) == 1 for p in prompts)
    apart, _, _ = run("aft_bc", 1)
    assert all(torch.allclose(whole[k], apart[k], atol=1e-5) for k in whole)
    assert loop.log[-1]["loss"] < loop.log[0]["loss"]
    cut = list(split_by_budget(stage.pairs, range(9), 1, True, by_prompt=True))
    assert cut == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
