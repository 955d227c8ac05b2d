"""The attention of packed rows, which replaces the model's own: each answer sees its prompt and itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lifealign.model.flash_attention import Sequences, flash_attention, takes_flash
from lifealign.model.packing import Segment
from lifealign.model.tree_attention import TreeMask, tree_attention

ATTENTION = "lifealign_packed"

PRODUCT_SCORES = 1 << 16
"""Largest number of scores per head and segment for which attention on a CPU uses float32 products."""


@dataclass(frozen=True)
class Layout:
    """How the columns of one packed row are cut for attention.

    Columns are cut once at every boundary (one split, whose backward is one concatenation; slices would each cost a
    zero-filled gradient of the whole row), and every segment picks the pieces of its path.

    Attributes:
        queries: columns of each segment.
        pieces: columns of each piece.
        paths: for each segment, its pieces, root first.
        segments: as given.
        masks: additive masks by shape and type, made at first use; the same in every layer.
        trees: the mask of the whole row by device, made at first use.
        flash: the segments as sequences by device, made at first use.
    """

    queries: tuple[int, ...] = ()
    pieces: tuple[int, ...] = ()
    paths: tuple[tuple[int, ...], ...] = ()
    segments: tuple[Segment, ...] = ()
    masks: dict[tuple[int, int, int | None, torch.dtype, int], Tensor] = field(default_factory=dict)
    trees: dict[torch.device, TreeMask] = field(default_factory=dict)
    flash: dict[torch.device, Sequences] = field(default_factory=dict)

    @classmethod
    def of(cls, segments: tuple[Segment, ...]) -> Layout:
        """The layout of a packed row."""
        cuts: set[int] = set()
        for segment in segments:
            for start, end in (*segment.context, (segment.start, segment.end)):
                cuts |= {start, end}
        borders = sorted(cuts)
        piece_at = {start: i for i, start in enumerate(borders[:-1])}  # the piece that begins at a column
        paths = []
        for segment in segments:
            path: list[int] = []
            for start, end in (*segment.context, (segment.start, segment.end)):
                path += range(piece_at[start], piece_at.get(end, len(borders) - 1))  # the last piece has none after it
            paths.append(tuple(path))
        return cls(
            queries=tuple(segment.end - segment.start for segment in segments),
            pieces=tuple(end - start for start, end in pairwise(borders)),
            paths=tuple(paths),
            segments=segments,
        )

    def tree(self, device: torch.device) -> TreeMask:
        """The mask of the whole row, for `tree_attention`."""
        if device not in self.trees:
            self.trees[device] = TreeMask.of(self.segments, device)
        return self.trees[device]

    def sequences(self, device: torch.device) -> Sequences:
        """The segments as sequences, for `flash_attention`."""
        if device not in self.flash:
            keys = [sum(self.pieces[i] for i in path) for path in self.paths]
            self.flash[device] = Sequences.of(self.queries, keys, device)
        return self.flash[device]

    def mask(
        self, queries: int, keys: int, window: int | None, dtype: torch.dtype, device: torch.device, heads: int = 1
    ) -> Tensor:
        """0 where a query sees a key, -inf elsewhere, [heads * queries, keys]."""
        key = (queries, keys, window, dtype, heads)
        if key not in self.masks:
            seen = _path_mask(queries, keys, window, device).repeat(heads, 1)
            self.masks[key] = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
        return self.masks[key]


_current = Layout()
"""Layout of the current forward: transformers calls an attention function by name and passes no argument of ours.
Kept until the next forward, so that recomputation in backward sees it."""


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row, [1, H, L, head] -> [1, L, H, head]: each segment over its own path."""
    layout, device = _current, query.device
    if device.type != "cpu":
        softcap, sinks_H = kwargs.get("softcap"), kwargs.get("s_aux")
        options: dict[str, Any] = {"scaling": scaling, "window": sliding_window}
        if takes_flash(query, softcap, sinks_H):
            row = layout.pieces, layout.paths, layout.sequences(device)
            return flash_attention(query, key, value, *row, **options), None
        tree = layout.tree(device)
        output = tree_attention(query, key, value, tree, softcap=softcap, sinks_H=sinks_H, **options)
        return output.transpose(1, 2).contiguous(), None
    return _by_segments(query, key, value, layout, scaling, dropout, sliding_window, kwargs), None


