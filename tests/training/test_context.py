"""LongPO: a context that the reference sees and the policy does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Message, in_context
from lifealign.model.batch import PairLogps
from lifealign.model.encoding import Encoder
from lifealign.model.logp_cache import pair_keys, pair_logps
from lifealign.strategies.configure import read_config
from lifealign.training.context import behind
from lifealign.training.losses import Objective, ObjectiveConfig
from support.rows import rows
from support.tiny import make_model, make_tokenizer

RULE = "Answer in one short sentence."


def test_loss_has_the_computed_value() -> None:
    """Policy -10 and -12 against -8 and -15 of the reference in its context, beta .1: margin -0.5, loss 0.974077.

    Recomputed from the formula of arXiv 2502.13922. The total lambda L + NLL is rpo_alpha = 1 / lambda, up to the factor lambda.
    """
    policy = PairLogps(torch.tensor([-10.0]), torch.tensor([-12.0]))
    reference = PairLogps(torch.tensor([-8.0]), torch.tensor([-15.0]))
    lengths = torch.tensor([5.0]), torch.tensor([4.0])
    found = Objective(ObjectiveConfig(beta=0.1))(policy, reference, *lengths)
    assert float(found.margin) == pytest.approx(-0.5) and float(found.loss) == pytest.approx(0.974077, abs=1e-6)
    total = Objective(ObjectiveConfig(beta=0.1, rpo_alpha=100.0))(policy, reference, *lengths)
    assert 0.01 * float(total.loss) == pytest.approx(0.01 * 0.974077 + 10 / 5, abs=1e-6)


def test_the_reference_sees_the_context_and_the_same_answers() -> None:
    """Its log-probs are those of the row with the system turn in it; answers, boundary and cache key follow."""
    given = rows("bread", 3)
    encoder = Encoder(make_tokenizer(), "chat", 256)
    pairs, _ = encoder.encode(given)
    seen = behind(RULE, pairs, given, encoder, 512)
    whole, _ = encoder.encode([replace(row, prompt=in_context(row.prompt, RULE)) for row in given])
    for plain, context, row in zip(pairs, seen, whole, strict=True):
        assert context.prompt == row.prompt != plain.prompt
        assert (context.chosen, context.rejected) == (plain.chosen, plain.rejected) == (row.chosen, row.rejected)
    assert seen[0].opening == whole[0].opening
    model, accelerator = make_model("llama"), Accelerator(cpu=True)
    of = {"shared_prefix": True, "tokens_per_pack": 512, "accelerator": accelerator}
    torch.testing.assert_close(pair_logps(model, seen, **of), pair_logps(model, whole, **of))
    base = {"weights": "w", "dtype": "float32"}
    assert not set(pair_keys(pairs, base, "off")) & set(pair_keys(seen, base, "off"))


def test_a_system_turn_stays_behind_the_context() -> None:
    found = in_context((Message("system", "Be kind."), Message("user", "hi")), RULE)
    assert found == (Message("system", f"{RULE}\n\nBe kind."), Message("user", "hi"))


def test_what_cannot_be_shown_to_the_reference_is_refused(tmp_path: Path) -> None:
    given = rows("bread", 2)
    encoder = Encoder(make_tokenizer(), "chat", 256)
    pairs, _ = encoder.encode(given)
    with pytest.raises(
        ConfigError, match=r"tokens with strategy.reference_context, but the base model's context is 60"
    ):
        behind(RULE, pairs, given, encoder, 60)
    deaf = make_tokenizer()
    deaf.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
    encoder = Encoder(deaf, "chat", 256)
    pairs, _ = encoder.encode(given)
    with pytest.raises(ConfigError, match=r"leaves system texts out; set data.system=merge"):
        behind(RULE, pairs, given, encoder, 512)
    (tmp_path / "rule.txt").write_text(f"{RULE}\n")
    config = read_config(None, [f"strategy.reference_context='@{tmp_path}/rule.txt'", "preset=paper"])
    assert config.strategy.model_dump()["reference_context"] == RULE
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match=r"empty.txt holds no text to show the reference"):
        read_config(None, [f"strategy.reference_context='@{tmp_path}/empty.txt'", "preset=paper"])
