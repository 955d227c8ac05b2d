"""What every method must keep to, on a random two-layer model; and one number a method that was computed by hand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lifealign.consolidation.adapter import consolidate
from lifealign.consolidation.subspace import SubspaceBasis
from lifealign.core.config import LoraConfig, RunConfig, StrategyChoice
from lifealign.core.progress import NullProgress
from lifealign.core.tensors import decode_tensors, encode_tensors
from lifealign.data.tasks import Task
from lifealign.memory.history import StoreHistory
from lifealign.memory.session import Session
from lifealign.model.adapters import snapshot, trainable
from lifealign.model.batch import PairLogps
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.layout import ADAPTER, STATE, UPDATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import STRATEGIES, Step, Strategy, make_strategy
from lifealign.training import loop as train
from support.contract import TASKS, assert_same
from support.lives import learn, start

METHODS = sorted(STRATEGIES)
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tensors(store: MemoryStore) -> dict[str, Tensor]:
    """All tensors and replay rows of a memory's commits, by commit."""
    found: dict[str, Tensor] = {}
    for manifest in store.lineage():
        for stem in (ADAPTER, STATE, *([UPDATE] if manifest.members else [])):
            found |= {f"{manifest.directory}/{stem}/{k}": v for k, v in store.load_tensors(manifest, stem).items()}
    return found


def base_sha256(model: nn.Module) -> str:
    """Of the base model's weights: what a method freezes of its own is no part of them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad and "lora_" not in name:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def policy_logps(session: Session) -> Tensor:
    """What the model says of some rows, with whatever the method puts in or before it."""
    session.strategy.select(session.model, TASKS[1].name)
    return session.view.pair_logps(TASKS[1].test)


def test_empty_history_adds_no_penalty_and_leaves_gradients(method: str, config: Build) -> None:
    session, store = start(config(f"strategy.name={method}"))
    strategy, model = session.strategy, session.model
    strategy.begin_task(model, TASKS[0], StoreHistory(store))
    penalty = strategy.penalty(model)
    assert penalty.shape == () and float(penalty) == 0 and not penalty.requires_grad
    parameters = trainable(model)
    for index, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 0.5 + index)
    before = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    strategy.adjust_gradients(Step(model, parameters, session.view.losses_on, 0))
    assert_same({name: p.grad for name, p in parameters.items() if p.grad is not None}, before)


def test_reopened_after_each_task_equals_one_session(method: str, config: Build, tmp_path: Path) -> None:
    """Three tasks with dropout: state, replay rows and adapter are all that the next task needs."""
    settings = (f"strategy.name={method}", "lora.dropout=0.1", "sft.epochs=1")
    once = config(*settings, f"memory={tmp_path / 'once'}")
    session, whole = start(once)
    whole = learn(session, whole, *TASKS)
    parts = config(*settings, f"memory={tmp_path / 'parts'}")
    start(parts)
    for task in TASKS:
        fresh, store = Session(parts, NullProgress()), MemoryStore.open(parts.memory)
        learn(fresh, store, task)
    store = MemoryStore.open(parts.memory)
    assert len(store.lineage()) == 4
    assert_same(tensors(store), tensors(whole))
    for a, b in zip(store.lineage()[1:], whole.lineage()[1:], strict=True):
        assert store.load_lines(a, "replay.jsonl") == whole.load_lines(b, "replay.jsonl")
    if method in ("joint", "replay", "sequential"):
        assert not any(store.load_tensors(m, STATE) for m in store.lineage())


def test_base_weights_are_untouched_and_a_fresh_session_gives_the_live_logps(method: str, config: Build) -> None:
    settings = config(f"strategy.name={method}", "sft.epochs=1")
    session, store = start(settings)
    before, untrained = base_sha256(session.model), policy_logps(session)
    store = learn(session, store, *TASKS[:2])
    assert base_sha256(session.model) == before
    live = policy_logps(session)
    assert float((live - untrained).abs().max()) > 1e-3
    fresh = Session(settings, NullProgress())
    assert torch.equal(policy_logps(fresh), untrained)
    fresh.load(MemoryStore.open(settings.memory), store.head)
    assert torch.equal(policy_logps(fresh), live)


def test_stored_logps_are_those_of_the_weights_in_the_model(method: str, config: Build) -> None:
    """The cache of log-probs tells two policies of one state apart: none is found in the place of another."""
    session, store = start(config(f"strategy.name={method}"))
    learn(session, store, *TASKS[:2])
    session.strategy.select(session.model, TASKS[1].name)
    pairs = session.encoder.encode(TASKS[1].test)[0]
    for _ in range(2):
        found = session.view.logps(pairs, base=False, title="policy")
        assert torch.allclose(found, session.view.pair_logps(TASKS[1].test), atol=1e-5)
        with torch.no_grad():
            for parameter in trainable(session.model).values():
                parameter += 0.1


def test_stopped_in_both_stages_equals_not_stopped(
    method: str, config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second task stops at the last step of each stage; a new session goes on from the checkpoint before it."""

    class StoppedError(Exception):
        pass

    settings = (f"strategy.name={method}", "lora.dropout=0.1", "sft.epochs=1", "sft.learning_rate=5e-3")
    session, whole = start(config(*settings, f"memory={tmp_path / 'whole'}"))
    whole = learn(session, whole, *TASKS[:2])
    lines = whole.load_lines(whole.head, "training.jsonl")
    ends = [max(i for i, line in enumerate(lines, 1) if line["stage"] == stage) for stage in ("sft", "preference")]
    parts = config(*settings, f"memory={tmp_path / 'parts'}")
    session, store = start(parts)
    learn(session, store, TASKS[0])
    real = train._step
    done = 0
    for end in ends:
        left = [end - 1 - done]

        def step(*args: Any, left: list[int] = left) -> Any:
            if not left[0]:
                raise StoppedError
            left[0] -= 1
            return real(*args)

        monkeypatch.setattr(train, "_step", step)
        with pytest.raises(StoppedError):
            learn(Session(parts, NullProgress()), MemoryStore.open(parts.memory), TASKS[1])
        done = end - 1  # the checkpoint's steps are not done again
    monkeypatch.setattr(train, "_step", real)
    store = learn(Session(parts, NullProgress()), MemoryStore.open(parts.memory), TASKS[1])
    assert_same(tensors(store), tensors(whole))
    told = [s.load_document(s.head, "diagnostics.json") for s in (store, whole)]
    assert told[0] == told[1]


