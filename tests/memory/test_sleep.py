"""Sleep: one adapter that is taught what the updates of all tasks know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.evaluation.gates import Gate
from lifealign.memory import sleep as sleeping
from lifealign.memory.api import Memory
from lifealign.memory.composer import Composer
from lifealign.memory.routing import Routes
from lifealign.model.adapters import holding
from lifealign.store.layout import ADAPTER, DIAGNOSTICS, SLEEP, TRAINING, UPDATE
from lifealign.training.losses import ObjectiveConfig
from support.rows import make_task

TASKS = [make_task(name, train=8, test=4, validation=17) for name in ("bread", "stars", "music")]
PROMPTS = ["bread question 40?", "stars question 41?", "zzz 777 %%% qqq xyz 000 ### vvv www 555"]
FRESH = ("strategy.begin=initial", "strategy.rehearse=false", "strategy.replay_share=0.5", "strategy.sleep_epochs=2")
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(config: Build, path: Path, *settings: str, tasks: int = 3) -> Memory:
    memory = Memory.create(
        path, config("train.learning_rate=0.03", "evaluate.before=false", "train.epochs=2", *settings)
    )
    for task in TASKS[:tasks]:
        memory.learn(task)
    return memory


def test_the_loss_by_hand() -> None:
    """beta 0.1, teacher 20 nats: target sigmoid(2) = 0.8808; student 10 nats: -0.8808 ln s(1) - 0.1192 ln s(-1) = 0.4325.

    The chosen answer has log-prob -6 over 3 tokens: 2 nats a token, with weight 1.
    """
    from lifealign.core.lora_config import LoraConfig
    from lifealign.model.batch import PairLogps, PreferenceBatch

    student = sleeping.Student(ObjectiveConfig(rpo_alpha=1.0), LoraConfig(), 0)
    student.teacher_N = torch.tensor([torch.nan, 20.0])
    batch = PreferenceBatch(torch.tensor([1, 0]), torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0]))
    policy = PairLogps(torch.tensor([-6.0, -6.0]), torch.tensor([-14.0, 0.0]))
    reference = PairLogps(torch.tensor([-8.0, -8.0]), torch.tensor([-6.0, 0.0]))
    plain = student.objective(policy, reference, batch.chosen_lengths_B, batch.rejected_lengths_B)
    found = student.loss(batch, policy, reference, plain)
    assert found[0] == pytest.approx(0.4325 + 2.0, abs=1e-4) and found[1] == plain.loss[1]


def test_a_task_begins_at_the_initial_adapter_and_its_update_is_added(config: Build, tmp_path: Path) -> None:
    """So the second task's update is the same whatever the first was, and the memory is the sum of both."""
    keeps = ("strategy.begin=initial", "strategy.replay_share=0", "strategy.theta=1", "strategy.projection=none")
    both = learn(config, tmp_path / "both", *keeps, tasks=2)._store
    alone = Memory.create(
        tmp_path / "alone",
        config("train.learning_rate=0.03", "evaluate.before=false", "train.epochs=2", *keeps),
    )
    alone.learn(TASKS[1])
    root, first, second = (both.load_tensors(m, ADAPTER) for m in both.lineage())
    own = alone._store.load_tensors(alone._store.head, ADAPTER)
    for name, tensor in second.items():
        torch.testing.assert_close(tensor, first[name] + (own[name] - root[name]), atol=1e-5, rtol=1e-4)
    stored = both.load_tensors(both.head, UPDATE)
    assert all(torch.allclose(stored[n], second[n] - first[n], atol=1e-7) for n in stored)


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model learns too little to say which adapter is better."""
    monkeypatch.setattr(sleeping, "_compare", lambda *_: {"slept": 0.75, "summed": 0.5})


@pytest.mark.usefixtures("worth_it")
def test_sleep_is_committed_and_answers_what_is_not_routed(config: Build, tmp_path: Path) -> None:
    memory = learn(config, tmp_path / "memory", *FRESH, "strategy.sleep_learning_rate=0.05", "strategy.route=true")
    store = memory._store
    found = store.load_document(store.head, DIAGNOSTICS)["sleep"]
    assert found == {"rows": 8 + 8, "kept_rows": 8, "slept": 0.75, "summed": 0.5, "used": True}
    assert {line["stage"] for line in store.load_lines(store.head, TRAINING)} == {"preference", "sleep"}
    assert memory.verify() == []
    names = {m.name: f"{SLEEP}.safetensors" in m.files for m in store.lineage()}
    assert names == {"initial": False, "bread": False, "stars": True, "music": True}, "one task needs no sleep"
    session = memory._session(memory.config, None)
    slept = store.load_tensors(store.head, SLEEP)
    head = store.load_tensors(store.head, ADAPTER)
    assert any(not torch.equal(slept[n], head[n]) for n in head)
    session.load_sum(store, store.head)
    summed = session.generate(PROMPTS, max_new_tokens=8)
    session.load_one(store, store.head)
    one = session.generate(PROMPTS, max_new_tokens=8)
    assert one != summed
    routed = memory.generate(PROMPTS, max_new_tokens=8)
    assert routed[2] == one[2], "a prompt of no task is answered by the slept adapter"
    routes = Routes(store, store.head)
    assert all(torch.equal(routes.adapter(())[n], slept[n]) for n in slept)
    assert memory.generate(PROMPTS, route=False, max_new_tokens=8) == one
    assert memory.generate(PROMPTS, weights={"bread": 1.0}, max_new_tokens=8) == summed


@pytest.mark.usefixtures("worth_it")
def test_the_export_is_the_slept_adapter(config: Build, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    memory = learn(
        config, tmp_path / "memory", *FRESH, "strategy.sleep_learning_rate=0.05", "strategy.route=true", tasks=2
    )
    slept = memory._store.load_tensors(memory._store.head, SLEEP)
    routed = memory.scores("margin")
    one = memory.evaluate(one_adapter=True)
    assert {name: cell["margin"]["value"] for name, cell in one.tasks.items()} == pytest.approx(_margins(memory, slept))
    assert memory.scores("margin") == routed, "scores of routed prompts stay as they were"
    gate, beside = (Gate.parse(f"min.margin>={value}", memory.tasks()) for value in (-1e9, 1e9))
    assert [r.held for r in memory.check([gate, beside], one_adapter=True)] == [True, False]
    own = memory.check([gate])[0].value, memory.check([gate], one_adapter=True)[0].value
    assert own[0] != own[1]
    memory.export(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {one.tasks['stars']['margin']['value']:.3f} |" in card and "was not measured" not in card
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    total = sum(float(t.double().sum()) for t in written.values())
    assert total == pytest.approx(sum(float(t.double().sum()) for t in slept.values()), rel=1e-5)
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert any("this export is the adapter of its sleep" in note for note in report["notes"])


def _margins(memory: Memory, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean margin of each task's test rows under weights, by hand: beta 0.1 times the log-ratio beyond the base's."""
    session = memory._session(memory.config, None)
    found = {}
    for task in TASKS[: len(memory.tasks())]:
        pairs = session.encoder.encode(task.test)[0]
        base = session.view.logps(pairs, base=True, title="")
        with holding(session.model, weights):
            gaps = session.view.logps(pairs, base=False, title="") - base
        found[task.name] = 0.1 * float((gaps[:, 0] - gaps[:, 1]).double().mean())
    return found


