"""GGUF exports of small random models: llama.cpp answers with them as the memory does, token by token."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from lifealign.core.errors import ConfigError, ModelError
from lifealign.memory import exporting
from lifealign.memory.api import Memory
from lifealign.memory.exporting import FORMATS
from lifealign.model import gguf_files
from lifealign.model.adapters import causal_lm
from lifealign.model.gguf_layout import ARCHITECTURES, Layout
from lifealign.model.gguf_tokenizer import _LLAMA3, _QWEN2, write_tokenizer
from lifealign.testing import TEMPLATE, tiny_config, tiny_model, tiny_tokenizer
from support.llamacpp import Server, need_llamacpp, serving
from support.rows import make_task
from support.tiny import save_tiny

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install gguf")
pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [
    f"bread question {i}: how do I bake {word}?" for i, word in enumerate(["it", "rolls at 7:30", "a naïve loaf"])
]
SMALL = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama, tied": lambda: transformers.LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    "llama, biases": lambda: transformers.LlamaConfig(**SMALL, **HEADS, attention_bias=True, head_dim=16),
    "llama, stretched": lambda: transformers.LlamaConfig(**SMALL, **HEADS, rope_parameters=LLAMA3_ROPE),
    "llama, linear": lambda: transformers.LlamaConfig(
        **SMALL, **HEADS, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**SMALL, **HEADS, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, **HEADS),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, **HEADS, head_dim=16),
}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def made(config: Any, directory: Path) -> Path:
    """A random model whose vectors are no ones and zeros, saved with its tokenizer."""
    model = tiny_model(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def learnt(base: Path, path: Path, *settings: str) -> Memory:
    targets = "lora.target_modules=" + json.dumps(EVERY)
    config = tiny_config(base, path, targets, "train.learning_rate=0.05", "train.epochs=1", *settings)
    memory = Memory.create(path, config)
    memory.learn(make_task("bread", train=6, test=2))
    return memory


def greedy(memory: Memory, count: int = 20) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of each prompt, and of the memory's answer to it."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    prompts = [session.encoder.prompt_ids((exporting.Message("user", p),)) for p in PROMPTS]
    found = []
    for ids in prompts:
        given = torch.tensor([ids])
        out = causal_lm(session.model).generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            generation_config=transformers.GenerationConfig(
                max_new_tokens=count, do_sample=False, eos_token_id=1, pad_token_id=1
            ),
        )
        found.append([i for i in out[0, len(ids) :].tolist() if i != 1])
    return prompts, found


def base_file(memory: Memory, path: Path) -> Path:
    """The base model alone, as GGUF."""
    session = memory._session(memory.config, None)
    base = transformers.AutoModelForCausalLM.from_pretrained(memory.config.model.name, dtype=torch.float32)
    gguf_files.write_model(base, path, "f32", lambda writer: exporting._describe(session, writer), [])
    return path


def assert_answers(server: Server, prompts: list[list[int]], answers: list[list[int]]) -> None:
    for prompt, answer, text in zip(prompts, answers, PROMPTS, strict=True):
        assert server.chat_prompt([{"role": "user", "content": text}]) == prompt
        assert [i for i in server.greedy(prompt, 20) if i != 1] == answer


@pytest.mark.parametrize("kind", MODELS)
def test_llamacpp_answers_like_the_memory(kind: str, tmp_path: Path) -> None:
    need_llamacpp()
    memory = learnt(made(MODELS[kind](), tmp_path / "base"), tmp_path / "memory")
    prompts, answers = greedy(memory)
    base = base_file(memory, tmp_path / "base.gguf")
    adapter = memory.export(tmp_path / "lora", format="gguf-lora") / "adapter.gguf"
    merged = memory.export(tmp_path / "merged", format="gguf", gguf_type="f32") / "model.gguf"
    with serving(base, adapter) as server:
        assert_answers(server, prompts, answers)
    with serving(merged) as server:
        assert_answers(server, prompts, answers)
    with serving(base) as server:  # without the adapter the answers are other ones
        assert [[i for i in server.greedy(p, 20) if i != 1] for p in prompts] != answers


def test_every_allowed_architecture_is_compared() -> None:
    assert {config().model_type for config in MODELS.values()} == set(ARCHITECTURES)


# --- tokenizers -------------------------------------------------------------------------------------------------------

LINES = [
    "It's 12:30 on 2024-05-17, isn't it?  We'll pay $1,234.56 for 3 rolls",
    "a  naïve café\n\n  has\tTabs and   spaces \r\n and ends here  ",
    "¿Dónde está? Привет 你好 12345 items™ we're THEY'LL don't",
    "x=y+1; print('hello')  # 100%",
]
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPLITS: dict[str, Any] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), BYTES]),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN2), "isolated"), BYTES]),
}


def splitting_tokenizer(name: str) -> Any:
    """A tokenizer of 400 tokens that splits so; merges are learnt across digits and spaces wherever the split allows."""
    own = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    own.pre_tokenizer, own.decoder = SPLITS[name], decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    own.train_from_iterator(
        LINES * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.mark.parametrize("name", SPLITS)
def test_llamacpp_splits_texts_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    need_llamacpp()
    tokenizer = splitting_tokenizer(name)
    config = transformers.LlamaConfig(**{**SMALL, "vocab_size": 420}, **HEADS)  # more rows than tokens
    tiny_model(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    memory = Memory.create(tmp_path / "memory", tiny_config(tmp_path / "base", tmp_path / "memory"))
    out = memory.export(tmp_path / "out", format="gguf") / "model.gguf"
    assert gguf.GGUFReader(out).fields["tokenizer.ggml.pre"].contents() == name
    with serving(out) as server:
        for line in LINES:
            assert server.tokens(line) == tokenizer(line)["input_ids"]
            session = memory._session(memory.config, None)
            ids = session.encoder.prompt_ids((exporting.Message("user", line.strip()),))
            assert server.chat_prompt([{"role": "user", "content": line.strip()}]) == ids


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return learnt(made(MODELS["llama, tied"](), tmp_path / "base"), tmp_path / "memory")


def test_an_adapter_s_file_has_llamacpp_s_layout(memory: Memory, tmp_path: Path) -> None:
    out = memory.export(tmp_path / "out", format="gguf-lora")
    reader = gguf.GGUFReader(out / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert (fields["general.architecture"], fields["general.type"]) == ("llama", "adapter")
    lora = memory.config.lora
    assert (fields["adapter.type"], fields["adapter.lora.alpha"]) == ("lora", lora.alpha)
    shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}  # llama.cpp's order: columns first
    assert len(shapes) == 2 * 2 * len(EVERY)
    assert shapes["blk.0.attn_q.weight.lora_a"] == [32, lora.r] and shapes["blk.1.ffn_down.weight.lora_b"] == [
        lora.r,
        32,
    ]
    report = json.loads((out / "export.json").read_text())
    assert report["trained_parts"] == 28 and report["difference"]["largest"] < 1e-4
    assert any("llama.cpp was not run" in note for note in report["notes"])


def test_the_scale_of_an_adapter_arrives_whatever_it_is(memory: Memory, tmp_path: Path) -> None:
    """Rank-stabilised or per-module scales are no alpha / rank that one file could hold."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    model: Any = session.model
    layers = gguf_files.lora_layers(model.get_base_model())
    for i, layer in enumerate(layers.values()):
        layer.scaling["default"] = 0.3 + i
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        gguf_files.write_adapter(model, tmp_path / "a.gguf", "a")
        gguf_files.put_adapter(model, tmp_path / "a.gguf")
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-4, rtol=0)


