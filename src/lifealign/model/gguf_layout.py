"""How llama.cpp lays out an architecture: names of tensors, order of the rows of q and k, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lifealign.core.errors import ConfigError


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures.

    Attributes:
        name: llama.cpp's own.
        interleaved: the rows of q and k are reordered, because llama.cpp rotates neighbouring values and transformers the
            halves of a head.
        rope_factors: llama.cpp reads a factor for each frequency from a tensor of the file.
    """

    name: str
    interleaved: bool = False
    rope_factors: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", interleaved=True, rope_factors=True),
    "mistral": Architecture("llama", interleaved=True, rope_factors=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
}
"""`model_type` of transformers -> architecture; only those whose answers were compared with llama.cpp's."""
ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds of rotary positions that llama.cpp computes as transformers does."""
ROPE_FACTORS = "rope_freqs.weight"


def load_gguf() -> Any:
    """The package that reads and writes GGUF files.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ConfigError("writing a GGUF file needs the package 'gguf': pip install gguf") from None
    return gguf


class Layout:
    """Names and values of one model's tensors in a GGUF file.

    Args:
        config: of the transformers model.

    Raises:
        ConfigError: an architecture that was not checked, or the package `gguf` is missing.
    """

    def __init__(self, config: Any) -> None:
        if config.model_type not in ARCHITECTURES:
            raise ConfigError(
                f"no GGUF export for a base model of type {config.model_type!r}: its answers were not compared with "
                f"llama.cpp's; allowed: {', '.join(ARCHITECTURES)}; export with --format merged and use llama.cpp's converter"
            )
        self.config = config
        self.architecture = ARCHITECTURES[config.model_type]
        gguf = load_gguf()
        which = gguf.MODEL_ARCH[self.architecture.name.upper()]
        self._names: Any = gguf.get_tensor_name_map(which, config.num_hidden_layers)
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    def name(self, own: str) -> str:
        """llama.cpp's name of a tensor.

        Raises:
            ConfigError: llama.cpp has none.
        """
        found = self._names.get_name(own, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ConfigError(
                f"llama.cpp's {self.architecture.name} has no tensor for {own}; export with --format merged"
            )
        return str(found)

    def out(self, name: str, tensor: Tensor) -> Tensor:
        """A weight [O, I], a bias [O] or a factor B [O, R] with its rows in llama.cpp's order."""
        heads = self._heads(name)
        if heads is None:
            return tensor
        split = tensor.reshape(heads, 2, self.head_size // 2, *tensor.shape[1:])
        return split.transpose(1, 2).reshape(tensor.shape).contiguous()

    def back(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `out`."""
        heads = self._heads(name)
        if heads is None:
            return tensor
        split = tensor.reshape(heads, self.head_size // 2, 2, *tensor.shape[1:])
        return split.transpose(1, 2).reshape(tensor.shape).contiguous()

    def _heads(self, name: str) -> int | None:
        """Heads whose rows are reordered; None: the rows stay."""
        if not self.architecture.interleaved:
            return None
        if ".attn_q." in name:
            return int(self.config.num_attention_heads)
        return int(self.config.num_key_value_heads) if ".attn_k." in name else None

    def hyperparameters(self, writer: Any) -> None:
        """Write the numbers that llama.cpp builds the network from."""
        c = self.config
        writer.add_context_length(c.max_position_embeddings)
        writer.add_embedding_length(c.hidden_size)
        writer.add_block_count(c.num_hidden_layers)
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_head_count(c.num_attention_heads)
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        writer.add_vocab_size(c.vocab_size)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(float(c.rope_parameters["rope_theta"]))

    def rope_factors(self, model: PreTrainedModel) -> Tensor | None:
        """Divisors [head size / 2] of the rotary frequencies; None where they are the plain ones.

        Raises:
            ConfigError: rotary positions that llama.cpp would compute in another way.
        """
        rope = self.config.rope_parameters
        kind = rope.get("rope_type", "default")
        allowed = ROPE_TYPES if self.architecture.rope_factors else ROPE_TYPES[:1]
        if kind not in allowed or rope.get("partial_rotary_factor", 1) != 1:
            raise ConfigError(
                f"no GGUF export for rotary positions of type {kind!r} in a {self.config.model_type} model; "
                f"allowed: {', '.join(allowed)}; export with --format merged and use llama.cpp's converter"
            )
        if kind == "default":
            return None
        actual = next(m.inv_freq for m in model.modules() if hasattr(m, "inv_freq")).double().cpu()
        steps = torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size
        return (float(rope["rope_theta"]) ** -steps / actual).float()  # type: ignore[no-any-return]

    def notes(self) -> list[str]:
        """Where llama.cpp computes another thing than transformers."""
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None) or []
        sliding = "sliding_attention" in kinds if kinds else self.config.model_type == "mistral" and window
        if not sliding or not window or window >= self.config.max_position_embeddings:
            return []
        return [f"llama.cpp ignores the sliding window of {window} tokens: answers to longer texts differ"]
