"""The mask of a packed row for one kernel, against the segments that it is made of. FlexAttention has no backward on a CPU."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from lifealign.model import flash_attention
from lifealign.model.encoding import EncodedPair
from lifealign.model.packed_attention import Layout, _by_segments
from lifealign.model.packing import Pack, pack_pairs, padded, row_width
from lifealign.model.tree_attention import BLOCK, TreeMask, tree_attention

CPU = torch.device("cpu")


def row(seed: int, pairs: int, longest: int, opening: int = 0) -> Pack:
    """A packed row of random pairs, whose prompts begin with `opening` equal ids, padded to whole blocks."""
    draw = random.Random(seed)

    def ids(least: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 50) for _ in range(draw.randint(least, longest)))

    root = tuple(range(1, opening + 1))
    rows = [
        EncodedPair(root + ids(2), ids(1), ids(1), False, False, str(i), i, max(opening - 1, 0)) for i in range(pairs)
    ]
    return padded(pack_pairs(rows, range(pairs), shared_prefix=True))


def sees(pack: Pack, window: int | None) -> Tensor:
    """[L, L] by going along each segment's path."""
    table = torch.zeros(pack.tokens, pack.tokens, dtype=torch.bool)
    for segment in pack.segments:
        path = [c for start, end in (*segment.context, (segment.start, segment.end)) for c in range(start, end)]
        for place, column in enumerate(path):
            if segment.start <= column < segment.end:
                table[column, path[max(0, place + 1 - (window or place + 1)) : place + 1]] = True
    return table


ROWS = [(1, 5, 40, 0), (2, 5, 40, 20), (3, 1, 300, 0), (4, 3, 400, 150), (5, 30, 8, 4)]


@pytest.mark.parametrize("window", [None, 1, 33, 200])
@pytest.mark.parametrize("shape", ROWS)
def test_the_mask_is_that_of_the_paths(shape: tuple[int, int, int, int], window: int | None) -> None:
    pack = row(*shape)
    mask = TreeMask.of(pack.segments, CPU)
    blocks = mask.blocks(window)
    L = pack.tokens
    assert L % BLOCK == 0
    places = torch.arange(L)
    found = blocks.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])
    wanted = sees(pack, window)
    assert torch.equal(found, wanted)
    # What a block's tables leave out is seen by nobody, and what they count as whole is seen by all.
    cut = wanted.view(L // BLOCK, BLOCK, L // BLOCK, BLOCK)
    some, whole = cut.any(3).any(1), cut.all(3).all(1)
    dense = blocks.to_dense()[0, 0].bool()
    assert not (some & ~dense).any()
    full = torch.zeros_like(whole)
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    for line, count in enumerate(blocks.full_kv_num_blocks[0, 0].tolist()):
        full[line, blocks.full_kv_indices[0, 0, line, :count].long()] = True
    assert not (full & ~whole).any()
    if window is None:  # and the tables are as small as torch's own
        own = create_block_mask(blocks.mask_mod, None, None, L, L, device="cpu")
        assert torch.equal(dense, own.to_dense()[0, 0].bool())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("shape", ROWS)
def test_one_kernel_gives_what_the_segments_give(
    shape: tuple[int, int, int, int], heads: tuple[int, int], window: int | None
) -> None:
    pack = row(*shape)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, pack.tokens, 8) for h in (heads[0], heads[1], heads[1]))
    one = tree_attention(q, k, v, TreeMask.of(pack.segments, CPU), scaling=0.3, window=window)
    each = _by_segments(q, k, v, Layout.of(pack.segments), 0.3, 0.0, window, {})
    assert torch.allclose(one.transpose(1, 2), each, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(("softcap", "sinks"), [(5.0, False), (None, True), (5.0, True)])
def test_soft_caps_and_sinks_are_those_of_plain_attention(softcap: float | None, sinks: bool) -> None:
    pack = row(2, 4, 30, 10)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, pack.tokens, 8) for _ in range(3))
    sinks_H = torch.randn(4) if sinks else None
    found = tree_attention(q, k, v, TreeMask.of(pack.segments, CPU), softcap=softcap, sinks_H=sinks_H)
    scores = q @ k.transpose(2, 3) * 8**-0.5
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~sees(pack, None), -torch.inf)
    if sinks_H is not None:
        scores = torch.cat([scores, sinks_H[None, :, None, None].expand(1, 4, pack.tokens, 1)], -1)
    wanted = scores.softmax(-1)[..., : pack.tokens] @ v
    assert torch.allclose(found, wanted, atol=1e-5)