def _by_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
    kwargs: Mapping[str, Any],
) -> Tensor:
    """One product of attention a segment, which is the faster way on a CPU."""
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError("packed rows support neither soft-capped logits nor attention sinks")
    heads = query.shape[1] // key.shape[1]
    keys = torch.split(key, list(layout.pieces), 2)
    values = torch.split(value, list(layout.pieces), 2)
    # Short segments use float32 products: torch's kernel is slower for them, above all in backward.
    products = query.dtype.itemsize <= 4 and dropout == 0.0
    outputs = []
    for q, path in zip(torch.split(query, list(layout.queries), 2), layout.paths, strict=True):
        k, v = torch.cat([keys[i] for i in path], 2), torch.cat([values[i] for i in path], 2)
        window = sliding_window if sliding_window is not None and k.shape[2] > sliding_window else None
        if products and q.shape[2] * k.shape[2] <= PRODUCT_SCORES:
            tiled = layout.mask(q.shape[2], k.shape[2], window, torch.float32, q.device, heads)
            scale = q.shape[-1] ** -0.5 if scaling is None else scaling
            outputs.append(_ProductAttention.apply(q, k, v, tiled, scale))  # type: ignore[no-untyped-call]
            continue
        if heads > 1:
            k, v = k.repeat_interleave(heads, 1), v.repeat_interleave(heads, 1)
        causal = q.shape[2] == k.shape[2] and window is None
        mask = None if causal else layout.mask(q.shape[2], k.shape[2], window, q.dtype, q.device)
        outputs.append(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling)
        )
    return torch.cat(outputs, 2).transpose(1, 2).contiguous()


class _ProductAttention(torch.autograd.Function):
    """softmax(s q k^T + mask) v by products in float32, in the type of `query`; scores are recomputed in backward.

    Query heads of one key head are stacked, [G, r Q, head] for G key heads with r query heads each, so that keys
    and values are not repeated. `mask` is [r Q, K].
    """

    @staticmethod
    def _weights(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
        return torch.softmax(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale), -1)

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        k, v = key[0].float(), value[0].float()
        q = query.reshape(len(k), -1, query.shape[-1]).float()
        return (_ProductAttention._weights(q, k, mask, scale) @ v).view(query.shape).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, mask = ctx.saved_tensors
        k, v = key[0].float(), value[0].float()
        q = query.reshape(len(k), -1, query.shape[-1]).float()
        g = grad.reshape(len(k), -1, grad.shape[-1]).float()
        weights = _ProductAttention._weights(q, k, mask, ctx.scale)
        grad_v = weights.transpose(1, 2) @ g
        grad_scores = g @ v.transpose(1, 2)
        grad_scores.sub_((grad_scores * weights).sum(-1, keepdim=True)).mul_(weights).mul_(ctx.scale)
        grad_q, grad_k = grad_scores @ k, grad_scores.transpose(1, 2) @ q
        return (
            grad_q.view(query.shape).to(query.dtype),
            grad_k[None].to(key.dtype),
            grad_v[None].to(value.dtype),
            None,
            None,
        )


def _path_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """[queries, keys], True where a query sees a key; queries are the last ones of the path, distances run along it."""
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    mask = k <= q
    return mask if window is None else mask & (q - k < window)


@contextmanager
def packed_attention(model: PreTrainedModel, segments: tuple[Segment, ...]) -> Iterator[None]:
    """Use the attention of one packed row instead of the model's own."""
    global _current
    before = model.config._attn_implementation
    _current = Layout.of(segments)
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# Not a part of what torch.compile compiles: the layout differs from row to row.
AttentionInterface.register(ATTENTION, torch.compiler.disable(_packed_attention))  # type: ignore[no-untyped-call]
