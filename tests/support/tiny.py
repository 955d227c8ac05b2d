"""Tiny random models and a byte-level tokenizer, made in-process: every path of the package, no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from lifealign.testing import TEMPLATE, tiny_model
from lifealign.testing import tiny_tokenizer as make_tokenizer

__all__ = ["CODE", "TEMPLATE", "make_model", "make_tokenizer", "save_tiny", "save_with_code", "with_config"]

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class MyConfig(LlamaConfig):
    model_type = "my_own"


class MyLM(LlamaForCausalLM):
    config_class = MyConfig
"""
"""A model that is defined by its checkpoint."""


def make_model(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A random model of a kind: llama, gpt2 (learned positions), mistral (sliding window of 8), gemma3 (mixed), bloom (ALiBi)."""
    small = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**small, **heads, tie_word_embeddings=True),
        "mistral": lambda: transformers.MistralConfig(**small, **heads, sliding_window=8),
        "qwen2": lambda: transformers.Qwen2Config(**small, **heads),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **small, **heads, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        ),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=512),
        "bloom": lambda: transformers.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),
    }
    return tiny_model(configs[kind](), seed)


def save_tiny(directory: Path, kind: str = "llama", seed: int = 0) -> Path:
    make_model(kind, seed).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def with_config(directory: Path, kind: str = "llama", **values: Any) -> Path:
    """A tiny model whose `config.json` has these values too."""
    save_tiny(directory, kind)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | values))
    return directory


def save_with_code(directory: Path, code: str = CODE, **values: Any) -> Path:
    """A tiny model whose class comes with the checkpoint."""
    auto = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyLM"}
    with_config(directory, **{"model_type": "my_own", "architectures": ["MyLM"], "auto_map": auto} | values)
    (directory / "mine.py").write_text(code)
    return directory
