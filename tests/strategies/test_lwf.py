"""LwF: the divergence from the previous policy, by hand and in a run on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.data.tasks import Row
from lifealign.memory.session import Session
from lifealign.model.adapters import causal_lm, holding, restore, snapshot, trainable
from lifealign.model.batch import PairLogps
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.writer import MemoryStore
from support.lives import TASKS, assert_same
from support.regularisation import Build, at, begun, learnt, lines, moved

pytestmark = pytest.mark.usefixtures("one_thread")


def kl_by_hand(session: Session, previous: Mapping[str, Tensor], row: Row) -> list[float]:
    """KL(previous || now) at each token of the chosen answer, from the model's ordinary logits in float64."""
    (pair,), _ = session.encoder.encode([row])
    ids = torch.tensor([[*pair.prompt, *pair.chosen]])
    lm = causal_lm(session.model)
    with torch.no_grad():
        now = torch.log_softmax(lm(input_ids=ids).logits[0].double(), -1)
        with holding(session.model, previous):
            then = torch.log_softmax(lm(input_ids=ids).logits[0].double(), -1)
    columns = range(len(pair.prompt) - 1, len(pair.prompt) + len(pair.chosen) - 1)
    return [float((then[t].exp() * (then[t] - now[t])).sum()) for t in columns]


@pytest.mark.parametrize("shared_prefix", ["auto", "never"])
def test_lwf_adds_the_divergence_from_the_previous_policy(shared_prefix: str, config: Build) -> None:
    session, store, dataset = begun(
        config, "strategy.name=lwf", "strategy.weight=0.7", f"train.shared_prefix={shared_prefix}"
    )
    moved(session)
    expected = [kl_by_hand(session, at(store, 1), row) for row in TASKS[1].train[1:4]]
    pairs, _ = session.encoder.encode(dataset.rows)
    pack = pack_pairs(pairs, [1, 2, 3], shared_prefix == "auto")
    policy = token_logps(session.model, pack).pairs()
    reference = PairLogps(policy.chosen.detach(), policy.rejected.detach())
    objective = session.strategy.objective(
        policy, reference, pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B
    )
    loss_B = session.strategy.loss(pack.batch, policy, reference, objective)
    means = torch.tensor([sum(kl) / len(kl) for kl in expected])
    torch.testing.assert_close(loss_B.detach(), math.log(2) + 0.7 * means, rtol=1e-4, atol=1e-5)
    assert float(means.min()) > 1e-3
    # SFT: the mean over all tokens of the pack is the mean NLL + 0.7 times the mean divergence.
    chosen = pack_pairs(pairs, [1, 2, 3], shared_prefix == "auto", chosen_only=True)
    token_T = token_logps(session.model, chosen).token_T
    sft_T = session.strategy.sft_loss(replace(chosen.batch, token_T=token_T))
    every = [v for kl in expected for v in kl]
    assert sft_T.shape == (len(every),)
    assert float((sft_T + token_T).mean().detach()) == pytest.approx(0.7 * sum(every) / len(every), rel=1e-4)


@pytest.mark.parametrize("shared_prefix", ["auto", "never"])
def test_lwf_gradient_is_that_of_the_divergence(shared_prefix: str, config: Build) -> None:
    """d KL / d theta along the way back to the previous weights, against a central difference."""
    session, store, _ = begun(config, "strategy.name=lwf", f"train.shared_prefix={shared_prefix}")
    moved(session)
    rows, previous, now = TASKS[1].train[:3], at(store, 1), snapshot(session.model)
    way = {n: previous[n] - now[n] for n in now}
    gradients = torch.autograd.grad(
        session.view.divergence(rows, previous).sum(), list(trainable(session.model).values())
    )
    slope = sum(float((g * way[n]).sum()) for n, g in zip(trainable(session.model), gradients, strict=True))
    values = []
    for step in (-0.01, 0.01):
        restore(session.model, {n: now[n] + step * way[n] for n in now})
        values.append(sum(sum(kl) / len(kl) for kl in (kl_by_hand(session, previous, row) for row in rows)))
    assert slope == pytest.approx((values[1] - values[0]) / 0.02, rel=0.01) and slope < -0.01


def test_lwf_first_task_is_sequential_and_later_ones_stay_near(config: Build, tmp_path: Any) -> None:
    def run(name: str, *settings: str) -> tuple[Session, MemoryStore]:
        common = ("train.epochs=3", "sft.epochs=1", "sft.learning_rate=5e-3", "train.pairs_per_step=3")
        return learnt(config, f"memory={tmp_path / name}", *common, *settings)

    _, plain = run("plain", "strategy.name=sequential")
    drift = []
    for weight in (0, 0.5, 20):
        session, store = run(f"lwf{weight}", "strategy.name=lwf", f"strategy.weight={weight}")
        assert_same(at(store, 1), at(plain, 1))
        assert lines(store, 2)[0]["loss"] == lines(plain, 2)[0]["loss"]  # at the previous policy the divergence is 0
        assert (lines(store, 2)[1]["loss"] > lines(plain, 2)[1]["loss"]) == (weight > 0)
        if weight == 0:
            assert_same(at(store, 2), at(plain, 2))
        session.load(store, store.head)
        drift.append(float(session.view.divergence(TASKS[1].train, at(store, 1)).detach().mean()))
    assert drift[1] < drift[0] and drift[2] < 0.2 * drift[0]


def test_lwf_previous_policy_has_no_dropout(config: Build) -> None:
    """A policy whose every B is 0 knows no dropout either, so the divergence is the same with dropout on."""
    session, store, _ = begun(config, "strategy.name=lwf", "lora.dropout=0.5")
    restore(session.model, at(store, 0))
    off = session.view.divergence(TASKS[1].train, at(store, 1))
    dropouts = [m for n, m in session.model.named_modules() if n.endswith("lora_dropout.default")]
    for module in dropouts:
        module.train()
    on = session.view.divergence(TASKS[1].train, at(store, 1))
    assert torch.equal(on, off) and float(off.detach().min()) > 0
    assert dropouts and all(m.training for m in dropouts) and not session.model.training
