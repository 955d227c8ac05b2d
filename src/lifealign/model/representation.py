"""Hidden state of prompts at a layer, with a graph: what recovery compares (arXiv 2504.09757)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


class _Reached(Exception):  # noqa: N818 - ends a forward on purpose
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def layers_of(lm: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The decoder layers, the first one first."""
    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def default_layer(layers: int) -> int:
    """floor(4/6 of the layers), at least 1: 21 of 32, 12 of 18 and 20 of 30, as in the paper."""
    return max(1, 4 * layers // 6)


def last_hidden(lm: PreTrainedModel, prompts: Sequence[Sequence[int]], layer: int) -> Tensor:
    """Output of a decoder layer at the last token of each prompt, [N, D] float32; later layers are not run.

    The paper pads on the left; here padding is on the right, where no token of the prompt sees it.

    Args:
        lm: the model.
        prompts: token ids, at least one each.
        layer: how many layers to run. 1 <= layer.
    """
    ends = [len(ids) - 1 for ids in prompts]
    ids = torch.zeros(len(prompts), max(ends) + 1, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, : len(tokens)] = torch.tensor(list(tokens))
        mask[row, : len(tokens)] = 1

    def stop(module: Any, args: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = layers_of(lm)[layer - 1].register_forward_hook(stop)
    try:
        lm.base_model(input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False)
    except _Reached as reached:
        rows = torch.arange(len(ends), device=reached.hidden.device)
        return reached.hidden[rows, torch.tensor(ends, device=reached.hidden.device)].float()
    finally:
        handle.remove()
    raise AssertionError("the layer was not run")