def test_a_method_that_sums_updates_goes_on_from_one_plain_adapter(method: str, config: Build) -> None:
    """What `sums_updates` promises; a method that adds, selects or restarts must say False."""
    cls = STRATEGIES[method]
    if not cls.sums_updates:
        pytest.skip("keeps its tasks in another way")
    for hook in ("schedule", "attach", "prefix", "mount", "select", "to_peft"):
        assert getattr(cls, hook) is getattr(Strategy, hook), hook
    session, store = start(config(f"strategy.name={method}"))
    store = learn(session, store, TASKS[0])
    session.load(store, store.head)
    session.strategy.begin_task(session.model, TASKS[1], StoreHistory(store))
    assert_same(snapshot(session.model), store.load_tensors(store.head, ADAPTER))


def test_loss_is_one_finite_value_a_pair_with_gradient(method: str, config: Build) -> None:
    """On the second task, so that there is a past to look at."""
    session, store = start(config(f"strategy.name={method}"))
    store = learn(session, store, TASKS[0])
    strategy, model = session.strategy, session.model
    session.load(store, store.head)
    strategy.begin_task(model, TASKS[1], StoreHistory(store))
    dataset = strategy.training_set(TASKS[1], StoreHistory(store))
    pairs, _ = session.encoder.encode(dataset.rows)
    pack = pack_pairs(session.view.prefixed(pairs[:3]), range(3), True)
    tokens = token_logps(model, pack)
    policy = tokens.pairs()
    reference = PairLogps(policy.chosen.detach() - 1, policy.rejected.detach() + 2)
    objective = strategy.objective(policy, reference, pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B)
    loss_B = strategy.loss(replace(pack.batch, token_T=tokens.token_T), policy, reference, objective)
    assert loss_B.shape == (3,) and loss_B.dtype == torch.float32 and bool(loss_B.isfinite().all())
    loss_B.mean().backward()
    gradients = [p.grad for p in trainable(model).values()]
    assert any(g is not None and float(g.abs().max()) > 0 for g in gradients)
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


def test_state_is_named_tensors_that_survive_a_file(method: str, config: Build) -> None:
    session, store = start(config(f"strategy.name={method}"))
    learn(session, store, *TASKS[:2])
    state = session.strategy.state_dict()
    assert all(type(k) is str and isinstance(v, Tensor) and not v.requires_grad for k, v in state.items())
    read = decode_tensors(Path("state.safetensors"), encode_tensors(state))
    assert_same(read, state)
    other = make_strategy(session.config.strategy, session.config.lora, 0)
    other.load_state_dict(read)
    assert_same(other.state_dict(), state)


