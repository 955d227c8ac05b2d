"""The attention of a packed row as one call of FlashAttention: every segment is a sequence of its own, with its path as keys.

A segment's queries are the last columns of its path, which is how FlashAttention's causal mask lies where there are more keys
than queries. Prompts are copied once more for each answer that continues them (keys and values alone). On an H100 its backward
is several times as fast as FlexAttention's with the mask of the tree; it takes half precision and neither soft caps nor sinks,
which stay with `tree_attention`.

Shapes: L columns of a packed row, K columns of all paths, S segments, H query heads, G key heads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """The segments of a packed row as sequences.

    Attributes:
        ends_of_queries: 0 and the end of each segment's columns, [S + 1] int32, on the device.
        ends_of_keys: the same of the paths.
        most_queries: longest segment.
        most_keys: longest path.
    """

    ends_of_queries: Tensor
    ends_of_keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Sequences:
        """From the number of columns of each segment and of each path."""

        def ends(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)

        return cls(ends(queries), ends(keys), max(queries), max(keys))


@functools.cache
def _flash() -> tuple[Any, frozenset[str]] | None:
    """Torch's call for sequences of any length and the names of its options; None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    options = frozenset(inspect.signature(varlen_attn).parameters)
    return (varlen_attn, options) if {"window_size", "scale"} <= options else None


def takes_flash(query: Tensor, softcap: float | None, sinks_H: Tensor | None) -> bool:
    """Whether `flash_attention` takes these: a GPU from Ampere on, half precision, heads of at most 256."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and softcap is None
        and sinks_H is None
        and _flash() is not None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pieces: Sequence[int],
    paths: Sequence[Sequence[int]],
    sequences: Sequences,
    *,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention of one packed row, [1, H, L, head] with keys and values of G heads -> [1, L, H, head].

    Args:
        query: of all columns.
        key: of all columns.
        value: of all columns.
        pieces: columns of each piece that the row is cut into.
        paths: for each segment, its pieces, root first.
        sequences: the same, as the kernel takes it.
        scaling: of the scores; None: head ** -0.5.
        window: keys further back along the path are not seen; None: all are.
    """
    found = _flash()
    assert found is not None
    call, options = found
    order = [piece for path in paths for piece in path]
    # One split, whose backward is one concatenation: an index would add gradients in an order that changes from run to run.
    cut = [torch.split(t[0].transpose(0, 1), list(pieces)) for t in (key, value)]
    keys, values = (torch.cat([parts[i] for i in order]) for parts in cut)
    extra = {"enable_gqa": query.shape[1] != key.shape[1]} if "enable_gqa" in options else {}
    output = call(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        sequences.ends_of_queries,
        sequences.ends_of_keys,
        sequences.most_queries,
        sequences.most_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **extra,
    )
    return cast(Tensor, output)[None]
