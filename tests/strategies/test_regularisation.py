"""EWC, SI, LwF and DER++: their formulas by hand, and what they do inside a training run on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import adapter_off, causal_lm, holding, restore, snapshot, trainable
from lifealign.model.batch import PairLogps
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import Step
from lifealign.strategies._quadratic import weighted_distance
from lifealign.strategies.derpp import draw, matching_loss
from lifealign.strategies.ewc import accumulate, mean_of, mean_squares
from lifealign.strategies.si import importance
from support.contract import TASKS, assert_same
from support.golden import golden_numbers
from support.lives import learn, start
from support.rows import make_task

Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def golden() -> dict[str, Any]:
    values: dict[str, Any] = golden_numbers("strategies")
    return values


def learnt(config: Build, *settings: str, tasks: int = 2) -> tuple[Session, MemoryStore]:
    session, store = start(config(*settings))
    return session, learn(session, store, *TASKS[:tasks])


def lines(store: MemoryStore, task: int) -> list[dict[str, Any]]:
    return list(store.load_lines(store.lineage()[task], "training.jsonl"))


def at(store: MemoryStore, task: int, stem: str = ADAPTER) -> dict[str, Tensor]:
    return dict(store.load_tensors(store.lineage()[task], stem))


def watched(session: Session, seen: Callable[[Step], None]) -> None:
    """Call `seen` after each optimizer step, after the strategy's own hook."""
    real = session.strategy.adjust_update

    def adjust_update(step: Step) -> None:
        real(step)
        seen(step)

    session.strategy.adjust_update = adjust_update  # type: ignore[method-assign]


def begun(config: Build, *settings: str) -> tuple[Session, MemoryStore, Any]:
    """A session in the second task, before its training; with the task's training set."""
    session, store = learnt(config, *settings, tasks=1)
    session.load(store, store.head)
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    return session, store, session.strategy.training_set(TASKS[1], StoreHistory(store))


def moved(session: Session, by: float = 0.2) -> None:
    """Every trained entry somewhere else, so that the policy is not the stored one."""
    generator = torch.Generator().manual_seed(5)
    restore(
        session.model,
        {n: t + by * torch.randn(t.shape, generator=generator) for n, t in snapshot(session.model).items()},
    )


def too_long(task: str) -> Row:
    return Row((Message("user", f"{task} " * 400),), "yes", "no", f"{task}.jsonl:99")


# --- the quadratic penalty and EWC ---------------------------------------------------------------------------------


def test_online_ewc_golden(golden: dict[str, Any]) -> None:
    g = golden["online_ewc"]
    fisher = accumulate({"x": torch.tensor([g["fisher_old"]])}, {"x": torch.tensor([g["fisher_new"]])}, g["decay"])
    assert float(fisher["x"]) == pytest.approx(g["fisher"], abs=1e-6)
    distance = weighted_distance(
        {"x": nn.Parameter(torch.tensor([g["delta"] - 3]))}, {"x": torch.tensor([-3.0])}, fisher
    )
    assert g["lambda"] / 2 * float(distance.detach()) == pytest.approx(g["penalty"], abs=1e-6)


def test_fisher_is_the_mean_of_squares_of_single_gradients() -> None:
    """Gradients (1, 0) and (-1, 2): squares (1, 0) and (1, 4), mean (1, 2); the square of their mean would be (0, 1)."""
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    losses = ((torch.tensor(x) * p).sum() for x in ([1.0, 0.0], [-1.0, 2.0]))
    found = mean_squares(losses, {"p": p})
    assert found["p"].tolist() == [1, 2] and mean_of(found) == 1.5 and p.grad is None


