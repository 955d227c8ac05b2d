"""What strategies may compute with the model, each against a computation that goes another way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError, DataError
from lifealign.core.progress import NullProgress
from lifealign.data.tasks import Message, Row
from lifealign.memory import learning as pipeline
from lifealign.memory.history import StoreHistory
from lifealign.memory.learning import create_memory, learn_group
from lifealign.memory.scoring import score_row
from lifealign.memory.session import Session, locked
from lifealign.model.adapters import holding, snapshot, trainable
from lifealign.training.strategy import Step
from support.rows import make_task

TASK = make_task("bread", train=5, test=2)
LONG = Row((Message("user", "a very long question " * 30),), "yes it is", "no it is not", "long.jsonl:1")
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["auto", "never"], ids=["packed", "plain"])
def session(request: pytest.FixtureRequest, config: Build) -> Session:
    """With an adapter that is not zero."""
    made = Session(config(f"train.shared_prefix={request.param}", "data.long_prompts=drop"), NullProgress())
    with torch.no_grad():
        for i, parameter in enumerate(trainable(made.model).values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return made


def logps_of(session: Session, ids: list[int], first: int) -> Tensor:
    """log softmax of every token from `first` on, by a plain forward: [T, V] and the tokens."""
    logits = session.model(input_ids=torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits, -1)[first - 1 : len(ids) - 1]


def chosen_logps(session: Session, row: Row) -> tuple[Tensor, list[int]]:
    pair = session.encoder.encode([row])[0][0]
    return logps_of(session, [*pair.prompt, *pair.chosen], len(pair.prompt)), list(pair.chosen)


def test_rows_that_cannot_be_encoded_are_nan_and_the_others_stay_in_their_places(session: Session) -> None:
    rows = [TASK.train[0], LONG, TASK.train[1]]
    alone = [session.view.pair_logps([row])[0] for row in (rows[0], rows[2])]
    together = session.view.pair_logps(rows)
    assert bool(together[1].isnan().all())
    assert torch.allclose(together[[0, 2]], torch.stack(alone), atol=1e-4)
    tokens = session.view.token_logps(rows)
    assert bool(tokens[1].isnan().all())
    assert torch.allclose(torch.stack([tokens[0].sum(), tokens[2].sum()]), together[[0, 2]].sum(1), atol=1e-4)
    log_probs, ids = chosen_logps(session, rows[2])
    assert torch.allclose(tokens[2][: len(ids)], log_probs[range(len(ids)), ids], atol=1e-4)


def test_divergence_is_the_sum_over_the_vocabulary_and_pulls_back(session: Session) -> None:
    before = snapshot(session.model)
    teacher = {name: value + 0.05 for name, value in before.items()}
    rows = TASK.train[:3]
    found = session.view.divergence(rows, teacher)
    expected = []
    for row in rows:
        student, _ = chosen_logps(session, row)
        with torch.no_grad(), holding(session.model, teacher):
            other, _ = chosen_logps(session, row)
        expected.append((other.exp() * (other - student)).sum(-1).mean())
    assert torch.allclose(found, torch.stack(expected), atol=1e-4) and float(found.detach().min()) > 1e-3
    parameters = list(trainable(session.model).values())
    ours = torch.autograd.grad(found.sum(), parameters)
    theirs = torch.autograd.grad(torch.stack(expected).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert float(session.view.divergence(rows, before).detach().abs().max()) < 1e-5
    assert all(torch.equal(before[k], v) for k, v in snapshot(session.model).items())


def test_weights_may_be_exchanged_between_forward_and_backward(session: Session) -> None:
    parameters = list(trainable(session.model).values())
    expected = torch.autograd.grad(session.view.loss_on(TASK.train), parameters)
    loss = session.view.loss_on(TASK.train)
    session.view.pair_logps(TASK.test, {k: torch.zeros_like(v) for k, v in snapshot(session.model).items()})
    for a, b in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert torch.equal(a, b)


def test_features_are_the_mean_of_the_base_models_last_hidden_states(session: Session) -> None:
    prompts = [session.encoder.prompt_ids(row.prompt) for row in TASK.train[:2]]
    prompts[1] = prompts[1][:7]
    found = session.view.features(prompts)
    from lifealign.model.adapters import adapter_off

    with torch.no_grad(), adapter_off(session.model):
        for ids, vector in zip(prompts, found, strict=True):
            hidden = session.base.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            assert torch.allclose(vector, hidden.mean(0), atol=1e-5)


def test_input_moments_are_those_of_the_plain_forward(session: Session) -> None:
    """One row: every token of prompt + chosen once, and those of the rejected answer (with the prompt again if plain)."""
    row = TASK.train[0]
    pair = session.encoder.encode([row])[0][0]
    inputs: list[Tensor] = []
    target = next(m for n, m in session.model.named_modules() if n.endswith("layers.1.self_attn.q_proj"))
    handle = target.register_forward_pre_hook(lambda m, x: inputs.append(x[0][0].double()))
    with torch.no_grad():
        for answer in (pair.chosen, pair.rejected):
            session.model(input_ids=torch.tensor([[*pair.prompt, *answer[:-1]]]))
    handle.remove()
    if session.view.shared_prefix([pair]):
        inputs[1] = inputs[1][len(pair.prompt) :]
    every = torch.cat(inputs)
    moment = session.view.input_moments([row])["model.layers.1.self_attn.q_proj"]
    assert torch.allclose(moment, every.T @ every / len(every), atol=1e-5)


@pytest.mark.parametrize("stage", ["sft", "preference"])
@pytest.mark.parametrize("shared_prefix", ["auto", "never"])
def test_gradients_on_rows_are_those_of_their_mean_loss(stage: str, shared_prefix: str, config: Build) -> None:
    """In packs of the budget, whatever the rows' lengths, without the adapter's dropout: as in one pack by itself."""
    rows = [*TASK.train, replace(TASK.train[0], chosen="a long answer " * 6)]
    found = {}
    for budget in (40, 100_000):
        session = Session(
            config(f"train.shared_prefix={shared_prefix}", f"train.tokens_per_pack={budget}", "lora.dropout=0.3"),
            NullProgress(),
        )
        parameters = trainable(session.model)
        with torch.no_grad():
            for i, parameter in enumerate(parameters.values()):
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        losses_on = {"sft": session.view.sft_losses_on, "preference": session.view.losses_on}[stage]
        parts = len(list(losses_on(rows)))
        assert parts > 2 if budget == 40 else parts == 1
        session.model.train(budget == 40)
        found[budget] = Step(session.model, parameters, losses_on, 0, stage).gradients_on(rows)
        assert all(p.grad is None for p in parameters.values())
    for a, b in zip(found[40].values(), found[100_000].values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6) and float(b.abs().max()) > 0


def test_losses_on_rows_are_the_objective_and_the_mean_over_tokens(session: Session) -> None:
    rows = TASK.train[:2]
    every = [chosen_logps(session, row) for row in rows]
    picked = torch.cat([log_probs[range(len(ids)), ids] for log_probs, ids in every])
    sft = torch.stack(list(session.view.sft_losses_on(rows))).sum()
    assert float(sft.detach()) == pytest.approx(-float(picked.detach().mean()), abs=1e-5)
    pairs = session.encoder.encode(rows)[0]
    log_ratio_N2 = session.view.pair_logps(rows) - session.view.logps(pairs, base=True, title="reference")
    margin_N = 0.1 * (log_ratio_N2[:, 0] - log_ratio_N2[:, 1])
    loss_N = torch.sigmoid(-margin_N) ** 2 * -torch.nn.functional.logsigmoid(margin_N)
    assert float(session.view.loss_on(rows).detach()) == pytest.approx(float(loss_N.mean()), abs=1e-5)


def test_tokens_beyond_the_shorter_answer_count_by_their_weight(session: Session) -> None:
    """Also through the cache, which knows the same pairs without a weight."""
    pairs = session.encoder.encode(TASK.train[:3])[0]
    both = [min(len(p.chosen), len(p.rejected)) for p in pairs]
    assert any(len(p.chosen) != len(p.rejected) for p in pairs)
    cut = [replace(p, chosen=p.chosen[:n], rejected=p.rejected[:n]) for p, n in zip(pairs, both, strict=True)]
    for base in (True, False):
        whole, common = (session.view.logps(p, base=base, title="whole") for p in (pairs, cut))
        for weight in (0.0, 0.25):
            found = session.view.logps(pairs, base=base, title="weighted", beyond=weight)
            torch.testing.assert_close(found, weight * whole + (1 - weight) * common, rtol=1e-5, atol=1e-4)
        assert torch.equal(session.view.logps(pairs, base=base, title="again"), whole)


def test_ld_dpo_without_excess_tokens_is_dpo_of_answers_cut_to_the_shorter_one(config: Build) -> None:
    session = Session(config("strategy.name=sequential", "strategy.ld_alpha=0"), NullProgress())
    with torch.no_grad():
        for i, parameter in enumerate(trainable(session.model).values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    rows = TASK.train[:3]
    pairs = session.encoder.encode(rows)[0]
    both = [min(len(p.chosen), len(p.rejected)) for p in pairs]
    cut = [replace(p, chosen=p.chosen[:n], rejected=p.rejected[:n]) for p, n in zip(pairs, both, strict=True)]
    policy, reference = (session.view.logps(cut, base=base, title="cut") for base in (False, True))
    h_N2 = policy - reference
    expected = -torch.nn.functional.logsigmoid(0.1 * (h_N2[:, 0] - h_N2[:, 1])).mean()
    assert float(session.view.loss_on(rows).detach()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("strategy", ["lifealign", "derpp", "lwf"])
def test_a_row_is_tokenised_once_in_a_session(strategy: str, config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, scores, the replay and what strategies measure share the ids; a signature reads its prompts again.

    Those of training rows, and of validation rows to calibrate on.
    """
    session = Session(config(f"strategy.name={strategy}", "sft.epochs=1"), NullProgress())
    store = create_memory(session.config, session)
    tokenizer = type(session.encoder.tokenizer)
    read: Counter[str] = Counter()
    original = tokenizer.__call__

    def counted(self: Any, text: str, **options: Any) -> Any:
        read[text] += 1
        return original(self, text, **options)

    monkeypatch.setattr(tokenizer, "__call__", counted)
    tasks = [TASK, make_task("stars", train=5, test=2)]
    with locked(session, store):
        for task in tasks:
            store = learn_group(session, store, [task], session.config)[1]
            score_row(session, store, store.head, tasks, session.config)
    rows = [row for task in tasks for row in (*task.train, *task.validation, *task.test)]
    encoder = session.encoder
    prompts = [encoder._prompt_text(r.prompt) for r in rows]
    turns = [
        encoder._turns(r.prompt, text, (r.chosen, r.rejected), False) for r, text in zip(rows, prompts, strict=True)
    ]
    answers = [turn.text for both in turns for turn in both]
    assert len(set(answers)) == len(answers) == 2 * len(rows)
    assert {text: read[text] for text in answers} == dict.fromkeys(answers, 1)
    assert {read[text] for text in prompts} == {1, 2}
    # Two more: once in a session, the template is asked whether an answer changes how a prompt's end is read.
    assert sum(read.values()) == 3 * len(rows) + sum(len(task.train) + len(task.validation) for task in tasks) + 2