def test_transformers_reads_the_merged_file(memory: Memory, tmp_path: Path) -> None:
    """Its own reader, which undoes the order of q and k by code of its own."""
    session = memory._session(memory.config, None)
    session.load(memory._store, memory._store.head)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        live = session.model(input_ids=ids).logits
        out = memory.export(tmp_path / "out", format="gguf", gguf_type="f32")
        read = transformers.AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf", dtype=torch.float32)
        torch.testing.assert_close(read.eval()(input_ids=ids).logits, live, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("number", "low", "high"), [("f16", 1e-5, 0.1), ("bf16", 1e-3, 1.0)])
def test_the_rounding_of_half_precision_is_stated(
    memory: Memory, tmp_path: Path, number: str, low: float, high: float
) -> None:
    report = json.loads((memory.export(tmp_path / "out", format="gguf", gguf_type=number) / "export.json").read_text())
    assert low < report["difference"]["largest"] < high
    assert f"matrices in {number}" in report["notes"]


def test_a_value_too_large_for_f16_is_refused(memory: Memory, tmp_path: Path) -> None:
    model = tiny_model(MODELS["llama, tied"]())
    model.get_parameter("model.layers.0.mlp.up_proj.weight").data[0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"blk\.0\.ffn_up\.weight is too large for f16; export with --gguf-type"):
        gguf_files.write_model(model, tmp_path / "m.gguf", "f16", lambda writer: None, [])


