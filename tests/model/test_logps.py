"""The preference step's log-probs: single = batch = packed = shared prefix, against a brute-force oracle."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lifealign.core.config import LoraConfig, ModelConfig, SourceConfig
from lifealign.core.errors import ConfigError, ModelError
from lifealign.data.cleaning import read_rows
from lifealign.data.tasks import Message, Row
from lifealign.model import logps
from lifealign.model import packed_attention as packed
from lifealign.model.adapters import adapter_off, attach_lora, trainable
from lifealign.model.base import load_base
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.logps import TokenLogps, kl_to_base, probe, token_logps
from lifealign.model.packing import Pack, pack_pairs
from lifealign.training.pair_losses import dpo_loss, focal_dpo_loss, preference_margin
from support.records import RESPLIT
from support.tiny import make_model, make_tokenizer

MODULES = {"gpt2": ("c_attn",), "bloom": ("query_key_value",)}
PACKABLE = ["llama", "qwen2", "gpt2", "mistral", "gemma3"]


def pairs() -> list[EncodedPair]:
    rows = [
        Row(
            (Message("system", "be kind"), Message("user", f"how do I bake bread number {i}?")),
            f"the answer is {i} " * (i + 1),
            f"one short sentence {i}, " * (3 - i % 3),
            f"f:{i}",
        )
        for i in range(4)
    ]
    return Encoder(make_tokenizer(), "chat", 512).encode(rows)[0]


def model_with_adapter(kind: str) -> torch.nn.Module:
    model = attach_lora(make_model(kind), LoraConfig(r=4, target_modules=MODULES.get(kind, ("q_proj", "v_proj"))), 0)
    for name, parameter in trainable(model).items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def oracle(model: torch.nn.Module, pair: EncodedPair) -> list[float]:
    """Token by token, one row at a time, from the model's ordinary logits."""
    sums = []
    for answer in (pair.chosen, pair.rejected):
        ids = torch.tensor([[*pair.prompt, *answer]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].double()
        total = 0.0
        for t, token in enumerate(answer):
            row = logits[len(pair.prompt) + t - 1]
            total += float(row[token] - torch.logsumexp(row, 0))
        sums.append(total)
    return sums


# ALiBi (bloom) takes plain rows only: see test_probe_refuses_what_it_must.
LAYOUTS = [(kind, s) for kind in (*PACKABLE, "bloom") for s in (False, True) if not (s and kind == "bloom")]


@pytest.mark.parametrize(("kind", "shared_prefix"), LAYOUTS)
@pytest.mark.parametrize("together", [False, True])
def test_every_layout_equals_the_oracle(kind: str, shared_prefix: bool, together: bool) -> None:
    model, data = model_with_adapter(kind), pairs()
    groups = [[0, 1, 2, 3]] if together else [[i] for i in range(4)]
    got = [token_logps(model, pack_pairs(data, g, shared_prefix)).sums() for g in groups]
    expected = torch.tensor([oracle(model, p) for p in data]).flatten()
    torch.testing.assert_close(torch.cat(got), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", PACKABLE)
def test_gradients_of_packed_and_plain_rows_are_the_same(kind: str) -> None:
    model, data = model_with_adapter(kind), pairs()
    grads = []
    for shared_prefix in (False, True):
        model.zero_grad()
        logps = token_logps(model, pack_pairs(data, range(4), shared_prefix)).pairs()
        (logps.chosen.sum() - 2 * logps.rejected.sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in trainable(model).values()]))
    assert grads[0].abs().max() > 1e-3
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5 * float(grads[0].abs().max()), rtol=1e-4)


def test_answers_longer_than_the_window_are_windowed() -> None:
    data = pairs()
    assert len(data[3].prompt) + len(data[3].chosen) > 5 * 8
    wide = make_model("mistral")
    wide.config.sliding_window = None
    narrow = [oracle(make_model("mistral"), p) for p in data]
    full = [oracle(wide, p) for p in data]
    assert max(abs(a - b) for x, y in zip(narrow, full, strict=True) for a, b in zip(x, y, strict=True)) > 0.1


@pytest.mark.parametrize("kind", PACKABLE)
def test_probe_accepts(kind: str) -> None:
    assert probe(model_with_adapter(kind), pairs()) is None


def test_a_trained_vocabulary_matrix_takes_plain_rows() -> None:
    """Packed rows read the matrix as it is, without what an adapter adds: its updates would silently be zero."""
    model = attach_lora(make_model("mistral"), LoraConfig(r=2, target_modules=("lm_head",)), 0)
    assert "need a frozen vocabulary projection" in str(probe(model, pairs()))


