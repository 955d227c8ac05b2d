"""The attention of a packed row as one kernel, for GPUs: FlexAttention with the row's tree of segments as its mask.

A CPU goes through the segments one by one (`packed_attention`); on a GPU that would be two small kernels for each answer
and layer. Which block of 128 queries sees which block of keys, wholly or in part, follows from the segments alone, so the
block mask is made once per row and no [L, L] mask exists.

Shapes: L columns of a packed row, K blocks of it, H query heads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lifealign.model.packing import Segment

BLOCK = 128
"""Columns of a block, FlexAttention's own default; rows for a GPU are padded to whole blocks (`packing.Pack.to`)."""


@dataclass(frozen=True)
class TreeMask:
    """What each column of a packed row sees, on the device.

    A query sees a key that does not come after it and lies in one of its two spans of context or in its own segment.

    Attributes:
        spans_4L: first and last-but-one column of both spans of context, [4, L]; 0 and 0 for none.
        own_L: first column of the segment.
        place_L: place along the path from the root, for sliding windows.
        segments: as given.
        made: block masks by window, made at first use; the same in every layer.
    """

    spans_4L: Tensor
    own_L: Tensor
    place_L: Tensor
    segments: tuple[Segment, ...]
    made: dict[int | None, BlockMask]

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> TreeMask:
        """The mask of a packed row whose columns are all in a segment."""
        columns = max(segment.end for segment in segments)
        values = np.zeros((6, columns), dtype=np.int32)
        for segment in segments:
            assert len(segment.context) <= 2
            flat = [edge for span in segment.context for edge in span]
            part = slice(segment.start, segment.end)
            values[: len(flat), part] = np.array(flat, dtype=np.int32)[:, None]
            values[4, part] = segment.start
            before = sum(end - start for start, end in segment.context)
            values[5, part] = before + np.arange(segment.end - segment.start)
        moved = torch.from_numpy(values).to(device)
        return cls(moved[:4], moved[4], moved[5], tuple(segments), {})

    def blocks(self, window: int | None) -> BlockMask:
        """The block mask; `window`: keys further back along the path are not seen."""
        if window not in self.made:
            columns = len(self.own_L)
            part, whole = block_tables(self.segments, columns, window)
            device = self.own_L.device
            self.made[window] = BlockMask.from_kv_blocks(
                *_listed(part, device),
                *_listed(whole, device),
                BLOCK_SIZE=BLOCK,
                mask_mod=self._seen(window),
                seq_lengths=(columns, columns),
            )
        return self.made[window]

    def _seen(self, window: int | None) -> Any:
        low, high, low_2, high_2 = self.spans_4L.unbind(0)
        own, place = self.own_L, self.place_L

        def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            path = (k >= own[q]) | ((k >= low[q]) & (k < high[q])) | ((k >= low_2[q]) & (k < high_2[q]))
            return (k <= q) & path

        def seen_in_window(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            assert window is not None
            return seen(batch, head, q, k) & (place[q] - place[k] < window)

        return seen if window is None else seen_in_window


def block_tables(segments: Sequence[Segment], columns: int, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of keys that some query of a block sees in part, and those that all its queries see whole; [K, K] bool each.

    With a window no block counts as whole: the kernel then looks at each key.
    """
    count = -(-columns // BLOCK)
    some, whole = np.zeros((count, count), dtype=bool), np.zeros((count, count), dtype=bool)
    for segment in segments:
        first, last = segment.start // BLOCK, (segment.end - 1) // BLOCK
        inner = slice(-(-segment.start // BLOCK), segment.end // BLOCK)  # blocks of queries in this segment alone
        for start, end in segment.context:
            some[first : last + 1, start // BLOCK : (end - 1) // BLOCK + 1] |= start < end
            whole[inner, -(-start // BLOCK) : end // BLOCK] = True
        for row in range(first, last + 1):
            some[row, first : row + 1] = True
        for row in range(inner.start, inner.stop):
            whole[row, inner.start : row] = True  # the block on the diagonal is causal
    if window is not None:
        whole[:] = False
    return some & ~whole, whole


def _listed(table: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Counts [1, 1, K] and, in front, the numbers [1, 1, K, K] of the blocks set in each line, int32."""
    order = np.argsort(~table, axis=1, kind="stable").astype(np.int32)
    counts = table.sum(1).astype(np.int32)
    return torch.from_numpy(counts).to(device)[None, None], torch.from_numpy(order).to(device)[None, None]


@functools.cache
def _compiled() -> Any:
    # Rows come in few widths (`packing.row_width`); each is compiled once.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(flex_attention, dynamic=False)


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: TreeMask,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Attention of one packed row, [1, H, L, head] with keys and values of fewer heads -> the same shape as `query`.

    Args:
        query: of all columns.
        key: of all columns.
        value: of all columns.
        mask: which columns see which.
        scaling: of the scores; None: head ** -0.5.
        window: keys further back along the path are not seen; None: all are.
        softcap: scores s become softcap tanh(s / softcap) (Gemma 2).
        sinks_H: a score for each head that takes its share of the softmax and gives nothing (GPT-OSS).
    """

    def capped(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    call = _compiled() if query.device.type == "cuda" else flex_attention
    options: dict[str, Any] = {
        "score_mod": None if softcap is None else capped,
        "block_mask": mask.blocks(window),
        "scale": scaling,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    if sinks_H is None:
        return cast(Tensor, call(query, key, value, **options))
    output, total = call(query, key, value, return_lse=True, **options)  # total: log of the sum of exponents
    share = torch.sigmoid(total - sinks_H.to(total.dtype)[None, :, None])
    return cast(Tensor, (output * share[..., None]).to(query.dtype))