@pytest.mark.parametrize("form", ["gguf", "gguf-lora"])
def test_a_file_with_wrong_rows_is_refused(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(Layout, "out", lambda self, name, tensor: tensor)
    with pytest.raises(ModelError, match="the learnt change is lost"):
        memory.export(tmp_path / "new" / "out", format=form)
    assert not list((tmp_path / "new").iterdir())


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gguf", "gguf-lora"])
def test_an_architecture_that_was_not_compared_is_refused(tmp_path: Path, form: str) -> None:
    base = save_tiny(tmp_path / "base", "gpt2")
    memory = Memory.create(tmp_path / "m", tiny_config(base, tmp_path / "m", 'lora.target_modules=["c_attn"]'))
    with pytest.raises(ConfigError, match=r"type 'gpt2': .*; allowed: llama, mistral, qwen2, qwen3; export with"):
        memory.export(tmp_path / "new" / "out", format=form)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("llama", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}),
        ("qwen2", LLAMA3_ROPE),
    ],
)
def test_positions_that_llamacpp_computes_otherwise_are_refused(
    kind: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    config = transformers.AutoConfig.for_model(kind, **SMALL, **HEADS, rope_parameters=rope)
    with pytest.raises(
        ConfigError, match=rf"rotary positions of type '{rope['rope_type']}' in a {kind} model; allowed: default"
    ):
        gguf_files.write_model(tiny_model(config), tmp_path / "m.gguf", "f32", lambda writer: None, [])


@pytest.mark.parametrize(
    "build",
    [
        lambda: Tokenizer(models.WordLevel({"<|im_start|>": 0, "<|im_end|>": 1, "a": 2}, unk_token="a")),
        lambda: changed("pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda: changed("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda: changed("pre_tokenizer", pre_tokenizers.Split(Regex("[0-9]+"), "isolated")),
        lambda: changed("normalizer", normalizers.Lowercase()),
    ],
    ids=["words", "metaspace", "a space in front", "another pattern", "lower case"],
)
def test_a_tokenizer_that_was_not_compared_is_refused(build: Callable[[], Any]) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=build(), eos_token="<|im_end|>")
    with pytest.raises(ConfigError, match=r"allowed: byte-level BPE that splits as gpt-2, smollm, llama-bpe, qwen2;"):
        write_tokenizer(tokenizer, 300, False, None)


def changed(part: str, value: Any) -> Tokenizer:
    """The tiny tokenizer with another part."""
    own = tiny_tokenizer().backend_tokenizer
    setattr(own, part, value)
    return own


def test_a_sliding_window_is_named() -> None:
    config = transformers.MistralConfig(**SMALL, **HEADS, sliding_window=8)
    assert Layout(config).notes() == [
        "llama.cpp ignores the sliding window of 8 tokens: answers to longer texts differ"
    ]
    assert [Layout(build()).notes() for build in MODELS.values()] == [[]] * len(MODELS)


def test_a_number_format_goes_with_a_merged_gguf(memory: Memory, tmp_path: Path) -> None:
    for form, number in (("gguf-lora", "f16"), ("merged", "f32"), ("gguf", "q4_0")):
        with pytest.raises(
            ConfigError, match=f"--gguf-type {number}: only with --format gguf; allowed: f16, bf16, f32"
        ):
            memory.export(tmp_path / "out", format=form, gguf_type=number)


def test_without_the_package_there_is_one_message(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"writing a GGUF file needs the package 'gguf': pip install gguf"):
        memory.export(tmp_path / "out", format="gguf-lora")
    assert list(FORMATS) == ["peft", "merged", "vllm", "gguf", "gguf-lora"]
