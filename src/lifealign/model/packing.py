r"""Pack token ids into rows, or (the fall-back) into a batch of plain ones. See docs/explanation/preference-step.md.

Tensor shapes: L columns of one packed row, T response tokens of it, B pairs.

A packed row holds several pairs. Each pair's prompt occurs once; its chosen and its rejected answer both continue it,
and the rejected answer's positions restart after the prompt. An opening common to all prompts of a row (a system turn,
say) occurs once per row. So a row is a small tree of token spans, and attention follows the path from the root:

    root -- prompt 1 + chosen 1          columns in one row:  root | prompt 1 + chosen 1 | rejected 1 | prompt 2 + ...
         |        \- rejected 1
         |- prompt 2 + chosen 2
                  \- rejected 2

A row of one answer alone is a pair without the other branch: it adds no columns for the answer that it lacks, whose size
is 0. The last token of an answer is only a target, so it is not fed in. Reasoning that is not trained
(`EncodedPair.chosen_context`) is fed in, and is no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lifealign.model.batch import PreferenceBatch
from lifealign.model.encoding import EncodedPair, common_prefix


@dataclass(frozen=True)
class Segment:
    """Columns ``start:end`` of a packed row, which see `context` (column spans, in order) and themselves causally."""

    start: int
    end: int
    context: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pack:
    """One packed row, or (plain) one right-padded batch of rows.

    Attributes:
        input_ids: [1, L] packed, [rows, L] plain.
        position_ids: like `input_ids`; restart for each branch.
        mask: [rows, L] 1 for real columns, plain only; from lengths, never from the pad id.
        segments: attention layout of a packed row; empty for a plain one.
        source_T: flat index (into rows * L) of the column whose hidden state predicts each response token.
        target_T: the response tokens.
        sizes: response tokens per answer, ordered chosen 0, rejected 0, chosen 1, ... (chosen only: one per pair); 0 for an
            answer that a row lacks.
        batch: the inputs of the strategy's loss.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor | None
    segments: tuple[Segment, ...]
    source_T: Tensor
    target_T: Tensor
    sizes: tuple[int, ...]
    batch: PreferenceBatch

    @property
    def tokens(self) -> int:
        """Columns fed to the model."""
        return int(self.input_ids.numel())

    def to(self, device: torch.device) -> Pack:
        """The pack with its tensors on `device`."""
        move = {name: getattr(self, name).to(device) for name in ("input_ids", "position_ids", "source_T", "target_T")}
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self.batch).items() if isinstance(v, Tensor)}
        batch = replace(self.batch, **tensors)
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, **move, mask=mask, batch=batch)