def fisher_by_hand(session: Session, task: Task) -> dict[str, Tensor]:
    """-log sigmoid(0.1 h) of each pair by itself, with plain rows and a reference of its own."""
    parameters = trainable(session.model)
    pairs, _ = session.encoder.encode(task.train)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(len(pairs)):
        pack = pack_pairs(pairs, [i], False)
        with torch.no_grad(), adapter_off(session.model):
            reference = token_logps(session.model, pack).sums()
        h = (token_logps(session.model, pack).sums() - reference) @ torch.tensor([1.0, -1.0])
        gradients = torch.autograd.grad(torch.log1p(torch.exp(-0.1 * h)), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient**2
    mean = torch.cat([t.flatten() for t in total.values()]).mean()
    return {name: t / mean for name, t in total.items()}


def test_ewc_keeps_a_running_fisher_of_mean_one_a_task(config: Build) -> None:
    session, store = learnt(config, "strategy.name=ewc", "strategy.penalty_weight=1")
    first = at(store, 1, STATE)
    session.load(store, store.lineage()[1])
    for name, expected in fisher_by_hand(session, TASKS[0]).items():
        torch.testing.assert_close(first[name], expected, atol=1e-5, rtol=1e-3)
    session.load(store, store.head)
    for name, fresh in fisher_by_hand(session, TASKS[1]).items():
        torch.testing.assert_close(at(store, 2, STATE)[name], 0.95 * first[name] + fresh, atol=1e-5, rtol=1e-3)
    told = store.load_document(store.head, "diagnostics.json")["fisher"]
    assert told["pairs"] == 6 and told["mean"] == pytest.approx(1.95, rel=1e-5)
    assert told["mean_square"] > 0 and told["largest"] > 1.95


def test_ewc_estimates_on_a_seeded_part_of_the_rows_that_can_be_used(config: Build) -> None:
    task = replace(TASKS[0], train=(too_long("bread"), *TASKS[0].train))
    settings = ("strategy.name=ewc", "data.long_prompts=drop")
    session, store = start(config(*settings))
    store = learn(session, store, task)
    assert store.load_document(store.head, "diagnostics.json")["fisher"]["pairs"] == 6
    whole = session.strategy.state_dict()
    session.strategy.config = session.strategy.config.model_copy(update={"fisher_pairs": 2})
    for _ in range(2):
        session.load(store, store.lineage()[0])
        restore(session.model, at(store, 1))
        told = session.strategy.end_task(session.model, task, StoreHistory(store))
        assert told["fisher"]["pairs"] == 2
        part = session.strategy.state_dict()
        assert any(not torch.equal(part[n], whole[n]) for n in whole)
        assert_same(part, session.strategy.state_dict())


@pytest.mark.parametrize("stage", ["sft", "preference"])
def test_ewc_pulls_back_in_both_stages(stage: str, config: Build) -> None:
    """The logged penalty of the second step is 50 sum F d^2 of the first step's d, and its gradient is in the step."""
    settings = ("sft.epochs=1", "sft.learning_rate=5e-3", "train.pairs_per_step=3", "strategy.name=ewc")
    session, store = start(config(*settings))
    store = learn(session, store, TASKS[0])
    expected: list[float] = []

    def note(step: Step) -> None:
        if step.stage == stage:
            d = torch.cat([(p.detach() - at(store, 1)[n]).flatten().double() for n, p in step.parameters.items()])
            fisher = torch.cat([at(store, 1, STATE)[n].flatten().double() for n in step.parameters])
            expected.append(float(50 * (fisher * d**2).sum()))

    watched(session, note)
    after = learn(session, store, TASKS[1])
    logged = [line["penalty"] for line in lines(after, 2) if line["stage"] == stage]
    assert len(logged) == 2 and logged[1] == pytest.approx(expected[0], rel=1e-4) and logged[1] > 1e-3
    assert all("penalty" not in line for line in lines(after, 1))


def test_a_stiff_penalty_does_not_scale_the_losses_gradient_away(config: Build) -> None:
    """Clipped is the loss's gradient, by itself: what is left of a step's gradient without the penalty's has its norm."""
    session, store = start(config("strategy.name=ewc", "strategy.penalty_weight=1e4", "train.max_grad_norm=0.01"))
    store = learn(session, store, TASKS[0])
    fisher, anchor = session.strategy.state_dict(), snapshot(session.model)
    norms: list[tuple[float, float]] = []

    def note(step: Step) -> None:
        pulls = {n: 1e4 * fisher[n] * (step.before[n] - anchor[n]) for n in step.parameters}
        rest = [p.grad - pulls[n] for n, p in step.parameters.items() if p.grad is not None]
        norms.append((norm_of(pulls.values()), norm_of(rest)))

    watched(session, note)
    learn(session, store, TASKS[1])
    assert norms[0][0] == 0 and len(norms) > 1 and all(pull > 1 for pull, _ in norms[1:])
    assert [rest for _, rest in norms] == pytest.approx([0.01] * len(norms), rel=1e-2)


def norm_of(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([t.double().flatten() for t in tensors]).norm())


def test_ewc_with_lam_nought_is_sequential_and_a_large_one_stays(config: Build, tmp_path: Any) -> None:
    def run(name: str, *settings: str) -> MemoryStore:
        return learnt(config, f"memory={tmp_path / name}", "train.epochs=3", "train.pairs_per_step=2", *settings)[1]

    free = run("free", "strategy.name=ewc", "strategy.penalty_weight=0")
    plain = run("plain", "strategy.name=sequential")
    held = run("held", "strategy.name=ewc", "strategy.penalty_weight=1000")
    assert_same(at(free, 2), at(plain, 2))

    def distance(store: MemoryStore) -> float:
        """sum F d^2 between the two tasks' ends."""
        return sum(
            float((at(store, 1, STATE)[n] * (at(store, 2)[n] - at(store, 1)[n]) ** 2).sum()) for n in at(store, 1)
        )

    assert_same(at(held, 1), at(plain, 1))
    assert distance(held) < 0.3 * distance(free)


# --- SI ------------------------------------------------------------------------------------------------------------


def test_si_importance_by_hand() -> None:
    """0.02 / (0.01 + 0.1); a way along which the loss rose; 0.3 / (0 + 0.1)."""
    found = importance(torch.tensor([0.02, -0.5, 0.3]), torch.tensor([0.1, 1.0, 0.0]), 0.1)
    assert found.tolist() == pytest.approx([0.1818182, 0.0, 3.0], abs=1e-6)


@pytest.mark.parametrize("xi", [0.1, 1e-6])
def test_si_integrates_the_losses_own_gradient_over_both_stages(xi: float, config: Build) -> None:
    """All rows in a step: g is the gradient of the mean loss at the weights before it, without penalty or clipping."""
    session, store = start(
        config(
            "strategy.name=si",
            "strategy.penalty_weight=1000",
            f"strategy.xi={xi}",
            "sft.epochs=2",
            "sft.learning_rate=5e-3",
            "train.epochs=2",
            "train.pairs_per_step=6",
            "train.max_grad_norm=0.01",
        )
    )
    path: dict[str, Tensor] = {}
    stages: list[str] = []

    def note(step: Step) -> None:
        after = snapshot(session.model)
        restore(session.model, step.before)
        loss = torch.stack(list(step.losses_on(current[0].train))).sum()
        if step.stage == "sft":  # the loop averages over tokens, as `sft_loss_on` does
            assert float(loss.detach()) > 1
        gradients = torch.autograd.grad(loss, list(step.parameters.values()))
        restore(session.model, after)
        for (name, p), g in zip(step.parameters.items(), gradients, strict=True):
            path[name] = path.get(name, torch.zeros_like(p)) - g * (after[name] - step.before[name])
        stages.append(step.stage)

    watched(session, note)
    omega: dict[str, Tensor] = {}
    for i, task in enumerate(TASKS[:2]):
        current = [task]
        path.clear()
        store = learn(session, store, task)
        for name, w in path.items():
            d = at(store, i + 1)[name] - at(store, i)[name]
            omega[name] = omega.get(name, torch.zeros(())) + w.detach().clamp(min=0) / (d**2 + xi)
            found = at(store, i + 1, STATE)[f"omega/{name}"]
            torch.testing.assert_close(found, omega[name], rtol=1e-3, atol=1e-4 * float(omega[name].max()))
        told = store.load_document(store.head, "diagnostics.json")["path"]
        assert told["loss_fall"] == pytest.approx(sum(float(w.sum()) for w in path.values()), rel=1e-3)
        assert told["omega_sum"] == pytest.approx(sum(float(o.sum()) for o in omega.values()), rel=1e-3)
    assert stages == ["sft", "sft", "preference", "preference"] * 2
    assert not [name for name in at(store, 2, STATE) if name.startswith("path/")]
    penalties = [line["penalty"] for line in lines(store, 2)]
    assert penalties[0] == 0 and all(p > 0 for p in penalties[1:])


def test_si_penalty_is_c_sum_omega_d2(config: Build) -> None:
    session, store, _ = begun(config, "strategy.name=si", "strategy.penalty_weight=0.7")
    assert float(session.strategy.penalty(session.model).detach()) == 0
    moved(session)
    now, omega = snapshot(session.model), at(store, 1, STATE)
    expected = 0.7 * sum(float((omega[f"omega/{n}"] * (now[n] - at(store, 1)[n]) ** 2).double().sum()) for n in now)
    assert float(session.strategy.penalty(session.model).detach()) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_si_path_within_a_task_is_in_the_state(config: Build) -> None:
    """Each entry of w is one step's g dtheta more; a checkpoint holds it, and the end of the task takes it away."""
    session, store = start(config("strategy.name=si", "train.pairs_per_step=2"))
    states: list[Mapping[str, Tensor]] = []
    watched(session, lambda step: states.append(session.strategy.state_dict()))
    learn(session, store, TASKS[0])
    assert len(states) == 3 and all(n.startswith("path/") for s in states for n in s)
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0])


# --- LwF -----------------------------------------------------------------------------------------------------------


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


# --- DER++ ---------------------------------------------------------------------------------------------------------


def test_derpp_golden(golden: dict[str, Any]) -> None:
    g = golden["derpp_mse"]
    found = matching_loss(torch.tensor([g["now"]]), torch.tensor([g["stored"]]))
    assert found.shape == (1,) and float(found) == pytest.approx(g["mse"], abs=1e-6)


DERPP = ("strategy.name=derpp", "strategy.replay_share=0.5")


def test_derpp_draws_twice_as_many_rows_as_the_task_has(config: Build) -> None:
    """Three rows of the first task are kept; each draw of six takes every one twice, in orders of its own."""
    session, store, dataset = begun(config, *DERPP)
    kept = [e.row for e in StoreHistory(store).replay.exemplars]
    assert len(kept) == 3 and dataset.origin == ("stars",) * 6 + ("bread",) * 12
    assert dataset.rows[:6] == TASKS[1].train
    for part in (dataset.rows[6:9], dataset.rows[9:12], dataset.rows[12:15], dataset.rows[15:]):
        assert {row.digest for row in part} == {row.digest for row in kept}
    assert dataset.rows[6:12] != dataset.rows[12:]
    assert session.strategy.training_set(TASKS[1], StoreHistory(store)) == dataset
    exemplars = StoreHistory(store).replay.exemplars
    assert draw(exemplars, 2, 0, "stars", "match") == draw(exemplars, 6, 0, "stars", "match")[:2]
    assert any(
        draw(exemplars, 6, seed, "stars", "match") != draw(exemplars, 6, 0, "stars", "match") for seed in range(1, 5)
    )
    assert draw((), 6, 0, "stars", "match") == []


