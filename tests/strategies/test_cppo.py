"""CPPO: weights by hand and in a run on a tiny model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lifealign.core.config import LoraConfig
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot
from lifealign.model.batch import PairLogps, PreferenceBatch
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies.cppo import Cppo, balance_weights
from lifealign.training.losses import Losses
from lifealign.training.schedule import row_order
from lifealign.training.strategy import Step
from support.balance import BREAD, STARS, Build, golden, lengths, losses
from support.lives import learn, start
from support.rows import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cppo_golden_weights() -> None:
    """The six pairs are their own statistics: only the third is beyond mean -+ std in both values, and low in both."""
    g = golden("cppo")
    values = torch.tensor([g["margins"], g["mean_logps"]])
    alpha, beta = balance_weights(values[0], values[1], values.T, g["k"], *g["bounds"])
    assert alpha.tolist() == g["alpha"] and beta.tolist() == g["beta"]


def test_cppo_weights_by_hand() -> None:
    """Columns with mean 0 and std 1, mean -10 and std 2: +-2 and -10 -+ 3 are beyond one, +-1 and -12 are not."""
    seen = torch.tensor([[-1.0, -12.0], [1.0, -8.0]])
    rows = [  # margin, mean log-prob, alpha, beta
        (2, -7, 3, 3), (-2, -7, 3, 0.25), (2, -13, 3, 0.25), (-2, -13, 0.25, 0.25),
        (2, -10, 1, 1), (-2, -10, 1, 1), (0, -7, 1, 1), (0, -13, 1, 1), (0, -10, 1, 1),
        (1, -8, 1, 1), (-1, -12, 1, 1), (1, -13, 1, 1), (2, -8, 1, 1),
    ]  # fmt: skip
    table = torch.tensor([[float(x) for x in row] for row in rows])
    alpha, beta = balance_weights(table[:, 0], table[:, 1], seen, 1.0, 0.25, 3.0)
    assert torch.equal(alpha, table[:, 2]) and torch.equal(beta, table[:, 3])
    wide = balance_weights(table[:, 0], table[:, 1], seen, 2.5, 0.25, 3.0)
    assert torch.equal(torch.stack(wide), torch.ones(2, len(rows)))


def test_cppo_window_holds_the_pairs_last_trained_on_in_the_order_of_rows(config: Build) -> None:
    """Two steps of three pairs, window 4: one pair of the first step (margin 0, base log-probs), three of the second."""
    session, store = start(config("strategy.name=cppo", "strategy.window=4", "train.pairs_per_step=3"))
    first: list[dict[str, Tensor]] = []
    real = session.strategy.adjust_update

    def adjust(step: Step) -> None:
        real(step)
        first.append(snapshot(step.model))  # type: ignore[arg-type]

    session.strategy.adjust_update = adjust  # type: ignore[method-assign]
    base = session.view.pair_logps(BREAD.train)
    store = learn(session, store, BREAD)
    now, size = session.view.pair_logps(BREAD.train, first[0]), lengths(session, BREAD.train)
    order = row_order(0, "bread", "preference", 0, 6)
    old, new = sorted(order[:3])[2], sorted(order[3:])
    margin = 0.1 * ((now - base)[:, 0] - (now - base)[:, 1])
    wanted = [[0.0, float(base[old, 0] / size[old, 0])]]
    wanted += [[float(margin[i]), float(now[i, 0] / size[i, 0])] for i in new]
    torch.testing.assert_close(
        store.load_tensors(store.head, STATE)["seen"], torch.tensor(wanted), atol=2e-4, rtol=1e-4
    )
    assert abs(wanted[1][0]) > 1e-3


def test_cppo_retention_is_the_squared_drift_per_token_from_the_policy_before_the_task(config: Build) -> None:
    """Second task, two steps of three pairs: none at the first; at the second, `retention` times the mean of squares."""

    def run(retention: float) -> tuple[Session, MemoryStore, list[dict[str, Tensor]]]:
        settings = ["strategy.name=cppo", f"strategy.retention={retention}", "strategy.window=256"]
        session, store = start(config(*settings, "train.pairs_per_step=3", f"memory={config().memory}-{retention}"))
        store = learn(session, store, BREAD)
        weights: list[dict[str, Tensor]] = []
        session.strategy.adjust_update = lambda step: weights.append(snapshot(step.model))  # type: ignore[method-assign]
        return session, learn(session, store, STARS), weights

    session, without, weights = run(0.0)
    _, kept, _ = run(3.0)
    assert losses(kept)[0] == losses(without)[0]  # the first task has no policy before it
    assert losses(kept)[1][0] == pytest.approx(losses(without)[1][0], abs=1e-6)
    before = session.view.token_logps(STARS.train, without.load_tensors(without.lineage()[1], ADAPTER))
    after = session.view.token_logps(STARS.train, weights[0])
    window = row_order(0, "stars", "preference", 0, 6)[3:]
    drift = float(np.mean([float(((after[i] - before[i]) ** 2).mean()) for i in window]))
    assert drift > 5e-4
    assert losses(kept)[1][1] - losses(without)[1][1] == pytest.approx(3.0 * drift, rel=1e-2)


def test_cppo_weighs_once_the_window_is_full(config: Build) -> None:
    """Second step of the only task, thresholds from the first three pairs: the loss by hand from weights and margins."""
    settings = [
        "strategy.name=cppo",
        "strategy.window=3",
        "strategy.threshold_std=0",
        "strategy.upper=5",
        "strategy.lower=0.1",
    ]
    session, store = start(config(*settings, "train.pairs_per_step=3"))
    weights: list[dict[str, Tensor]] = []
    real = session.strategy.adjust_update

    def adjust(step: Step) -> None:
        real(step)
        weights.append(snapshot(step.model))  # type: ignore[arg-type]

    session.strategy.adjust_update = adjust  # type: ignore[method-assign]
    base = session.view.pair_logps(BREAD.train)
    store = learn(session, store, BREAD)
    now, size = session.view.pair_logps(BREAD.train, weights[0]), lengths(session, BREAD.train)
    order = row_order(0, "bread", "preference", 0, 6)
    threshold = float((base[order[:3], 0] / size[order[:3], 0]).mean())  # of the log-probs; of the margins it is 0
    terms = []
    for i in order[3:]:
        margin = 0.1 * float((now - base)[i, 0] - (now - base)[i, 1])
        high_reward, high_prob = margin > 0, float(now[i, 0] / size[i, 0]) > threshold
        terms.append((0.1 if not high_reward and not high_prob else 5.0) * math.log1p(math.exp(-margin)))
    assert losses(store)[0][0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(store)[0][1] == pytest.approx(sum(terms) / 3, rel=1e-3)
    assert store.load_document(store.head, "diagnostics.json")["balance"] == {"pairs": 6, "weighted": 3}


def test_cppo_window_is_as_long_as_the_task_unless_it_is_set(config: Build) -> None:
    """Six pairs a task: none is weighed in the first, and with thresholds at the mean all that are not a tie in the second."""
    session, store = start(config("strategy.name=cppo", "strategy.threshold_std=0"))
    store = learn(session, store, BREAD)
    assert store.load_document(store.head, "diagnostics.json")["balance"] == {"pairs": 6, "weighted": 0}
    longer = make_task("stars", train=8, test=2)
    store = learn(session, store, longer)  # 6 of the 8 pairs that are asked for are seen when it begins
    assert store.load_tensors(store.head, STATE)["seen"].shape == (8, 2)
    store = learn(session, store, make_task("music", train=4, test=2))
    assert store.load_document(store.head, "diagnostics.json")["balance"]["weighted"] == 4
    assert store.load_tensors(store.head, STATE)["seen"].shape == (4, 2)


def test_cppo_retention_weighs_a_pair_by_its_beta() -> None:
    """Drifts of (1, 3) nats over two tokens, mean square 5, and of (2,): 4. Retention 0.1: 0.5 and 0.4; beta 2 and 0.5.

    The pairs are high and high, and low and high, of a window with mean 0 and spread 1 in both columns.
    """
    cppo = Cppo(Cppo.Config(retention=0.1, window=2, threshold_std=1), LoraConfig(), 0)
    cppo._window, cppo._seen_M2 = 2, torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    cppo._previous = [torch.tensor([1.0, 1.0]), torch.tensor([-4.0])]
    token_T = torch.tensor([2.0, 4.0, -2.0])
    batch = PreferenceBatch(
        index_B=torch.tensor([0, 1]), chosen_lengths_B=torch.tensor([1.0, 1.0]), rejected_lengths_B=torch.tensor([1.0, 0.0]),
        token_T=token_T,
    )  # fmt: skip
    policy = PairLogps(torch.tensor([2.0, 2.0]), torch.zeros(2))
    objective = Losses(torch.zeros(2), torch.tensor([2.0, -2.0]), torch.ones(2))
    found = cppo.loss(batch, policy, policy, objective)
    assert found.tolist() == pytest.approx([2 * 0.5, 0.5 * 0.4], abs=1e-6)


def test_cppo_does_not_depend_on_packing(config: Build) -> None:
    found = []
    for budget in (1, 4096):
        settings = [
            "strategy.name=cppo",
            "strategy.window=4",
            "strategy.threshold_std=0.5",
            f"train.tokens_per_pack={budget}",
        ]
        session, store = start(config(*settings, f"memory={config().memory}-{budget}"))
        store = learn(session, store, BREAD, STARS)
        found.append((store.load_tensors(store.head, STATE)["seen"], losses(store)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-3, rtol=1e-3)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert a == pytest.approx(b, abs=1e-4)
