"""Virtual ids: packed, plain and generated with, against the same vectors handed to the model by `inputs_embeds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import processors
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lifealign.data.tasks import Message
from lifealign.model.adapters import snapshot, trainable
from lifealign.model.encoding import EncodedPair, Encoder
from lifealign.model.generate import generate
from lifealign.model.logps import probe, token_logps
from lifealign.model.packing import Segment, pack_pairs, with_prefix
from lifealign.model.soft_prompt import (
    VirtualEmbedding,
    attach_prompts,
    first_virtual_id,
    prompt_tuning,
    split_prefix,
    vocabulary_rows,
)
from support.tiny import make_model, make_tokenizer

PACKABLE = ["llama", "qwen2", "gpt2", "mistral", "gemma3"]
LAYOUTS = [(kind, s) for kind in (*PACKABLE, "bloom") for s in (False, True) if not (s and kind == "bloom")]
V, K = 300, 6

pytestmark = pytest.mark.usefixtures("one_thread")


def some_table() -> Tensor:
    return torch.randn(K, 32, generator=torch.Generator().manual_seed(3))


def encoder() -> Encoder:
    return Encoder(make_tokenizer(), "chat", 512)


def pairs(prefixes: list[tuple[int, ...]]) -> list[EncodedPair]:
    """Three pairs; short, so that a window of 8 columns in two layers still reaches from the answers to the prefix."""
    answers = [((40, 41, 42, 1), (50, 51, 1)), ((60, 1), (43, 44, 45, 46, 1)), ((70, 71, 1), (72, 1))]
    plain = [EncodedPair((10, 11, 20 + i), *both, False, False, f"{i}", i, opening=2) for i, both in enumerate(answers)]
    return with_prefix(plain, prefixes)


COMMON = [(V, V + 1, V + 2)] * 3
OWN = [(V, V + 1), (V + 5,), ()]


def frozen(kind: str) -> PreTrainedModel:
    model = make_model(kind)
    model.requires_grad_(False)
    return model


def looked_up(model: PreTrainedModel, table: Tensor, ids: list[int]) -> Tensor:
    """Input vectors [1, L, D] by hand, from a model without virtual ids."""
    own: Any = model.get_input_embeddings()
    return torch.stack([table[i - V] if i >= V else own(torch.tensor(i)) for i in ids])[None]


def oracle(model: PreTrainedModel, table: Tensor, pair: EncodedPair) -> Tensor:
    """Summed log-probs of the two answers, one row at a time, by `inputs_embeds`; with a graph for the table."""
    sums = []
    for answer in (pair.chosen, pair.rejected):
        vectors = looked_up(model, table, [*pair.prompt, *answer])
        logps = torch.log_softmax(model(inputs_embeds=vectors).logits[0].double(), -1)
        sums.append(sum(logps[len(pair.prompt) + t - 1, token] for t, token in enumerate(answer)))
    return torch.stack(sums)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "shared_prefix"), LAYOUTS)
@pytest.mark.parametrize("prefixes", [COMMON, OWN], ids=["common", "own"])
def test_log_probs_and_gradient_are_those_of_the_vectors(
    kind: str, shared_prefix: bool, prefixes: list[tuple[int, ...]]
) -> None:
    data = pairs(prefixes)
    hand = some_table().requires_grad_()
    expected = torch.cat([oracle(frozen(kind), hand, p) for p in data])
    (expected * torch.arange(1, 7)).sum().backward()
    model = attach_prompts(frozen(kind), nn.Parameter(some_table()))
    got = token_logps(model, pack_pairs(data, range(3), shared_prefix)).sums()
    (got * torch.arange(1, 7)).sum().backward()
    torch.testing.assert_close(got, expected.float(), atol=1e-3, rtol=0)
    (name, table), *others = trainable(model).items()
    assert name.endswith(".table") and others == [] and hand.grad is not None and table.grad is not None
    assert float(hand.grad.abs().max()) > 1e-2
    torch.testing.assert_close(table.grad, hand.grad, atol=1e-4 * float(hand.grad.abs().max()), rtol=1e-3)
    assert [n for n, p in model.named_parameters() if p.grad is not None] == [
        n for n, p in model.named_parameters() if p is table
    ]
    used = {i - V for p in prefixes for i in p}
    assert {i for i in range(K) if table.grad[i].any()} == used


def test_a_common_prefix_stands_once_at_the_root() -> None:
    plain, data = pairs([(), (), ()]), pairs(COMMON)
    without, pack = pack_pairs(plain, range(3), True), pack_pairs(data, range(3), True)
    root = pack.segments[0]
    assert root == Segment(0, without.segments[0].end + 3, ()) and pack.tokens == without.tokens + 3
    assert pack.input_ids[0, :3].tolist() == [V, V + 1, V + 2] and pack.position_ids[0, :4].tolist() == [0, 1, 2, 3]
    own = pack_pairs(pairs(OWN), range(3), True)
    assert own.segments[0].start == 0 and own.segments[0].context == () and own.tokens > without.tokens + 3
    assert pack.batch.prompts == tuple(p.prompt for p in data)
    assert split_prefix(data[0].prompt, V) == ((0, 1, 2), plain[0].prompt)
    assert split_prefix(plain[0].prompt, V) == ((), plain[0].prompt)


@pytest.mark.parametrize("kind", [*PACKABLE, "bloom"])
def test_without_virtual_ids_the_model_is_as_it_was(kind: str) -> None:
    """And an untied or tied vocabulary projection reads the same matrix as before."""
    base = frozen(kind)
    ids = torch.arange(40)[None]
    before, head = base(input_ids=ids).logits, base.get_output_embeddings().weight

    def never() -> Tensor:
        raise AssertionError("asked for")

    attach_prompts(base, never)
    assert torch.equal(base(input_ids=ids).logits, before)
    assert base.get_output_embeddings().weight is head
    assert first_virtual_id(base) == V
    base.tie_weights()
    assert torch.equal(base(input_ids=ids).logits, before)
    if kind != "bloom":
        assert probe(base, pairs([(), (), ()])) is None


def test_a_table_may_be_computed() -> None:
    base, factor = frozen("llama"), nn.Parameter(some_table()[:, :2].clone())
    other = torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
    model = attach_prompts(base, lambda: factor @ other, prompt_factor=factor)
    assert list(snapshot(model)) == ["prompt_factor"]
    data = pairs(COMMON)
    token_logps(model, pack_pairs(data, range(3), True)).token_T.sum().backward()
    hand = factor.detach().clone().requires_grad_()
    sum(oracle(frozen("llama"), hand @ other, p).sum() for p in data).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(factor.grad, hand.grad, atol=1e-3, rtol=1e-3)


def test_a_float32_table_trains_on_a_bfloat16_model() -> None:
    data = pairs(COMMON)
    expected = torch.stack([oracle(frozen("llama"), some_table(), p) for p in data]).float()
    base = frozen("llama").to(torch.bfloat16)
    model = attach_prompts(base, nn.Parameter(some_table()))
    assert base.get_input_embeddings()(torch.tensor([[V, 5]])).dtype == torch.bfloat16
    for shared_prefix in (True, False):
        model.zero_grad()
        logps = token_logps(model, pack_pairs(data, range(3), shared_prefix))
        logps.token_T.sum().backward()
        table = next(iter(trainable(model).values()))
        assert table.dtype == torch.float32 and table.grad is not None and table.grad.dtype == torch.float32
        assert float(table.grad[:3].abs().min()) > 0
        # Up to 5 tokens at 0.15 nats each, the tolerance of the probe.
        torch.testing.assert_close(logps.sums().reshape(3, 2).float(), expected, atol=0.75, rtol=0)


@pytest.mark.parametrize("kind", [*PACKABLE, "bloom"])
def test_generation_goes_on_from_the_vectors(kind: str) -> None:
    """Greedy answers of a batch of unlike lengths, against a loop over `inputs_embeds`, one prompt at a time."""
    prompts = [(Message("user", "how do I bake bread"),), (Message("user", "the answer"),)]
    prefixes = [(V, V + 1, V + 2), (V + 3,)]
    bare, table, enc = frozen(kind), some_table(), encoder()
    expected = []
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        ids = [*prefix, *enc.prompt_ids(prompt)]
        start = len(ids)
        while len(ids) < start + 8:
            with torch.no_grad():
                ids.append(int(bare(inputs_embeds=looked_up(bare, table, ids)).logits[0, -1].argmax()))
            if ids[-1] == enc.tokenizer.eos_token_id:
                break
        expected.append(enc.tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    model = attach_prompts(frozen(kind), nn.Parameter(table))
    got = generate(model, enc, prompts, max_new_tokens=8, prefix=lambda ids: prefixes)
    assert got == expected
    if kind in ("llama", "qwen2", "gpt2"):  # the others look back too short a way, or say one thing for ever
        assert got != generate(model, enc, prompts, max_new_tokens=8)
    sampled = generate(model, enc, prompts, max_new_tokens=8, temperature=1.0, top_p=0.9, prefix=lambda ids: prefixes)
    assert len(sampled) == 2


def test_gemma_scales_its_own_rows_and_not_the_tables() -> None:
    base = frozen("gemma3")
    plain: Any = base.get_input_embeddings()
    attach_prompts(base, nn.Parameter(some_table()))
    out = base.get_input_embeddings()(torch.tensor([7, V + 2]))
    torch.testing.assert_close(out[0], plain.weight[7] * 32**0.5, atol=1e-5, rtol=0)
    assert torch.equal(out[1], some_table()[2])
    rows = vocabulary_rows(base, 50, seed=1)  # as the model gets them: scaled
    distance = (rows[:, None] - plain.weight[None] * 32**0.5).abs().amax(-1).amin(1)
    assert rows.shape == (50, 32) and float(distance.max()) < 1e-4
    assert torch.equal(vocabulary_rows(base, 50, seed=1), rows) and not torch.equal(vocabulary_rows(base, 50, 2), rows)


def test_a_virtual_id_beyond_the_table_is_a_bug_that_shows() -> None:
    embedding = VirtualEmbedding(nn.Embedding(V, 32), nn.Parameter(some_table()))
    with pytest.raises(IndexError):
        embedding(torch.tensor([V + K]))


@pytest.mark.parametrize("kind", PACKABLE)
def test_prompt_tuning_of_stock_peft_gives_equal_logits(kind: str, tmp_path: Path) -> None:
    make_model(kind).save_pretrained(tmp_path / "base")
    model = attach_prompts(frozen(kind), nn.Parameter(some_table()), extra=nn.Linear(2, 2))
    ids = encoder().prompt_ids((Message("user", "how do I bake bread"),))
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([[*range(V, V + K), *ids]])).logits[0]
    prompt_tuning(model, some_table(), "extra").save_pretrained(tmp_path / "adapter")  # type: ignore[arg-type,operator]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    stock = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        theirs = stock(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
        plain = base(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(theirs[-len(ids) :], ours[-len(ids) :], atol=1e-4, rtol=0)
    assert float((plain - ours[-len(ids) :]).abs().max()) > 0.05


def test_a_prompts_text_is_the_user_turn_alone() -> None:
    tokenizer = make_tokenizer()
    user = (Message("user", "How  do I\nbake bread?"),)
    for template in ("chat", "plain"):
        enc = Encoder(tokenizer, template, 512)  # type: ignore[arg-type]
        assert enc.prompt_text(enc.prompt_ids(user)) == "How  do I\nbake bread?"
    opening = make_tokenizer()
    opening.chat_template = (
        "{% for m in messages %}{% if loop.first and m['role'] == 'user' %}<|im_start|>system\nbe kind<|im_end|>\n"
        "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    default_system = Encoder(opening, "chat", 512)
    ids = default_system.prompt_ids(user)
    assert "be kind" in opening.decode(ids) and default_system.prompt_text(ids) == "How  do I\nbake bread?"
    chat = Encoder(tokenizer, "chat", 512)
    several = (*user, Message("assistant", "Knead."), Message("user", "And then?"))
    text = chat.prompt_text(chat.prompt_ids(several))
    assert "<|" not in text and "Knead." in text and text.endswith("And then?")
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    with_bos = Encoder(tokenizer, "plain", 512)
    ids = with_bos.prompt_ids(user)
    assert ids[0] == 0 and with_bos.prompt_text(ids) == "How  do I\nbake bread?"