def test_a_held_out_prompt_that_is_too_long_is_refused_before_training(
    config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(config("strategy.name=sequential"), NullProgress())
    store = create_memory(session.config, session)
    monkeypatch.setattr(pipeline, "train_stage", lambda *_: pytest.fail("trained"))
    for split in ("validation", "test"):
        with locked(session, store), pytest.raises(DataError, match=r"long\.jsonl:1"):
            learn_group(session, store, [replace(TASK, **{split: (LONG,)})], session.config)
    assert len(store.lineage()) == 1


def test_a_quota_that_leaves_no_row_is_refused_before_training(config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(
        config("strategy.name=replay", "strategy.replay_policy=per_task_quota", "strategy.replay_capacity=1"),
        NullProgress(),
    )
    store = create_memory(session.config, session)
    with locked(session, store):
        store = learn_group(session, store, [TASK], session.config)[1]
    monkeypatch.setattr(pipeline, "train_stage", lambda *_: pytest.fail("trained"))
    with (
        locked(session, store),
        pytest.raises(ConfigError, match="replay_capacity 1 is less than one row for each of 2"),
    ):
        learn_group(session, store, [make_task("stars", train=5, test=2)], session.config)


@pytest.mark.parametrize("target", ["embed_tokens", "model.embed_tokens"])
def test_an_embedding_gets_no_adapter(target: str, config: Build) -> None:
    with pytest.raises(ConfigError, match="embed_tokens"):
        Session(config(f"lora.target_modules=[{target}]"), NullProgress())


def test_hooks_see_stage_tokens_and_updates(config: Build) -> None:
    """In both stages: gradients before the step, the update after it; per-token log-probs add up to the pairs'."""
    session = Session(config("sft.epochs=1", "strategy.name=sequential"), NullProgress())
    store = create_memory(session.config, session)
    seen: list[tuple[str, str, int]] = []

    def adjust_gradients(step: Step) -> None:
        assert not step.before
        seen.append(("gradients", step.stage, step.index))

    def adjust_update(step: Step) -> None:
        moved = max(float((p - step.before[n]).detach().abs().max()) for n, p in step.parameters.items())
        assert moved > 5e-5 and all(p.grad is not None for p in step.parameters.values())
        seen.append(("update", step.stage, step.index))

    original = session.strategy.loss

    def loss(batch: Any, policy: Any, reference: Any, objective: Any) -> Tensor:
        sums = torch.stack([part.sum() for part in batch.tokens()])
        assert torch.allclose(sums, policy.chosen + policy.rejected, atol=1e-4) and sums.requires_grad
        assert set(batch.index_B.tolist()) <= set(range(5))
        return original(batch, policy, reference, objective)

    for name, hook in (("adjust_gradients", adjust_gradients), ("adjust_update", adjust_update), ("loss", loss)):
        setattr(session.strategy, name, hook)
    with locked(session, store):
        learn_group(session, store, [TASK], session.config)
    assert seen == [(what, s, i) for s in ("sft", "preference") for i in (0, 1) for what in ("gradients", "update")]
    assert StoreHistory(store).tasks == ["bread"]


def test_a_policy_that_equals_its_reference_has_margin_zero_in_bfloat16(config: Build) -> None:
    """Reference and policy are computed in different orders of rows, and must round alike all the same."""
    session = Session(
        config("model.dtype=bfloat16", "strategy.name=sequential", "train.pairs_per_step=3"), NullProgress()
    )
    store = create_memory(session.config, session)
    with locked(session, store):
        head, store = learn_group(session, store, [TASK], session.config)
    first = store.load_lines(head, "training.jsonl")[0]
    assert head.meta["shared_prefix"] and first["margin"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
