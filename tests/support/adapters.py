"""LoRA adapters as stock PEFT writes them, with random weights that change answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from lifealign.testing import tiny_tokenizer

IDS = torch.tensor([[5, 30, 77, 102, 9, 250]])
TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def save_adapter(base: Path, directory: Path, config: Any = None, **options: Any) -> Path:
    """Write an adapter of a local base model; `options` are those of `peft.LoraConfig`, unless a `config` is given."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    given = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | options
    tuned = peft.get_peft_model(model, config or peft.LoraConfig(**given))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and "lora_magnitude" not in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    tuned.save_pretrained(directory)
    return directory


@torch.no_grad()
def stock_logits(base: Path, adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of the base model with an adapter, by transformers and PEFT alone."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    found: torch.Tensor = model.eval()(input_ids=ids).logits[0]
    return found


def wrapper(directory: Path) -> Path:
    """A random Gemma 3 with a vision tower, whose modules have the names of its text part too."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    config.eos_token_id = 1
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