def test_teachers_are_single_updates_and_retired_tasks_do_not_teach(
    config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    own = sleeping._Teachers.of

    def of(self: sleeping._Teachers, name: str) -> object:
        found = own(self, name)
        asked.append(name)
        if name == "bread" and name not in self._new:
            wanted = Composer(self._composer.store, self._composer.until)
            only = {n: float(n == "bread") for n in wanted.names}
            assert all(torch.equal(found[k], t) for k, t in wanted(only).adapter.items())
        return found

    monkeypatch.setattr(sleeping._Teachers, "of", of)
    memory = learn(config, tmp_path / "memory", *FRESH, tasks=2)
    assert asked == ["stars", "bread"]
    assert "no later update was trained on it" in memory.withdraw("stars").told[-1]
    assert f"{SLEEP}.safetensors" not in memory._store.head.files  # the next task's sleep makes one without it
    memory.learn(TASKS[2])
    assert asked[2:] == ["music", "bread"]


def test_a_worse_slept_adapter_is_not_kept(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "_compare", lambda *_: {"slept": 0.5, "summed": 0.75})
    memory = learn(config, tmp_path / "memory", *FRESH, tasks=2)
    assert f"{SLEEP}.safetensors" not in memory._store.head.files
    assert json.dumps(memory.show("stars"))
    assert memory._store.load_document(memory._store.head, DIAGNOSTICS)["sleep"]["used"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("strategy.begin=initial", "strategy.space=delta_w"),
            r"begin=initial needs updates that add up in the factors",
        ),
        (
            ("strategy.sleep_epochs=1", "strategy.consolidate=stage", "sft.epochs=1"),
            r"sleep_epochs=1 needs updates that .* but strategy.consolidate=stage",
        ),
        (("strategy.sleep_learning_rate=0.1",), r"sleep_learning_rate=0.1 has no effect without strategy.sleep_epochs"),
        (("strategy.rehearse=false",), r"rehearse=false keeps rows for the sleep alone, but strategy.sleep_epochs=0"),
    ],
)
def test_options_that_make_no_sense(settings: tuple[str, ...], message: str, config: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Memory.create(tmp_path / "memory", config(*settings))


def test_a_sleep_that_was_stopped_goes_on_and_ends_with_the_same_adapter(
    config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*FRESH, "strategy.sleep_learning_rate=0.05", "train.checkpoint_every=1", "train.pairs_per_step=4")
    monkeypatch.setattr(sleeping, "_compare", lambda *_: {"slept": 0.75, "summed": 0.5})
    calls: list[object] = []
    stop_at = 0
    own = sleeping.Student.loss

    def counted(self: sleeping.Student, *args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return own(self, *args)

    monkeypatch.setattr(sleeping.Student, "loss", counted)
    uninterrupted = learn(config, tmp_path / "whole", *settings, tasks=1)
    calls.clear()
    uninterrupted.learn(TASKS[1])
    every, whole = len(calls), uninterrupted._store
    memory = learn(config, tmp_path / "stopped", *settings, tasks=1)
    calls.clear()
    stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        memory.learn(TASKS[1])
    calls.clear()
    stop_at = 0
    again = Memory.open(memory.path)
    again.learn(TASKS[1])
    store = again._store
    assert 0 < len(calls) < every, "it began anew"
    slept = [s.load_tensors(s.head, SLEEP) for s in (whole, store)]
    assert all(torch.equal(tensor, slept[1][name]) for name, tensor in slept[0].items())
    logs = [[line["loss"] for line in s.load_lines(s.head, TRAINING)] for s in (whole, store)]
    assert logs[0] == logs[1]
