"""SFT losses by name: PoFT's formula and its place in the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lifealign.core.config import LoraConfig, SftConfig, StrategyChoice, TrainConfig
from lifealign.core.errors import ConfigError, TrainingError
from lifealign.model.adapters import snapshot
from lifealign.model.encoding import Encoder
from lifealign.model.logp_cache import pair_logps
from lifealign.strategies import make_strategy
from lifealign.training.loop import Loop, train_stage
from lifealign.training.sft_losses import SFT_LOSSES, check_sft, poft_loss
from support.rows import rows
from support.tiny import make_model, make_tokenizer

STRANGER = """
def shy(answers, options):
    return -0.5 * answers.policy_B
"""


def run(
    sft: SftConfig, *, strategy: str = "sequential", tokens_per_pack: int = 512, ahead: float = 0.0
) -> tuple[dict[str, torch.Tensor], Loop]:
    """Train the SFT stage of a tiny model; its references are `ahead` of the base model by nats per token."""
    method = make_strategy(StrategyChoice(name=strategy), LoraConfig(r=2), 0)
    model = method.attach(make_model("llama"))
    pairs, _ = Encoder(make_tokenizer(), "chat", 256).encode(rows("bread", 6))
    accelerator = Accelerator(cpu=True)
    found = pair_logps(model, pairs, shared_prefix=True, tokens_per_pack=512, accelerator=accelerator)
    found[:, 0] = found[:, 0] / torch.tensor([float(p.chosen_tokens) for p in pairs]) + ahead
    config = TrainConfig(pairs_per_step=4, learning_rate=5e-3)
    loop = Loop("bread", model, method, config, 0, True, accelerator, tokens_per_pack=tokens_per_pack, sft=sft)
    train_stage(loop, loop.stage("sft", sft.epochs, 5e-3, pairs, found, lambda r: iter(())))
    return snapshot(model), loop


def test_poft_has_the_computed_value_and_weight() -> None:
    """r = -1.0 against references -1.2 and -0.6: 0.744397 and tau = 0.524979, recomputed from the formula of arXiv 2412.12865."""
    policy = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss, tau = poft_loss(policy, torch.tensor([(-1.2 - 0.6) / 2], dtype=torch.float64))
    assert float(loss.detach()) == pytest.approx(0.744397, abs=1e-6) and float(tau) == pytest.approx(0.524979, abs=1e-6)
    loss.sum().backward()
    assert policy.grad is not None and float(policy.grad) == pytest.approx(-float(tau))
    # tau in the paper's other form, G / (G + p^(1/T)) with G the references' geometric mean.
    mean, own = torch.tensor(-0.9).exp(), torch.tensor(-1.0).exp()
    assert float(tau) == pytest.approx(float(mean / (mean + own)))


def test_poft_ends_where_the_policy_is_far_ahead() -> None:
    """Saturation: no loss and no gradient; an answer that the references hate has little weight from the start."""
    policy = torch.tensor([80.0, 0.0], requires_grad=True)
    loss, tau = poft_loss(policy, torch.tensor([-80.0, -6.0]))
    loss[0].backward()
    assert float(loss.detach()[0]) == 0 and policy.grad is not None and float(policy.grad[0]) == 0
    assert float(tau[1]) < 0.003


def test_options_scale_and_shift_the_margin() -> None:
    loss, tau = poft_loss(torch.tensor([-1.0]), torch.tensor([-1.5]), beta=2.0, gamma=0.3)
    assert float(loss) == pytest.approx(float(-torch.nn.functional.logsigmoid(torch.tensor(0.7))))
    assert float(tau) == pytest.approx(float(torch.sigmoid(torch.tensor(-0.7))))


def test_a_stage_starts_at_one_half_and_does_not_depend_on_its_packs() -> None:
    """With the policy as its own reference tau is 1/2, and the loss ln 2; packs change nothing, as with every loss."""
    whole, loop = run(SftConfig(epochs=2, loss="poft"))
    first = loop.log[0]
    assert first["sft_weight"] == pytest.approx(0.5, abs=1e-6) and first["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert loop.log[-1]["sft_weight"] < 0.5  # learnt: counts for less
    apart, _ = run(SftConfig(epochs=2, loss="poft"), tokens_per_pack=1)
    assert all(torch.allclose(whole[k], apart[k], atol=1e-5) for k in whole)


def test_poft_far_ahead_of_its_references_trains_nothing() -> None:
    before = run(SftConfig(epochs=0))[0]
    after, loop = run(SftConfig(epochs=1, loss="poft"), ahead=-200.0)
    assert loop.log[0]["loss"] == 0 and loop.log[0]["grad_norm"] == 0
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_likelihood_is_as_before_and_logs_no_weight() -> None:
    plain, loop = run(SftConfig(epochs=1))
    assert set(loop.log[0]) >= {"loss", "grad_norm"} and "sft_weight" not in loop.log[0]
    named, _ = run(SftConfig(epochs=1, loss="nll"))
    assert all(torch.equal(plain[k], named[k]) for k in plain)


def test_a_strangers_loss_works_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(STRANGER + "\n\ndef bad(answers, options):\n    return answers.policy_B.sum()\n")
    name = f"{file}:shy"
    assert SFT_LOSSES.is_outside(name)
    check_sft(SftConfig(epochs=1, loss=name))
    _, loop = run(SftConfig(epochs=1, loss=name))
    assert loop.log[0]["loss"] > 0 and "sft_weight" not in loop.log[0]
    with pytest.raises(TrainingError, match="return one value per answer"):
        run(SftConfig(epochs=1, loss=f"{file}:bad"))
    with pytest.raises(ConfigError, match=r"sft.beta is read by sft.loss=poft only, got beta 2.0 with loss nll"):
        check_sft(SftConfig(epochs=1, beta=2.0))
    with pytest.raises(ConfigError, match="unknown SFT loss 'poff'"):
        check_sft(SftConfig(epochs=1, loss="poff"))
