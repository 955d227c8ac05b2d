"""Layers that carry a state along a row, by their kind: packed rows would leak from one answer into the next."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention", "window_attention"})
"""Kinds of layers (`layer_types` of a config) that look at other columns through the attention interface alone."""
FEED_FORWARD = frozenset({"moe", "sparse", "dense"})
"""Kinds that look at no other column."""


def text_part(lm: PreTrainedModel) -> nn.Module:
    """The decoder that reads text; of a multimodal model, without its vision and audio towers."""
    return cast(nn.Module, cast(Any, lm).get_decoder())


def carries_state(lm: PreTrainedModel) -> str | None:
    """The kind of layer that carries a state along a row (convolution, scan, delta rule); None: only attention does.

    Such layers do not ask which columns an answer may see. Their leak may be smaller than the rounding of half precision, so it is
    not left to a measurement.
    """
    text = text_part(lm)
    for name, module in text.named_modules():
        if isinstance(module, nn.Conv1d):
            owner = text.get_submodule(name.rpartition(".")[0])
            return type(owner).__name__
    kinds = getattr(lm.config.get_text_config(decoder=True), "layer_types", None) or ()
    if other := sorted(set(kinds) - ATTENTION - FEED_FORWARD):
        return str(other[0])
    if getattr(lm, "_is_stateful", False) or getattr(text, "_is_stateful", False):
        return type(text).__name__
    return None
