"""Tiny random models and a byte-level tokenizer, made in-process: every path of the package, no download."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["how do I bake bread at home", "the answer is one short sentence"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = template
    return fast


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
    torch.manual_seed(seed)
    config = configs[kind]()
    config.eos_token_id = config.pad_token_id = 1
    config.bos_token_id = None
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # the usual initialisation is so small that all answers look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def save_tiny(directory: Path, kind: str = "llama", seed: int = 0) -> Path:
    make_model(kind, seed).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory
