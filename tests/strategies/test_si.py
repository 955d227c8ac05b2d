"""SI: importance along the path, by hand and in a run on a tiny model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lifealign.model.adapters import restore, snapshot
from lifealign.store.layout import STATE
from lifealign.strategies import Step
from lifealign.strategies.si import importance
from support.lives import TASKS, learn, start
from support.regularisation import Build, at, begun, lines, moved, watched

pytestmark = pytest.mark.usefixtures("one_thread")


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
