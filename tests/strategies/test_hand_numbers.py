"""Numbers by hand of several methods: the supervised stage, the divergence of LwF, the threshold of InfLoRA, shares of steps."""

from __future__ import annotations

import math

import pytest
import torch

from lifealign.data.tasks import Row
from lifealign.model.logps import _TokenDivergence
from lifealign.strategies._steps import mean_of_steps, penalty_share
from support.balance import BREAD, STARS, Build, lengths
from support.lives import learn, start
from support.rows import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["copr", "cppo", "l2p"])
def test_the_supervised_stage_is_the_likelihood_alone(name: str, config: Build) -> None:
    """The first step of the second task, all rows in it: -sum log pi(chosen) / tokens, no weight, retention, target or pull."""
    replayed = ("strategy.replay_share=1.0",) if name == "copr" else ()
    session, store = start(config(f"strategy.name={name}", "sft.epochs=1", "train.pairs_per_step=12", *replayed))
    store = learn(session, store, BREAD)
    kept = [Row.from_json(line) for line in store.load_lines(store.head, "replay.jsonl")[1:]]
    assert len(kept) == (6 if replayed else 0)
    rows = (*STARS.train, *kept)
    logps, tokens = session.view.pair_logps(rows)[:, 0], lengths(session, rows)[:, 0]
    store = learn(session, store, STARS)
    line = store.load_lines(store.head, "training.jsonl")[0]
    assert line["stage"] == "sft" and line["loss"] == pytest.approx(-float(logps.sum() / tokens.sum()), rel=1e-4)
    assert "penalty" not in line


def test_lwf_divergence_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 - 1/4 ln 2; the other direction is 1/2 ln 4/3. Its slope is q - p = (-1/4, 1/4)."""
    now = torch.zeros(1, 2, requires_grad=True)
    previous = torch.tensor([[math.log(3), 0.0]])
    found = _TokenDivergence.apply(now, previous, torch.eye(2), None)  # type: ignore[no-untyped-call]
    assert float(found.detach()) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), abs=1e-6)
    assert abs(float(found.detach()) - 0.5 * math.log(4 / 3)) > 0.01
    found.sum().backward()
    assert now.grad is not None and now.grad.tolist() == [pytest.approx([-0.25, 0.25])]


def test_inflora_threshold_stays_at_its_last_value(config: Build) -> None:
    """0.6, and 0.1 more with each of 2 tasks; the fourth task would be at 0.9."""
    settings = ("strategy.protected_first=0.6", "strategy.protected_last=0.8", "strategy.tasks=2")
    session, store = start(config("strategy.name=inflora", *settings))
    found = []
    for name in ("bread", "stars", "music", "trees"):
        store = learn(session, store, make_task(name, train=2, test=1))
        found.append(store.load_document(store.head, "diagnostics.json")["threshold"])
    assert found == pytest.approx([0.6, 0.7, 0.8, 0.8])


def test_shares_of_steps_by_hand() -> None:
    """Penalties 0 and 0.3 beside losses 0.7 and 0.5: 0.3 / 1.2. The step without a penalty does not count."""
    log = [{"loss": 9.0}, {"loss": 0.7, "penalty": 0.0}, {"loss": 0.5, "penalty": 0.3}, {"loss": 0.2, "projected": 1.0}]
    assert penalty_share(log) == pytest.approx(0.25)
    assert mean_of_steps(log, "projected") == 1.0 and mean_of_steps(log, "loss") == pytest.approx(2.6)
    assert penalty_share(log[:1]) is None and mean_of_steps((), "projected") is None