def test_hooks_of_a_method_are_known_and_a_misspelt_one_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"Mine has public methods that are not hooks: \['end_taks'\]; .* one of the hooks"
    ):

        class Mine(Strategy):
            def end_taks(self, model: nn.Module) -> None: ...

    class Fine(STRATEGIES["lifealign"]):  # type: ignore[name-defined,misc]
        def penalty(self, model: nn.Module) -> Tensor:
            return self._mine(model)

        def _mine(self, model: nn.Module) -> Tensor:
            return torch.zeros(())

    assert {n for n, v in vars(Strategy).items() if callable(v) and n[0] != "_" and n != "Config"} == Strategy.HOOKS
    for cls in STRATEGIES.values():
        assert not set(vars(cls)) & {"__init__"}


def test_looking_at_other_rows_changes_nothing(config: Build, tmp_path: Path) -> None:
    """`Step.loss_on` switches the adapter off and dropout with it, for the reference: both must be on again after it."""
    results = []
    for look in (False, True):
        session, store = start(config(f"memory={tmp_path / str(look)}", "lora.dropout=0.3", "strategy.name=sequential"))
        losses: list[float] = []

        def adjust(step: Step, losses: list[float] = losses) -> None:
            before = {name: p.grad.clone() for name, p in step.parameters.items() if p.grad is not None}
            loss = torch.stack(list(step.losses_on(TASKS[1].train[:2]))).sum()
            assert loss.requires_grad and loss.shape == ()
            losses.append(float(loss.detach()))
            assert_same({name: p.grad for name, p in step.parameters.items() if p.grad is not None}, before)

        if look:
            session.strategy.adjust_gradients = adjust  # type: ignore[method-assign]
        store = learn(session, store, TASKS[0])
        results.append(store.load_tensors(store.head, ADAPTER))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6) and losses[1] != losses[0]
    assert_same(*results)


# --- one number a method -------------------------------------------------------------------------------------------


def two_tasks(config: Build, *settings: str) -> tuple[Session, MemoryStore, list[dict[str, Tensor]]]:
    """A memory of two tasks with what training alone made of the adapter, before `end_task`."""
    session, store = start(config(*settings))
    trained: list[dict[str, Tensor]] = []
    real = session.strategy.end_task

    def spy(model: nn.Module, task: Task, history: Any) -> Mapping[str, Any]:
        trained.append(snapshot(model))
        return real(model, task, history)

    session.strategy.end_task = spy  # type: ignore[method-assign]
    store = learn(session, store, *TASKS[:2])
    return session, store, trained


def adapters(store: MemoryStore) -> list[dict[str, Tensor]]:
    return [store.load_tensors(m, ADAPTER) for m in store.lineage()]


def test_lifealign_long_term_memory_is_start_plus_refined_update(config: Build) -> None:
    """One matrix by hand through both tasks: LM_t = LM_{t-1} + RSM_t, SM_t = trained - LM_{t-1}."""
    theta, lam = 0.3, 0.25
    _, store, trained = two_tasks(config, f"strategy.theta={theta}", f"strategy.overlap_scale={lam}")
    states = adapters(store)
    name = sorted(n for n in states[0] if n.endswith("lora_B"))[0]
    basis = SubspaceBasis(states[0][name].numel())
    for k in (0, 1):
        sm = trained[k][name].double() - states[k][name].double()
        refined = consolidate(sm, basis, theta, lam).refined
        torch.testing.assert_close(states[k + 1][name], (states[k][name].double() + refined).float(), atol=1e-7, rtol=0)
        assert float((trained[k][name] - states[k + 1][name]).abs().max()) > 1e-5  # it is not what training left
        torch.testing.assert_close(
            store.load_tensors(store.lineage()[k + 1], UPDATE)[name], refined.float(), atol=1e-7, rtol=0
        )
    # The second SM' by hand: truncated SVD, minus three quarters of its part along the first refined update.
    sm = trained[1][name].double() - states[1][name].double()
    u, s, v = torch.linalg.svd(sm, full_matrices=False)
    rank = next(k for k in (1, 2) if float((s[:k] ** 2).sum()) >= theta * float((s**2).sum()))
    denoised = (u[:, :rank] * s[:rank]) @ v[:rank]
    past = (states[1][name] - states[0][name]).double()
    inside = float((denoised * past).sum()) / float((past * past).sum()) * past
    torch.testing.assert_close(
        states[2][name], (states[1][name] + denoised - (1 - lam) * inside).float(), atol=1e-6, rtol=0
    )


