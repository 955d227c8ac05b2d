"""COPR: target, fit and multiplier, by hand and in a run on a tiny model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifealign.data.tasks import Message, Row
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.store.layout import STATE
from lifealign.strategies.copr import Copr, fit_loss, target_logit
from support.balance import BREAD, STARS, Build, golden, lengths, losses
from support.lives import learn, start
from support.rows import make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_copr_golden_target_and_fit() -> None:
    g = golden("copr")
    target = target_logit(*torch.tensor([g["previous_logit"], g["r_x"]], dtype=torch.float64), g["beta"])
    assert float(target) == pytest.approx(1.4, abs=1e-12)
    assert float(torch.sigmoid(target)) == pytest.approx(g["target_probability"], abs=1e-8)
    assert float(fit_loss(torch.tensor(g["logit"], dtype=torch.float64), target)) == pytest.approx(
        g["fit_loss"], abs=1e-8
    )


def test_copr_fit_by_hand() -> None:
    """P = 1/2 against P* = 3/4 (logit ln 3): half of (ln 2/3)^2 + (ln 2)^2; none where they agree."""
    found = fit_loss(torch.tensor([0.0, math.log(3)]), torch.tensor(math.log(3)))
    assert found.tolist() == pytest.approx([(math.log(2 / 3) ** 2 + math.log(2) ** 2) / 2, 0.0], abs=1e-6)


def fit(logit: float, target: float) -> float:
    """As `fit_loss`, by way of probabilities' logarithms."""
    terms = [np.logaddexp(0, -s * target) - np.logaddexp(0, -s * logit) for s in (1, -1)]
    return float(np.mean(np.square(terms)))


FIXED = ["strategy.name=copr", "strategy.reward_concentration=1e12", "strategy.reward=0.05", "train.pairs_per_step=12"]
"""r_x = 0.05 for all rows, and one step a task."""


def logits(session: Session, rows: tuple[Row, ...] | list[Row], weights: Any = None) -> np.ndarray:
    logps = session.view.pair_logps(rows, weights)
    return (logps[:, 0] - logps[:, 1]).double().numpy()


def test_copr_first_loss_is_the_fit_to_one_nat_more_and_the_likelihood(config: Build) -> None:
    session, store = start(config(*FIXED, "strategy.sft_weight=0.5"))
    d, size = logits(session, BREAD.train), lengths(session, BREAD.train)
    nll = float((-session.view.pair_logps(BREAD.train)[:, 0] / size[:, 0]).mean())
    store = learn(session, store, BREAD)
    wanted = float(np.mean([fit(x, x + 1) for x in d])) + 0.5 * nll
    assert losses(store)[0] == [pytest.approx(wanted, rel=1e-4)]


def test_copr_stores_targets_and_raises_lambda_by_the_violation(config: Build) -> None:
    """All rows are kept; the second task's step sees the first task's rows at the policy between the tasks."""
    settings = ["strategy.replay_share=1.0", "strategy.slack=0.02", "strategy.multiplier_rate=0.5"]
    session, store = start(config(*FIXED, *settings, "strategy.multiplier=0.25", "strategy.sft_weight=0"))
    first = logits(session, BREAD.train)
    store = learn(session, store, BREAD)
    state = store.load_tensors(store.head, STATE)
    kept = [Row.from_json(line) for line in store.load_lines(store.head, "replay.jsonl")[1:]]
    by_row = dict(zip((r.digest for r in BREAD.train), first + 1, strict=True))
    assert state["targets"].tolist() == pytest.approx([by_row[r.digest] for r in kept], abs=1e-4)
    assert float(state["multiplier"]) == 0.25  # nothing was replayed yet
    between, new = logits(session, kept), logits(session, STARS.train)
    assert np.abs(between - logits(session, kept, session.initial)).max() > 1e-2
    store = learn(session, store, STARS)
    replayed = [fit(x, target) for x, target in zip(between, state["targets"].tolist(), strict=True)]
    own = [fit(x, x + 1) for x in new]
    assert losses(store)[1] == [pytest.approx((sum(own) + 0.25 * sum(replayed)) / 12, rel=1e-3)]
    after = store.load_tensors(store.head, STATE)
    assert float(after["multiplier"]) == pytest.approx(0.25 + 0.5 * (np.mean(replayed) - 0.02), rel=1e-3)
    both = by_row | dict(zip((r.digest for r in STARS.train), new + 1, strict=True))
    lines = store.load_lines(store.head, "replay.jsonl")[1:]
    assert after["targets"].tolist() == pytest.approx([both[Row.from_json(x).digest] for x in lines], abs=1e-4)