def test_padding_changes_no_row() -> None:
    """The model's own forward over the row as it is and over the padded one: the columns that hold a token agree."""
    pairs = [EncodedPair((1, 2, 3), (4, 5, 6), (7, 8), False, False, "", 0, 0)]
    plain = pack_pairs(pairs, [0], shared_prefix=True)
    wide = padded(plain)
    assert wide.tokens == 128 and torch.equal(wide.input_ids[:, : plain.tokens], plain.input_ids)
    assert wide.segments[:-1] == plain.segments and wide.source_T is plain.source_T
    assert padded(wide) is wide
    q, k, v = (torch.randn(1, 2, 128, 4) for _ in range(3))
    both = [
        _by_segments(q[:, :, :n], k[:, :, :n], v[:, :, :n], Layout.of(p.segments), None, 0.0, None, {})
        for n, p in ((plain.tokens, plain), (128, wide))
    ]
    assert torch.allclose(both[0], both[1][:, : plain.tokens], atol=1e-6)


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 1000, 1025, 5000, 16384, 16385, 65537])
def test_rows_come_in_few_widths(columns: int) -> None:
    width = row_width(columns)
    assert width >= columns and width % BLOCK == 0 and width - columns < max(BLOCK, columns / 8)
    assert row_width(width) == width
    for widths in (2, 8):
        assert len({row_width(n, widths) for n in range(4097, 8193)}) == widths


def _sequences_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, most_q: int, most_k: int, **options: Any
) -> Tensor:
    """What FlashAttention computes for sequences of any length: queries are the last ones of their keys."""
    left, right = options["window_size"]
    assert right == 0 and options["enable_gqa"] == (query.shape[1] != key.shape[1])
    heads = query.shape[1] // key.shape[1]
    outputs = []
    for (q0, q1), (k0, k1) in zip(pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True):
        assert q1 - q0 <= most_q and k1 - k0 <= most_k
        back = torch.arange(k1 - k0 - (q1 - q0), k1 - k0)[:, None] - torch.arange(k1 - k0)[None]
        seen = (back >= 0) & ((back <= left) | (left < 0))
        q, k, v = query[q0:q1], key[k0:k1].repeat_interleave(heads, 1), value[k0:k1].repeat_interleave(heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * options["scale"]
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("shape", ROWS)
def test_flash_attention_is_given_each_segment_with_its_path(
    shape: tuple[int, int, int, int], heads: tuple[int, int], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = frozenset({"window_size", "scale", "enable_gqa"})
    monkeypatch.setattr(flash_attention, "_flash", lambda: (_sequences_one_by_one, names))
    pack = row(*shape)
    layout = Layout.of(pack.segments)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, pack.tokens, 8, requires_grad=True) for h in (heads[0], heads[1], heads[1]))
    sequences = layout.sequences(CPU)
    one = flash_attention.flash_attention(q, k, v, layout.pieces, layout.paths, sequences, scaling=0.3, window=window)
    each = _by_segments(q, k, v, layout, 0.3, 0.0, window, {})
    assert torch.allclose(one, each, atol=1e-5)
    weight = torch.randn_like(one)
    wanted = torch.autograd.grad((each * weight).sum(), (q, k, v), retain_graph=True)
    found = torch.autograd.grad((one * weight).sum(), (q, k, v))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))