def test_lifealign_trains_on_the_focal_loss_by_default(config: Build) -> None:
    """At the first step policy == reference: ln 2 * 0.5^2."""
    _, store, _ = two_tasks(config)
    line = store.load_lines(store.lineage()[1], "training.jsonl")[0]
    assert line["loss"] == pytest.approx(math.log(2) / 4, abs=1e-6) and line["focal_weight"] == 0.25


def test_replay_trains_on_a_share_of_the_past(config: Build) -> None:
    """6 rows a task, share 0.5: 3 rows stay of the first task, and 3 + 3 of both."""
    _, store, trained = two_tasks(config, "strategy.name=replay", "strategy.replay_share=0.5")
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 9]
    assert [store.load_document(m, "data.json")["from_replay"] for m in store.lineage()[1:]] == [0, 3]
    kept = store.load_lines(store.head, "replay.jsonl")
    assert kept[0] == {"seen": 6} and [line["task"] for line in kept[1:]] == ["bread"] * 3 + ["stars"] * 3
    assert_same(adapters(store)[2], trained[1])  # nothing is done to the weights


def test_sequential_learns_each_task_alone_from_where_the_last_ended(config: Build) -> None:
    _, store, trained = two_tasks(config, "strategy.name=sequential", "train.pairs_per_step=6")
    lines = [store.load_lines(m, "training.jsonl") for m in store.lineage()[1:]]
    assert [line["loss"] for line in lines[0]] == [pytest.approx(math.log(2), abs=1e-6)]
    # The second task starts from the first task's weights: -log sigmoid of a margin that is not 0 any more.
    assert abs(lines[1][0]["loss"] - math.log(2)) > 1e-3
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 6]
    assert store.load_lines(store.head, "replay.jsonl") == [{"seen": 0}]
    assert_same(adapters(store)[2], trained[1])
    # Adam's first step is the learning rate in every entry whose gradient is not tiny: B starts at zero.
    b = torch.cat([v.flatten() for k, v in adapters(store)[1].items() if k.endswith("lora_B")])
    assert float(b.abs().max()) == pytest.approx(5e-3, rel=1e-3)


def test_joint_learns_all_tasks_in_one_group_from_the_initial_adapter(config: Build) -> None:
    session, store, _ = two_tasks(config, "strategy.name=joint", "train.pairs_per_step=12")
    assert session.strategy.schedule(TASKS) == [tuple(TASKS)]
    assert [store.load_document(m, "data.json")["rows"] for m in store.lineage()[1:]] == [6, 12]
    losses = [store.load_lines(m, "training.jsonl")[0]["loss"] for m in store.lineage()[1:]]
    assert losses == [pytest.approx(math.log(2), abs=1e-6)] * 2  # the second run starts anew: margin 0 on all rows
    assert len(store.load_lines(store.head, "replay.jsonl")) == 1 + 12


@pytest.mark.parametrize("name", [m for m in METHODS if m != "joint"])
def test_other_methods_learn_one_task_after_another(name: str) -> None:
    assert make_strategy(StrategyChoice(name=name), LoraConfig(), 0).schedule(TASKS) == [(t,) for t in TASKS]


def test_stock_peft_reads_the_export(method: str, config: Build, tmp_path: Path, tiny_dir: Path) -> None:
    """The same logits to 1e-5; methods that put virtual tokens before a prompt have tests of their own."""
    if STRATEGIES[method].prefix is not Strategy.prefix:
        pytest.skip("its prompts stand before the input, not in the weights")
    session, store = start(config(f"strategy.name={method}"))
    learn(session, store, *TASKS[:2])
    session.strategy.select(session.model, None)
    ids = torch.arange(2, 42)[None]
    with torch.no_grad():
        live = session.model(input_ids=ids).logits
    session.export(tmp_path / "adapter", merged=False)
    base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    with torch.no_grad():
        bare = base(input_ids=ids).logits
        read = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=ids).logits
    torch.testing.assert_close(read, live, atol=1e-5, rtol=0)
    assert float((bare - live).abs().max()) > 1e-3
