"""Soft prompts: trained vectors instead of tokens, with token ids beyond the vocabulary.

Ids from V on, the number of embedding rows, are virtual: id V + i stands for row i of a table of vectors. Prompts with
virtual ids go through encoding, packing and generation like all others (`Strategy.prefix`); only the input embedding
treats them differently. Without virtual ids before a prompt, as for the reference, the model runs unchanged.

Shapes: V rows of the embedding, K rows of the table, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Table = Tensor | Callable[[], Tensor]
"""Vectors [K, D], or a function that computes them (with a graph, if they are trained)."""


class VirtualEmbedding(nn.Module):
    """An input embedding that also takes virtual ids.

    The rest of the model gets a row of the table as it is, without any scale that the embedding applies to its own rows
    (Gemma's), like the vectors of PEFT's prompt tuning. It is cast to the embedding's type, so a float32 table may be
    trained on a bfloat16 model.

    Args:
        inner: the model's own embedding of V rows; it is called with ids < V only.
        table: see `Table`; a Parameter becomes one of this module.
    """

    def __init__(self, inner: nn.Module, table: Table) -> None:
        super().__init__()
        self.inner = inner
        self.table = table

    @property
    def weight(self) -> Tensor:
        """Weight of the model's own embedding [V, D], to which tied output embeddings are tied."""
        return cast(Tensor, self.inner.weight)

    @property
    def first_id(self) -> int:
        """The first virtual id, V."""
        return int(self.weight.shape[0])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., D] of ids [...]; the table is only computed if there is a virtual id.

        Raises:
            IndexError: a virtual id beyond the table.
        """
        virtual = ids >= self.first_id
        hidden: Tensor = self.inner(ids.masked_fill(virtual, 0))
        if not bool(virtual.any()):
            return hidden
        table_KD = self.table if isinstance(self.table, Tensor) else self.table()
        rows = table_KD.to(ids.device)[ids[virtual] - self.first_id]
        return hidden.index_put((virtual,), rows.to(hidden.dtype))


def first_virtual_id(base: PreTrainedModel) -> int:
    """The number V of a model's embedding rows, which may be more than its tokenizer has ids."""
    return int(cast(Any, base.get_input_embeddings()).weight.shape[0])


def attach_prompts(base: PreTrainedModel, table: Table, **trained: nn.Parameter | nn.Module) -> nn.Module:
    """Let a frozen base model take virtual ids.

    Args:
        base: the model; changed in place.
        table: see `Table`; a Parameter is trained as `<name of the embedding>.table`.
        trained: other trained parameters or modules, by name; they become part of the model.
    """
    base.set_input_embeddings(VirtualEmbedding(cast(nn.Module, base.get_input_embeddings()), table))
    for name, item in trained.items():
        setattr(base, name, item)
    return cast(nn.Module, base)


def prompt_tuning(base: PreTrainedModel, prompt_KD: Tensor, *trained: str) -> nn.Module:
    """Turn one prompt [K, D] into PEFT prompt tuning, which puts its tokens before everything else, like virtual ids.

    Args:
        base: of `attach_prompts`; it takes no virtual ids afterwards.
        prompt_KD: the prompt.
        trained: names of the other attached parameters or modules.
    """
    base.set_input_embeddings(cast(Any, base.get_input_embeddings()).inner)
    for name in trained:
        delattr(base, name)
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(prompt_KD))
    model: Any = peft.get_peft_model(base, settings)
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data = prompt_KD.to(weight.device)
    return cast(nn.Module, model)


@torch.no_grad()
def vocabulary_rows(base: PreTrainedModel, count: int, seed: int) -> Tensor:
    """Vectors [count, D] float32 of tokens drawn with the seed, as the model gets them, to start trained prompts from.

    Lester et al. 2021 (arXiv 2104.08691, section 3.2) also start from sampled vocabulary.
    """
    embedding = cast(nn.Module, base.get_input_embeddings())
    weight = cast(Tensor, embedding.weight)
    ids = torch.randint(weight.shape[0], (count,), generator=torch.Generator().manual_seed(seed))
    rows: Tensor = embedding(ids.to(weight.device))
    return rows.float()


def split_prefix(ids: Sequence[int], first_id: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The rows of the table that a prompt begins with, and the prompt without them."""
    count = next((i for i, token in enumerate(ids) if token < first_id), len(ids))
    return tuple(i - first_id for i in ids[:count]), tuple(ids[count:])