def test_derpp_stores_log_probs_once_at_the_end_of_a_rows_task(config: Build) -> None:
    session, store = learnt(config, *DERPP, "strategy.replay_capacity=7", tasks=3)
    known: dict[int, list[float]] = {}
    for k in (1, 2, 3):
        session.load(store, store.lineage()[k])
        buffer = store.load_lines(store.lineage()[k], "replay.jsonl")
        state = at(store, k, STATE)
        assert (
            state["index"].tolist() == [line["index"] for line in buffer[1:]] and state["logps"].dtype == torch.float32
        )
        fresh = [line["index"] for line in buffer[1:] if line["index"] not in known]
        assert {line["task"] for line in buffer[1:] if line["index"] in fresh} <= {TASKS[k - 1].name}
        by_digest = {row.digest: row for task in TASKS for row in task.train}
        for line, logps in zip(buffer[1:], state["logps"].tolist(), strict=True):
            row = by_digest[Row.from_json(line).digest]
            (pair,), _ = session.encoder.encode([row])
            if line["index"] in fresh:
                with torch.no_grad():
                    plain = token_logps(session.model, pack_pairs([pair], [0], False)).sums().tolist()
                assert logps == pytest.approx(plain, abs=1e-3)
                known[line["index"]] = logps
            else:
                assert logps == known[line["index"]]  # not what the model says of them by now
        assert fresh
    assert len(at(store, 3, STATE)["index"]) == 7


