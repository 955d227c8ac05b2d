"""Rows of one answer: encoded, packed, their losses and the reference point of a step, whatever the packing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from lifealign.core.config import LoraConfig, StrategyChoice, TrainConfig
from lifealign.data.tasks import Message, Row, as_feedback
from lifealign.model.adapters import snapshot
from lifealign.model.batch import PairLogps
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.logp_cache import pair_keys, pair_logps
from lifealign.model.logps import token_logps
from lifealign.model.packing import cost, pack_pairs
from lifealign.strategies import make_strategy
from lifealign.training.feedback import (
    Feedback,
    FeedbackConfig,
    RowTerms,
    StepTerms,
    reference_point,
    with_others,
)
from lifealign.training.loop import Loop, _step_terms, train_stage
from lifealign.training.losses import Objective, ObjectiveConfig
from lifealign.training.unpaired_losses import LabelWeights
from support.kinds import as_demonstrations, mixed
from support.rows import rows
from support.tiny import make_model, make_tokenizer

PAIRS = rows("bread", 6)
ONE = torch.ones(1)


def encoder(**options: Any) -> Encoder:
    return Encoder(make_tokenizer(), "chat", 256, **options)


def encoded(given: tuple[Row, ...]) -> list[EncodedPair]:
    return encoder().encode(given)[0]


# --- encoding and packing ---------------------------------------------------------------------------------------------


def test_a_row_of_one_answer_has_that_side_of_the_pair() -> None:
    whole = encoded(PAIRS)
    up, down = encoded(as_feedback(PAIRS))[0::2], encoded(as_feedback(PAIRS))[1::2]
    shown = encoded(as_demonstrations(PAIRS))
    assert [p.chosen for p in up] == [p.chosen for p in shown] == [p.chosen for p in whole]
    assert [p.rejected for p in down] == [p.rejected for p in whole]
    assert all(p.rejected == () for p in [*up, *shown]) and all(p.chosen == () for p in down)
    assert {p.kind for p in down} == {"undesirable"}


def test_reasoning_of_one_answer_is_masked_and_a_cut_one_counted() -> None:
    thinking = replace(as_feedback(PAIRS)[1], rejected="<think>hm</think>" + "no " * 30)
    pairs, report = encoder(reasoning="mask").encode([thinking])
    assert (pairs[0].chosen_context, pairs[0].rejected_context > 0) == (0, True)
    assert report.reasoning == (thinking.source,)
    short = Encoder(make_tokenizer(), "chat", len(pairs[0].prompt) + 20)
    assert short.encode([thinking])[1].cut == (thinking.source,)


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_an_answer_alone_has_the_log_prob_that_it_has_in_its_pair(shared_prefix: bool) -> None:
    model = make_model("llama")
    packing: dict[str, Any] = {"shared_prefix": shared_prefix, "accelerator": Accelerator(cpu=True)}
    whole = pair_logps(model, encoded(PAIRS), tokens_per_pack=10_000, **packing)
    for budget in (1, 10_000):
        alone = pair_logps(model, encoded(as_feedback(PAIRS)), tokens_per_pack=budget, **packing)
        torch.testing.assert_close(alone[0::2, 0], whole[:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone[1::2, 1], whole[:, 1], atol=1e-4, rtol=0)
        assert not alone[0::2, 1].any() and not alone[1::2, 0].any()


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_a_missing_answer_adds_no_columns(shared_prefix: bool) -> None:
    pairs = encoded(mixed(PAIRS))
    for i, pair in enumerate(pairs):
        pack = pack_pairs(pairs, [i], shared_prefix)
        if shared_prefix or pair.kind != "pair":
            assert pack.tokens == cost(pair, shared_prefix)
        assert sum(pack.sizes) == len(pack.target_T) == pair.chosen_tokens + pair.rejected_tokens
    pack = pack_pairs(pairs, range(len(pairs)), shared_prefix)
    parts = replace(pack.batch, token_T=token_logps(make_model("llama"), pack).token_T).tokens()
    assert [len(part) for part in parts] == [p.chosen_tokens + p.rejected_tokens for p in pairs]


def test_an_answer_alone_is_not_discounted_by_its_length() -> None:
    pack = pack_pairs(encoded(mixed(PAIRS)), range(4), True)
    tokens = token_logps(make_model("llama"), pack)
    alone = [i for i, kind in enumerate(pack.batch.kinds) if kind != "pair"]
    assert alone
    torch.testing.assert_close(tokens.pairs(0.0).chosen[alone], tokens.pairs().chosen[alone])
    torch.testing.assert_close(tokens.pairs(0.0).rejected[alone], tokens.pairs().rejected[alone])


def test_the_cache_tells_an_answer_alone_from_its_pair() -> None:
    base = {"weights": "w", "dtype": "float32"}
    assert len({*pair_keys([*encoded(PAIRS), *encoded(as_feedback(PAIRS))], base, "off")}) == 3 * len(PAIRS)


# --- losses -----------------------------------------------------------------------------------------------------------


def loss_of(kind: str, ratio: float, step: StepTerms = StepTerms(), **options: Any) -> tuple[float, float]:  # noqa: B008
    """Loss and margin of one row whose answer is `ratio` nats more likely than under the reference."""
    own, none = torch.tensor([ratio - 20.0]), torch.zeros(1)
    there, absent = (own, torch.tensor([-20.0])), (none, none)
    chosen, rejected = (absent, there) if kind == "undesirable" else (there, absent)
    lengths = (none, 4 * ONE) if kind == "undesirable" else (4 * ONE, none)
    policy, reference = PairLogps(chosen[0], rejected[0]), PairLogps(chosen[1], rejected[1])
    found = Objective(ObjectiveConfig(**options))(policy, reference, *lengths, RowTerms((kind,), (), step))  # type: ignore[arg-type]
    return float(found.loss), float(found.margin)


def test_kto_by_hand() -> None:
    # r = 3 nats, z0 = 1, beta = 0.5: sigmoid(0.5 (3 - 1)) = sigmoid(1) = 0.731059
    step = StepTerms(1.0, LabelWeights(2.0, 1.0))
    assert loss_of("desirable", 3.0, step, beta=0.5) == pytest.approx((2 * (1 - 0.731059), 1.0), abs=1e-5)
    assert loss_of("undesirable", 3.0, step, beta=0.5) == pytest.approx((0.731059, -1.0), abs=1e-5)


def test_bco_by_hand() -> None:
    # beta r = 1.5, delta = 0.5: log sigmoid(1) = -0.313262, log sigmoid(-1) = -1.313262
    step = StepTerms(0.5)
    options = {"beta": 0.5, "unpaired_loss": "bco"}
    assert loss_of("desirable", 3.0, step, **options) == pytest.approx((0.313262, 1.0), abs=1e-5)
    assert loss_of("undesirable", 3.0, step, **options) == pytest.approx((1.313262, -1.0), abs=1e-5)


def test_a_demonstration_has_its_nll_per_token() -> None:
    assert loss_of("demonstration", 4.0, demonstration_weight=0.5) == pytest.approx((0.5 * 16 / 4, 0.1 * 4))


def test_odpo_by_hand() -> None:
    # r = 0.1 (5 - 1) = 0.4, alpha * gap = 0.2 * 3: -log sigmoid(0.4 - 0.6) = log(1 + exp(0.2)) = 0.798139
    policy, reference = PairLogps(torch.tensor([5.0]), torch.tensor([1.0])), PairLogps(0 * ONE, 0 * ONE)
    given = (policy, reference, ONE, ONE)
    found = Objective(ObjectiveConfig(margin_scale=0.2))(*given, RowTerms(("pair",), (3.0,)))
    assert float(found.loss) == pytest.approx(math.log1p(math.exp(0.2)), abs=1e-6) == pytest.approx(0.798139, abs=1e-6)
    assert float(found.margin) == pytest.approx(0.4)  # what is reported is the margin itself
    unused = Objective(ObjectiveConfig())(*given, RowTerms(("pair",), (3.0,)))
    assert float(unused.loss) == pytest.approx(math.log1p(math.exp(-0.4)), abs=1e-6)


def test_rows_of_a_mixed_batch_keep_their_places() -> None:
    kinds = ("undesirable", "pair", "demonstration", "desirable")
    chosen, rejected = torch.tensor([0.0, -3.0, -6.0, -2.0]), torch.tensor([-4.0, -5.0, 0.0, 0.0])
    lengths = torch.tensor([0.0, 2.0, 3.0, 2.0]), torch.tensor([4.0, 2.0, 0.0, 0.0])
    zeros = PairLogps(torch.zeros(4), torch.zeros(4))
    found = Objective(ObjectiveConfig(beta=0.5))(PairLogps(chosen, rejected), zeros, *lengths, RowTerms(kinds))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [sigmoid(0.5 * -4), -math.log(sigmoid(0.5 * 2)), 6 / 3, 1 - sigmoid(0.5 * -2)]
    assert found.loss.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.margin.tolist() == pytest.approx([2.0, 1.0, -3.0, -1.0], abs=1e-6)
    assert found.weight.tolist() == [1.0] * 4


def test_labels_balance_unless_weights_are_given() -> None:
    assert FeedbackConfig().label_weights(2, 6) == (3.0, 1.0)
    assert FeedbackConfig().label_weights(0, 6) == (1.0, 1.0)
    assert FeedbackConfig(desirable_weight=0.5).label_weights(6, 2) == (0.5, 1.5)
    assert FeedbackConfig(undesirable_weight=2.0).label_weights(2, 6) == (6.0, 2.0)
    assert FeedbackConfig(desirable_weight=0.5, undesirable_weight=2.0).label_weights(1, 9) == (0.5, 2.0)


def test_margin_scale_is_refused_by_other_losses() -> None:
    with pytest.raises(ValidationError, match="margin_scale is read by the losses dpo and hinge only"):
        ObjectiveConfig(loss="ipo", margin_scale=1.0)


# --- reference point --------------------------------------------------------------------------------------------------


def test_an_answer_of_the_next_row_with_another_prompt_is_taken() -> None:
    given = encoded((*PAIRS[:1], *as_feedback(PAIRS[1:4]), *as_demonstrations(PAIRS[4:5])))
    pairs, feedback = with_others(given, FeedbackConfig())
    assert pairs[: len(given)] == given and sorted(feedback.others) == [1, 2, 3, 4, 5, 6]
    for i, answered in {1: 3, 2: 3, 3: 5, 4: 5, 5: 1, 6: 1}.items():  # a pair's two rows have one prompt
        other = pairs[feedback.others[i]]
        assert (other.prompt, other.rejected) == (given[i].prompt, ())
        assert other.chosen == given[answered].chosen
    assert feedback.asked(pairs, [0, 2, 7], "kto") == [feedback.others[2]]
    assert feedback.asked(pairs, [0, 2, 7], "bco") == [2]


def test_rows_of_one_prompt_have_no_other_answers() -> None:
    pairs, feedback = with_others(encoded(as_feedback(PAIRS[:1])), FeedbackConfig())
    assert (len(pairs), feedback.others) == (2, {})
    assert with_others([], FeedbackConfig()) == ([], Feedback())
    none = torch.zeros(0, 2)
    assert reference_point(FeedbackConfig(), 0.1, none, none, []) == 0


def test_an_answer_of_another_row_fits_into_the_longest_row() -> None:
    long = Row((Message("user", "bread " * 20),), "yes", "", "", "desirable")
    pairs, _ = with_others(encoded((long, *as_feedback(PAIRS[:1]))), FeedbackConfig())
    longest = max(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs[:3])
    assert all(len(p.prompt) + len(p.chosen) <= longest for p in pairs[3:])
    assert all(p.chosen_tokens > 0 for p in pairs[3:])


def run(
    loss: str, tokens_per_pack: int, given: tuple[Row, ...], *, steps: int = 2
) -> tuple[dict[str, torch.Tensor], Loop]:
    config = TrainConfig(pairs_per_step=6, learning_rate=5e-3, tokens_per_pack=tokens_per_pack)
    choice = StrategyChoice.model_validate({"name": "sequential", "unpaired_loss": loss})
    method = make_strategy(choice, LoraConfig(r=2, dropout=0.0), 0)
    model = method.attach(make_model("llama"))
    pairs, feedback = with_others(encoded(given), method.objective.config)
    accelerator = Accelerator(cpu=True)
    reference = pair_logps(model, pairs, shared_prefix=True, tokens_per_pack=512, accelerator=accelerator)
    loop = Loop("bread", model, method, config, 0, True, accelerator)
    train_stage(loop, loop.stage("preference", steps, 5e-3, pairs, reference, lambda r: iter(()), feedback))
    return snapshot(model), loop


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_the_step_is_the_same_in_one_pack_and_in_many(loss: str) -> None:
    one, in_one = run(loss, 100_000, mixed(rows("bread", 12)))
    many, in_many = run(loss, 1, mixed(rows("bread", 12)))
    assert all(float((one[k] - many[k]).abs().max()) < 1e-4 for k in one)
    for a, b in zip(in_one.log, in_many.log, strict=True):
        assert {k: v for k, v in a.items() if "second" not in k} == pytest.approx(
            {k: v for k, v in b.items() if "second" not in k}, abs=1e-3
        )


def test_the_reference_point_is_that_of_the_whole_window() -> None:
    _, loop = run("kto", 512, as_feedback(PAIRS), steps=4)
    pairs, feedback = with_others(encoded(as_feedback(PAIRS)), FeedbackConfig())
    zeros = torch.zeros(len(pairs), 2)
    stage = loop.stage("preference", 1, 5e-3, pairs, zeros - 200, lambda r: iter(()), feedback)
    window = stage.windows[0]
    asked = [pairs[feedback.others[i]] for i in window]
    policy = pair_logps(loop.model, asked, shared_prefix=True, tokens_per_pack=512, accelerator=loop.accelerator)
    # The reference of a missing answer is 0; here it is -200 for both sides, so the sum is -400.
    expected = max(0.0, float((policy.sum(1) + 400).mean()))
    assert _step_terms(loop, stage, window).point == pytest.approx(expected, abs=1e-3)
    assert expected > 0


def test_logs_mean_over_the_rows_that_have_the_value() -> None:
    _, up_only = run("kto", 512, as_feedback(PAIRS)[0::2])
    assert "rejected_drift" not in up_only.log[0] and "chosen_drift" in up_only.log[0]
    _, shown = run("kto", 512, as_demonstrations(PAIRS))
    assert "accuracy" not in shown.log[0] and "margin" not in shown.log[0]
    assert shown.log[-1]["loss"] < shown.log[0]["loss"]


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_training_on_thumbs_moves_both_labels_to_their_sides(loss: str) -> None:
    _, loop = run(loss, 512, as_feedback(rows("bread", 12)), steps=8)  # 4 steps an epoch, all of one size
    first, last = loop.log[0], [line["margin"] for line in loop.log[-4:]]
    assert first["margin"] == pytest.approx(0, abs=1e-6)
    assert sum(last) / 4 > 1
    assert sum(line["loss"] for line in loop.log[-4:]) / 4 < 0.6 * first["loss"]


def test_the_sft_stage_takes_rows_with_a_good_answer() -> None:
    _, loop = run("kto", 512, as_feedback(PAIRS))
    pairs, feedback = with_others(encoded(as_feedback(PAIRS)), FeedbackConfig())
    stage = loop.stage("sft", 1, 5e-3, pairs, torch.zeros(len(pairs), 2), lambda r: iter(()), feedback)
    assert sorted(i for window in stage.windows for i in window) == [0, 2, 4, 6, 8, 10]
    train_stage(loop, stage)
    assert loop.log[-1]["stage"] == "sft" and loop.log[-1]["loss"] > 0
    down = [p for p in pairs if p.kind == "undesirable"]
    assert loop.stage("sft", 1, 5e-3, down, torch.zeros(len(down), 2), lambda r: iter(())).windows == []
