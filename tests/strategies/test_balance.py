"""CPPO and COPR: weights, targets and multiplier by hand, and in a real (tiny) run. Both look at the policy before the task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Message, Row
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies.copr import fit_loss, target_logit
from lifealign.strategies.cppo import balance_weights
from lifealign.training.schedule import row_order
from lifealign.training.strategy import Step
from support.golden import golden_numbers
from support.lives import learn, start
from support.rows import make_task

Build = Callable[..., RunConfig]
BREAD, STARS = (make_task(name, train=6, test=2) for name in ("bread", "stars"))

pytestmark = pytest.mark.usefixtures("one_thread")


def golden(name: str) -> dict[str, Any]:
    return golden_numbers("strategies")[name]  # type: ignore[no-any-return]


def losses(store: MemoryStore) -> list[list[float]]:
    return [[line["loss"] for line in store.load_lines(m, "training.jsonl")] for m in store.lineage()[1:]]


def lengths(session: Session, rows: tuple[Row, ...]) -> Tensor:
    pairs, _ = session.encoder.encode(rows)
    return torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs]).float()


# --- CPPO ----------------------------------------------------------------------------------------------------------


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
        settings = ["strategy.name=cppo", f"strategy.retention={retention}", "train.pairs_per_step=3"]
        session, store = start(config(*settings, f"memory={config().memory}-{retention}"))
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


# --- COPR ----------------------------------------------------------------------------------------------------------


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


# --- all five --------------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["agem", "copr", "cppo", "gem", "ogpsa"])
def test_stopped_inside_a_task_goes_on_bit_for_bit(name: str, config: Build) -> None:
    """Stopped in the fifth of six steps of the second task, one after the checkpoint: for ogpsa between two refreshings."""
    extra = {"ogpsa": ["strategy.refresh=3"], "cppo": ["strategy.window=4", "strategy.threshold_std=0.3"]}.get(name, [])
    settings = [f"strategy.name={name}", *extra, "lora.dropout=0.1", "train.epochs=2", "train.pairs_per_step=2"]
    settings += ["train.checkpoint_every=4", "sft.epochs=1"]
    memory = config().memory
    session, store = start(config(*settings, f"memory={memory}-whole"))
    whole = learn(session, store, BREAD, STARS)

    parts = config(*settings, f"memory={memory}-parts")
    session, store = start(parts)
    store = learn(session, store, BREAD)
    real = session.strategy.adjust_update

    def adjust(step: Step) -> None:
        if step.stage == "preference" and step.index == 4:
            raise StoppedError
        real(step)

    session.strategy.adjust_update = adjust  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        learn(session, store, STARS)
    fresh, store = Session(parts, NullProgress()), MemoryStore.open(parts.memory)
    store = learn(fresh, store, STARS)
    for stem in (ADAPTER, STATE):
        a, b = (s.load_tensors(s.head, stem) for s in (store, whole))
        assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a), stem
    assert losses(store) == losses(whole)