def test_derpp_loss_of_each_part_by_hand(config: Build) -> None:
    session, store, dataset = begun(config, *DERPP, "strategy.logps_weight=0.3", "strategy.buffer_weight=0.5")
    state = at(store, 1, STATE)
    stored = {
        e.row.digest: logps
        for e, logps in zip(StoreHistory(store).replay.exemplars, state["logps"].tolist(), strict=True)
    }
    moved(session)
    pairs, _ = session.encoder.encode(dataset.rows)
    index = [4, 7, 13]  # of the task, matched, trained on again
    pack = pack_pairs(pairs, index, True)
    sums = token_logps(session.model, pack).pairs()
    reference = PairLogps(sums.chosen.detach() - 3, sums.rejected.detach() - 1)  # r = 0.1 (3 - 1)
    objective = session.strategy.objective(sums, reference, pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B)
    loss = session.strategy.loss(pack.batch, sums, reference, objective).tolist()
    dpo = math.log(1 + math.exp(-0.2))
    matched = pairs[7]
    now = [
        float(sums.chosen[1].detach()) / len(matched.chosen),
        float(sums.rejected[1].detach()) / len(matched.rejected),
    ]
    then = [s / n for s, n in zip(stored[matched.digest], (len(matched.chosen), len(matched.rejected)), strict=True)]
    mse = ((now[0] - then[0]) ** 2 + (now[1] - then[1]) ** 2) / 2
    assert mse > 1e-4
    assert loss == pytest.approx([dpo, 0.3 * mse, 0.5 * dpo], rel=1e-4)
    # SFT: NLL, the chosen answer's square alone, half the NLL.
    chosen = pack_pairs(pairs, index, True, chosen_only=True)
    token_T = token_logps(session.model, chosen).token_T.detach()
    parts = torch.split(token_T, [len(pairs[i].chosen) for i in index])
    found = torch.split(session.strategy.sft_loss(replace(chosen.batch, token_T=token_T)), [len(p) for p in parts])
    torch.testing.assert_close(found[0], -parts[0])
    assert found[1].tolist() == pytest.approx([0.3 * (now[0] - then[0]) ** 2] * len(parts[1]), rel=1e-3)
    torch.testing.assert_close(found[2], -0.5 * parts[2])


def test_derpp_holds_the_log_probs_of_old_rows(config: Build, tmp_path: Any) -> None:
    """Matching alone (b = 0): with a large weight the kept rows' mean log-probs end nearer to the stored ones."""
    ends = []
    for a in (0, 100):
        session, store = learnt(
            config,
            *DERPP,
            f"memory={tmp_path / str(a)}",
            "strategy.buffer_weight=0",
            f"strategy.logps_weight={a}",
            "train.epochs=4",
            "sft.epochs=1",
        )
        session.load(store, store.head)
        old = [e for e in StoreHistory(store).replay.exemplars if e.task == "bread"]
        then = dict(zip(*(at(store, 1, STATE)[k].tolist() for k in ("index", "logps")), strict=True))
        pairs, _ = session.encoder.encode([e.row for e in old])
        lengths = torch.tensor([[len(p.chosen), len(p.rejected)] for p in pairs])
        drift = (session.view.pair_logps([e.row for e in old]) - torch.tensor([then[e.index] for e in old])) / lengths
        ends.append(float((drift**2).mean()))
    assert ends[1] < 0.3 * ends[0]


def test_derpp_first_task_is_sequential(config: Build, tmp_path: Any) -> None:
    settings = ("sft.epochs=1", "train.epochs=2")
    _, ours = learnt(config, *DERPP, *settings, tasks=1)
    _, plain = learnt(config, "strategy.name=sequential", *settings, f"memory={tmp_path / 'plain'}", tasks=1)
    assert_same(at(ours, 1), at(plain, 1))


def test_derpp_rows_that_cannot_be_used_have_no_log_probs_and_are_not_drawn(config: Build) -> None:
    task = replace(make_task("bread", train=3), train=(too_long("bread"), *make_task("bread", train=3).train))
    session, store = start(config("strategy.name=derpp", "strategy.replay_share=1", "data.long_prompts=drop"))
    store = learn(session, store, task)
    logps = at(store, 1, STATE)["logps"]
    assert logps.shape == (4, 2) and int(logps.isnan().all(-1).sum()) == 1
    dataset = session.strategy.training_set(TASKS[1], StoreHistory(store))
    assert len(dataset.rows) == 18 and too_long("bread").digest not in {row.digest for row in dataset.rows}
    session.strategy.retain(replace(TASKS[1], train=(too_long("stars"),)), StoreHistory(store))  # none to compute
    assert int(session.strategy.state_dict()["logps"].isnan().all(-1).sum()) == 2


@pytest.mark.parametrize("name", ["lwf", "derpp"])
def test_focal_weights_are_not_for_losses_with_terms_of_their_own(name: str, config: Build) -> None:
    with pytest.raises(ConfigError, match=r"normalise_weights divides a step's whole gradient"):
        config(f"strategy.name={name}", "strategy.loss=fpo", "strategy.normalise_weights=true")
    with pytest.raises(ConfigError, match=rf"skip_weight_below=0.1 leaves pairs out .*strategy {name}"):
        config(f"strategy.name={name}", "strategy.loss=fpo", "train.skip_weight_below=0.1")
    config("strategy.name=ewc", "strategy.loss=fpo", "train.skip_weight_below=0.1", "strategy.normalise_weights=true")