def test_copr_counts_the_violation_from_the_fit_at_the_end_of_a_rows_own_task(config: Build) -> None:
    """One step a task: the fit seen in the second task's only step is the one at the first task's end, so it is `excess` below."""
    settings = ["strategy.replay_share=1.0", "strategy.excess=0.3", "strategy.multiplier_rate=0.5"]
    session, store = start(config(*FIXED, *settings, "strategy.multiplier=2"))
    store = learn(session, store, BREAD)
    state = store.load_tensors(store.head, STATE)
    kept = [Row.from_json(line) for line in store.load_lines(store.head, "replay.jsonl")[1:]]
    ended = [fit(x, y) for x, y in zip(logits(session, kept), state["targets"].tolist(), strict=True)]
    assert state["fits"].tolist() == pytest.approx(ended, abs=1e-3) and max(ended) > 0.01
    store = learn(session, store, STARS)
    after = store.load_tensors(store.head, STATE)
    assert float(after["multiplier"]) == pytest.approx(2 - 0.5 * 0.3, abs=1e-4)
    old = dict(zip((r.digest for r in kept), ended, strict=True))
    both = [Row.from_json(line).digest for line in store.load_lines(store.head, "replay.jsonl")[1:]]
    found = dict(zip(both, after["fits"].tolist(), strict=True))
    assert {d: found[d] for d in old} == pytest.approx(old, abs=1e-3)
    stars = dict(zip(both, after["targets"].tolist(), strict=True))
    now = [fit(x, stars[r.digest]) for x, r in zip(logits(session, STARS.train), STARS.train, strict=True)]
    assert [found[r.digest] for r in STARS.train] == pytest.approx(now, abs=1e-3)


def test_copr_lambda_rises_to_its_bound_and_no_further(config: Build) -> None:
    settings = ["strategy.replay_share=1.0", "strategy.slack=0", "strategy.multiplier_rate=1000"]
    session, store = start(config(*FIXED, *settings, "strategy.multiplier_max=1.5"))
    store = learn(session, store, BREAD, STARS)
    assert float(store.load_tensors(store.head, STATE)["multiplier"]) == 1.5


def test_copr_an_older_configuration_keeps_its_slack_and_has_no_bound(config: Build) -> None:
    """A memory made before `excess` has a slack, and neither a bound of lambda nor stored fits."""
    older = Copr.Config(slack=0.1)
    assert older.excess is None and older.multiplier_max is None
    assert {"excess", "multiplier_max"}.isdisjoint(older.model_dump())
    assert Copr.Config.model_validate(older.model_dump()) == older
    assert (Copr.Config().slack, Copr.Config().excess) == (None, Copr.Config.relative["excess"])
    assert Copr.Config.model_validate(Copr.Config().model_dump()) == Copr.Config()
    with pytest.raises(ValueError, match="two bounds of the same fit; give only excess"):
        Copr.Config(slack=1, excess=1)
    with pytest.raises(ValueError, match="multiplier 3 is above multiplier_max 2; lower it"):
        Copr.Config(multiplier=3, multiplier_max=2)
    session, store = start(config(*FIXED, "strategy.slack=0.1", "strategy.replay_share=1.0"))
    store = learn(session, store, BREAD)
    assert set(store.load_tensors(store.head, STATE)) == {"multiplier", "targets"}
    # Rows that were kept under `slack` have no fit: with `excess` they are held to it alone.
    session.strategy.config = Copr.Config(replay_share=1.0, excess=0.3)
    buffer = StoreHistory(store).replay
    assert set(session.strategy._allowed(buffer).values()) == {0.3}  # type: ignore[attr-defined]
    store = learn(session, store, STARS)
    assert len(store.load_tensors(store.head, STATE)["fits"]) == 12


def test_copr_lambda_falls_to_zero_and_no_further(config: Build) -> None:
    session, store = start(config(*FIXED, "strategy.replay_share=1.0", "strategy.slack=100"))
    store = learn(session, store, BREAD, STARS)
    assert float(store.load_tensors(store.head, STATE)["multiplier"]) == 0


def test_copr_targets_follow_their_rows_through_a_full_buffer(config: Build) -> None:
    """A reservoir of 3 over 12 candidates: slots are overwritten, and each target stays with its row."""
    session, store = start(config(*FIXED, "strategy.replay_share=1.0", "strategy.replay_capacity=3"))
    targets: dict[str, float] = {}
    for task in (BREAD, STARS):
        targets |= dict(zip((r.digest for r in task.train), logits(session, task.train) + 1, strict=True))
        store = learn(session, store, task)
    rows = [Row.from_json(line) for line in store.load_lines(store.head, "replay.jsonl")[1:]]
    assert len(rows) == 3
    stored = store.load_tensors(store.head, STATE)["targets"].tolist()
    assert stored == pytest.approx([targets[r.digest] for r in rows], abs=1e-4)


def test_copr_rewards_are_draws_of_the_row_and_the_seed(config: Build) -> None:
    """Beta(5, 15): mean 0.25, standard deviation sqrt(.25 .75 / 21) = 0.0945; 400 rows."""
    session, _ = start(config("strategy.name=copr"))
    draw = session.strategy._reward  # type: ignore[attr-defined]
    rows = make_task("many", train=400, test=0, validation=0).train
    values = np.array([draw(row) for row in rows])
    assert [draw(row) for row in rows] == values.tolist()
    assert values.mean() == pytest.approx(0.25, abs=4 * 0.0945 / 20)
    assert values.std() == pytest.approx(math.sqrt(0.25 * 0.75 / 21), rel=0.15)
    session.strategy.seed = 1
    assert draw(rows[0]) != values[0]


def test_copr_row_that_cannot_be_encoded_is_not_kept(config: Build) -> None:
    long = Row((Message("user", "bread " * 900),), "yes it is", "no", "bread.jsonl:99")
    task = replace(BREAD, train=(long, *BREAD.train))
    settings = ["strategy.name=copr", "strategy.replay_share=1.0", "data.long_prompts=drop"]
    session, store = start(config(*settings))
    store = learn(session, store, task, STARS)
    kept = {Row.from_json(line).digest for line in store.load_lines(store.head, "replay.jsonl")[1:]}
    assert kept == {r.digest for r in (*BREAD.train, *STARS.train)}
    assert all(math.isfinite(v) for task_losses in losses(store) for v in task_losses)
    assert bool(store.load_tensors(store.head, STATE)["targets"].isfinite().all())


def test_copr_replay_keeps_the_stored_preference(config: Build) -> None:
    """With every row replayed the first task's fit stays near its target; without weight on them it drifts further."""

    def misfit(*settings: str) -> float:
        session, store = start(config(*FIXED[:3], *settings, "strategy.replay_share=1.0", "train.epochs=4"))
        store = learn(session, store, BREAD)
        state, kept = store.load_tensors(store.head, STATE), store.load_lines(store.head, "replay.jsonl")[1:]
        store = learn(session, store, STARS)
        now = logits(session, [Row.from_json(line) for line in kept])
        return float(np.mean([fit(x, y) for x, y in zip(now, state["targets"].tolist(), strict=True)]))

    memory = config().memory
    loose = misfit("strategy.multiplier=0", "strategy.multiplier_rate=0", f"memory={memory}-loose")
    tight = misfit("strategy.multiplier=5", "strategy.slack=0", f"memory={memory}-tight")
    assert tight < 0.6 * loose, (tight, loose)
