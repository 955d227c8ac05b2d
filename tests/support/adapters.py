"""LoRA adapters as stock PEFT writes them, with random weights that change answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import transformers


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