def row_width(columns: int, widths: int = 8) -> int:
    """Width of a packed row for a GPU: whole blocks of 128, and at most `widths` of them in an octave.

    Kernels are compiled for each width, so there must be few.
    """
    step = max(128, (1 << columns.bit_length() - 1) // widths)
    return -(-columns // step) * step


def padded(pack: Pack, widths: int = 8) -> Pack:
    """A packed row with columns added at the right, up to `row_width`, that nothing sees and that predict nothing."""
    columns = pack.tokens
    extra = row_width(columns, widths) - columns
    if not extra:
        return pack
    segments = (*pack.segments, Segment(columns, columns + extra, ()))
    ids, positions = (F.pad(tensor, (0, extra)) for tensor in (pack.input_ids, pack.position_ids))
    return replace(pack, input_ids=ids, position_ids=positions, segments=segments)


def with_prefix(pairs: Sequence[EncodedPair], prefixes: Sequence[tuple[int, ...]]) -> list[EncodedPair]:
    """The pairs with virtual tokens in front of their prompts (see `soft_prompt`)."""
    return [
        replace(p, prompt=v + p.prompt, opening=len(v) + p.opening) if v else p
        for p, v in zip(pairs, prefixes, strict=True)
    ]


def cost(pair: EncodedPair, shared_prefix: bool, chosen_only: bool = False) -> int:
    """Columns that a pair adds to a row, before the common opening of the row's prompts is subtracted."""
    answers = [a for a in ((pair.chosen,) if chosen_only else (pair.chosen, pair.rejected)) if a]
    columns = sum(len(a) - 1 for a in answers)
    return columns + len(pair.prompt) * (1 if shared_prefix else len(answers))


def same_prompt(pairs: Sequence[EncodedPair], index: Sequence[int]) -> list[list[int]]:
    """`index` (positions in `pairs`) by prompt, prompts in the order in which they first come."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i in index:
        found.setdefault(pairs[i].prompt, []).append(i)
    return list(found.values())


def split_by_budget(
    pairs: Sequence[EncodedPair],
    index: Sequence[int],
    budget: int,
    shared_prefix: bool,
    chosen_only: bool = False,
    by_prompt: bool = False,
) -> Iterator[list[int]]:
    """Cut `index` (positions in `pairs`), in its order, into groups of at most `budget` columns; a longer pair is alone.

    With `by_prompt`, pairs of one prompt stay in one group.
    """
    group: list[int] = []
    used = 0
    for unit in same_prompt(pairs, index) if by_prompt else ([i] for i in index):
        columns = sum(cost(pairs[i], shared_prefix, chosen_only) for i in unit)
        if group and used + columns > budget:
            yield group
            group, used = [], 0
        group += unit
        used += columns
    if group:
        yield group


def pack_pairs(
    pairs: Sequence[EncodedPair], index: Sequence[int], shared_prefix: bool, chosen_only: bool = False
) -> Pack:
    """Lay the pairs at `index` into one packed row (`shared_prefix`) or a batch of plain rows."""
    chosen = [pairs[i] for i in index]
    batch = PreferenceBatch(
        torch.tensor([p.position for p in chosen]),
        torch.tensor([float(p.chosen_tokens) for p in chosen]),
        torch.tensor([float(p.rejected_tokens) for p in chosen]),
        prompts=tuple(p.prompt for p in chosen),
        kinds=tuple(p.kind for p in chosen),
        gaps=tuple(p.gap for p in chosen),
        answers=tuple((p.chosen, p.rejected) for p in chosen),
    )
    build = _packed if shared_prefix else _plain
    return build(chosen, batch, chosen_only)


def _packed(pairs: Sequence[EncodedPair], batch: PreferenceBatch, chosen_only: bool) -> Pack:
    root = common_prefix([p.prompt[: p.opening + 1] for p in pairs])
    ids: list[int] = list(pairs[0].prompt[:root])
    positions = list(range(root))
    segments: list[Segment] = [Segment(0, root, ())] if root else []
    context = ((0, root),) if root else ()
    source: list[int] = []
    target: list[int] = []
    sizes: list[int] = []
    for pair in pairs:
        start = len(ids)
        own = pair.prompt[root:]
        ids += [*own, *pair.chosen[:-1]]
        positions += range(root, len(pair.prompt) + max(len(pair.chosen) - 1, 0))
        segments.append(Segment(start, len(ids), context))
        first = start + len(own) - 1  # last prompt column; predicts the first token of either answer
        source += range(first + pair.chosen_context, first + len(pair.chosen))
        target += pair.chosen[pair.chosen_context :]
        sizes.append(pair.chosen_tokens)
        if chosen_only:
            continue
        branch = len(ids)
        ids += pair.rejected[:-1]
        positions += range(len(pair.prompt), len(pair.prompt) + len(pair.rejected) - 1)
        if len(ids) > branch:
            segments.append(Segment(branch, len(ids), (*context, (start, start + len(own)))))
        source += [first, *range(branch, len(ids))][pair.rejected_context : len(pair.rejected)]
        target += pair.rejected[pair.rejected_context :]
        sizes.append(pair.rejected_tokens)
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        None,
        tuple(segments),
        torch.tensor(source),
        torch.tensor(target),
        tuple(sizes),
        batch,
    )


def _plain(pairs: Sequence[EncodedPair], batch: PreferenceBatch, chosen_only: bool) -> Pack:
    rows = [
        (pair.prompt, answer, context)
        for pair in pairs
        for answer, context in ((pair.chosen, pair.chosen_context), (pair.rejected, pair.rejected_context))[
            : 1 if chosen_only else 2
        ]
    ]
    sizes = tuple(len(answer) - context for _, answer, context in rows)
    rows = [row for row in rows if row[1]]
    width = max(len(prompt) + len(answer) - 1 for prompt, answer, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # any id does where the mask is 0
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    source: list[int] = []
    target: list[int] = []
    for i, (prompt, answer, context) in enumerate(rows):
        row = [*prompt, *answer[:-1]]
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        first = i * width + len(prompt) - 1
        source += range(first + context, first + len(answer))
        target += answer[context:]
    positions = torch.arange(width).expand(len(rows), width)
    return Pack(ids, positions, mask, (), torch.tensor(source), torch.tensor(target), sizes, batch)