def test_probe_refuses_what_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "BloomForCausalLM" in str(probe(model_with_adapter("bloom"), pairs()))
    real = packed._path_mask
    monkeypatch.setattr(packed, "_path_mask", lambda q, k, w, d: torch.ones_like(real(q, k, w, d)))
    assert "differ from plain rows" in str(probe(model_with_adapter("llama"), pairs()))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_probe_tells_rounding_from_a_wrong_layout_in_bfloat16(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with_adapter(kind).to(torch.bfloat16)
    assert probe(model, pairs()) is None
    real = logps.pack_pairs

    def misplaced(given: list[EncodedPair], index: Sequence[int], shared_prefix: bool) -> Pack:
        """Positions that go on over the whole row."""
        pack = real(given, index, shared_prefix)
        return replace(pack, position_ids=torch.arange(pack.tokens)[None]) if shared_prefix else pack

    monkeypatch.setattr(logps, "pack_pairs", misplaced)
    assert "differ from plain rows" in str(probe(model, pairs()))


@pytest.mark.model
def test_in_bfloat16_a_pair_rounds_alike_in_every_row(real_base) -> None:  # type: ignore[no-untyped-def]
    """Else a policy that equals its reference would have a margin, as the two are not computed in the same rows."""
    rows = [
        Row((Message("user", f"What is {w}?"),), f"It is {w} and more.", "No.", "") for w in ("a b", "c", "d e f", "g")
    ]
    data, _ = Encoder(real_base.tokenizer, real_base.template, 1024).encode(rows)
    model = copy.deepcopy(real_base.model).to(torch.bfloat16)
    with torch.no_grad():
        alone = [token_logps(model, pack_pairs(data, [i], shared_prefix=True)).sums() for i in range(4)]
        row = token_logps(model, pack_pairs(data, range(4), shared_prefix=True)).sums()
        other = token_logps(model, pack_pairs(data, [3, 1], shared_prefix=True)).sums()
    assert torch.equal(row, torch.cat(alone))
    assert torch.equal(other, torch.cat([alone[3], alone[1]]))


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
def test_products_give_the_gradients_of_torch_s_kernel(
    kind: str, dtype: torch.dtype, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short segments take products; sliding windows and several query heads a key head included."""
    data, model = pairs(), model_with_adapter(kind).to(dtype)
    own_way, ways = packed._ProductAttention.apply, []

    def counted(*arguments: Any) -> torch.Tensor:
        ways.append(arguments)
        return own_way(*arguments)

    def gradients() -> torch.Tensor:
        model.zero_grad()
        token_logps(model, pack_pairs(data, range(4), True)).sums().sum().backward()
        return torch.cat([p.grad.flatten().float() for p in trainable(model).values() if p.grad is not None])

    monkeypatch.setattr(packed._ProductAttention, "apply", counted)
    own = gradients()
    assert ways
    ways.clear()
    monkeypatch.setattr(packed, "PRODUCT_SCORES", 0)
    kernel = gradients()
    assert not ways
    assert 0 < (own - kernel).norm() < allowed * kernel.norm()


@pytest.mark.parametrize(("dtype", "atol", "rtol"), [(torch.float32, 1e-6, 1e-5), (torch.bfloat16, 1e-4, 2**-8)])
def test_product_attention_is_exact_to_the_rounding_of_its_result(dtype: torch.dtype, atol: float, rtol: float) -> None:
    """Six query heads, two key heads; against float64 with keys and values repeated."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, up = (
        torch.randn(1, heads, n, 8, generator=generator).to(dtype) for heads, n in ((6, 5), (2, 9), (2, 9), (6, 5))
    )
    mask = torch.zeros(5, 9).masked_fill_(~torch.ones(5, 9).tril(4).bool(), -torch.inf)
    inputs = [t.clone().requires_grad_() for t in (q, k, v)]
    result = packed._ProductAttention.apply(*inputs, mask.repeat(3, 1), 0.3)
    wanted_inputs = [t.double().requires_grad_() for t in (q, k, v)]
    keys, values = (t.repeat_interleave(3, 1) for t in wanted_inputs[1:])
    wanted = (0.3 * wanted_inputs[0] @ keys.transpose(-1, -2) + mask).softmax(-1) @ values
    result.backward(up)
    wanted.backward(up.double())
    for got, right in ((result, wanted), *((a.grad, b.grad) for a, b in zip(inputs, wanted_inputs, strict=True))):
        assert got is not None and got.dtype == dtype and right is not None
        torch.testing.assert_close(got.double(), right, atol=atol, rtol=rtol)


def test_chunked_projection_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = model_with_adapter("llama"), pairs()
    whole = token_logps(model, pack_pairs(data, range(4), True)).token_T
    monkeypatch.setattr(logps, "VOCABULARY_CHUNK", {"cpu": 300 * 7})
    parts = token_logps(model, pack_pairs(data, range(4), True)).token_T
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_prompt_only_logits_do_not_matter() -> None:
    """Changing what is predicted inside the prompt changes nothing: prompt tokens are no targets."""
    model, data = model_with_adapter("llama"), pairs()
    pack = pack_pairs(data, range(4), True)
    logps = token_logps(model, pack)
    assert len(logps.token_T) == sum(len(p.chosen) + len(p.rejected) for p in data)
    assert logps.token_T.dtype == torch.float32


def test_pad_id_does_not_matter() -> None:
    """Pad equals EOS in some models: the mask comes from lengths."""
    model, data = model_with_adapter("llama"), pairs()
    plain = pack_pairs(data, range(4), False)
    before = token_logps(model, plain).sums()
    plain.input_ids[plain.mask == 0] = 5
    torch.testing.assert_close(token_logps(model, plain).sums(), before)


def test_tokens_beyond_the_shorter_answer_are_weighted_by_hand() -> None:
    """Sizes 3 and 1: -1 + .5 (-2 - 4) = -4 against -8; sizes 1 and 2: -16 against -32 + .5 (-64) = -64."""
    token_T = torch.tensor([-1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0], requires_grad=True)
    found = TokenLogps(token_T, (3, 1, 1, 2)).pairs(0.5)
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([-4.0, -16.0], [-8.0, -64.0])
    (found.chosen.sum() + found.rejected.sum()).backward()
    assert token_T.grad.tolist() == [1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_step_zero_identity(shared_prefix: bool) -> None:
    model = attach_lora(make_model("llama"), LoraConfig(r=2), 0)
    pack = pack_pairs(pairs(), range(4), shared_prefix)
    policy = token_logps(model, pack).pairs()
    with adapter_off(model), torch.no_grad():
        reference = token_logps(model, pack).pairs()
    margin = preference_margin(policy, reference, 0.1)
    assert margin.abs().max() == 0
    torch.testing.assert_close(dpo_loss(margin), torch.full((4,), math.log(2)), atol=1e-7, rtol=0)
    torch.testing.assert_close(focal_dpo_loss(margin, 2.0), torch.full((4,), math.log(2) / 4), atol=1e-7, rtol=0)


def test_kl_to_base_is_zero_then_positive_and_exact() -> None:
    fresh = attach_lora(make_model("llama"), LoraConfig(r=2), 0)
    data = pairs()
    assert kl_to_base(fresh, pack_pairs(data, [0], True)) == 0
    model = model_with_adapter("llama")
    packed, plain = (kl_to_base(model, pack_pairs(data, range(4), s)) for s in (True, False))
    assert packed > 1e-3
    assert packed == pytest.approx(plain, rel=1e-4)


def test_adapter_off_leaves_flags_as_they_were() -> None:
    model = model_with_adapter("llama")
    frozen = next(iter(trainable(model).values()))
    frozen.requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    with adapter_off(model):
        pass
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


def test_adapter_refuses_tied_and_unknown_modules() -> None:
    with pytest.raises(ConfigError, match="tied embeddings"):
        attach_lora(make_model("llama"), LoraConfig(target_modules=("lm_head",)), 0)
    with pytest.raises(ConfigError, match=r"linear modules of this model: .*'q_proj'"):
        attach_lora(make_model("llama"), LoraConfig(target_modules=("wq",)), 0)


def test_unknown_base_model_is_one_message() -> None:
    with pytest.raises(ModelError, match=r"base model '/nowhere/model': no such directory; allowed: a local directory"):
        load_base(ModelConfig(name="/nowhere/model", dtype="float32"))


@pytest.mark.model
def test_all_layouts_agree_on_the_real_model(real_base) -> None:  # type: ignore[no-untyped-def]
    source = SourceConfig(path=str(RESPLIT / "hh-helpful" / "train.json"), recipe="hh-helpful")
    rows = read_rows(source).rows
    assert len(rows) == 3
    data, _ = Encoder(real_base.tokenizer, real_base.template, 1024).encode(rows)
    expected = torch.tensor([oracle(real_base.model, p) for p in data]).flatten()
    for shared_prefix in (False, True):
        for groups in ([[0], [1], [2]], [[0, 1, 2]]):
            with torch.no_grad():
                got = [token_logps(real_base.model, pack_pairs(data, g, shared_prefix)).sums() for g in groups]
            # Sums over a hundred tokens: 1e-4 a token of the longest answer is far more than is seen.
            torch.testing.assert_close(torch.cat(got), expected, atol=1e-3, rtol=1e-6)
            lengths = torch.tensor([len(a) for p in data for a in (p.chosen, p.rejected)])
            assert float(((torch.cat(got) - expected).abs() / lengths).max()) < 1e-4
