"""AFT: losses of all answers to a prompt, with a floor under the worse ones (arXiv 2309.02144).

Shapes: B pairs, K answers to one prompt.

A score s is an answer's log-prob per token. Rows of one prompt are one group: P are its chosen answers, N its rejected ones, each
once. A prompt with one row is the case P = N = 1. Every row has the loss of its whole group, so a prompt weighs as many times as it has
rows, as with other losses.

| loss | value of a group |
|---|---|
| `aft` | log(1 + sum over p, n of exp(s_n - s_p)) |
| `aft_dc` | the same with s_n held fixed: rejected answers have no gradient |
| `aft_bc` | log(1 + sum over p, n of [exp(s_n - s_p) + exp(T_p - s_n)]): rejected answers are pushed to the boundary B and no further |
| `aft_rank` | that of `aft_bc` over the pairs that the rows order, directly or through other rows |

B = min_p s_p - beta and T_p = 2 B - s_p, both without a gradient: else s_p would have one that is not meant. T_p is derived here from
the condition that s_n has no gradient at s_n = B, for any number of chosen answers. In `aft_rank`, each worse answer has a B of its own,
from the answers that are better than it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lifealign.training.loss_registry import Loss, Pairs
from lifealign.training.losses import ObjectiveConfig

Form = Literal["plain", "detached", "bounded"]
Order = Sequence[tuple[int, int]]
"""(better, worse) positions of answers."""


def group_loss(scores_K: Tensor, order: Order, form: Form, beta: float = 0.0) -> Tensor:
    """The loss of one group, a scalar; see the module.

    Args:
        scores_K: log-prob per token of each answer, nats, with gradient.
        order: the pairs that are summed over, >= 1.
        form: `plain` (aft), `detached` (aft_dc) or `bounded` (aft_bc, aft_rank).
        beta: distance of the boundary, of `bounded`. 0 <= beta.
    """
    better, worse = torch.tensor(order, device=scores_K.device).T
    above, below = scores_K[better], scores_K[worse]
    terms = [(below.detach() if form == "detached" else below) - above]
    if form == "bounded":
        fixed = scores_K.detach()
        least = torch.full_like(fixed, torch.inf).scatter_reduce(0, worse, fixed[better], "amin")
        terms.append(2 * (least[worse] - beta) - fixed[better] - below)
    return torch.logsumexp(torch.cat([scores_K.new_zeros(1), *terms]), 0)


def every_pair(rows: Sequence[tuple[int, int]]) -> Order:
    """Each chosen answer of the rows with each rejected one; an answer is never compared with itself."""
    chosen, rejected = (list(dict.fromkeys(side)) for side in zip(*rows, strict=True))
    return [(p, n) for p in chosen for n in rejected if p != n]


def ranked_pairs(rows: Sequence[tuple[int, int]]) -> Order:
    """The (better, worse) pairs of the rows, and those that follow: if a is better than b and b than c, a is better than c."""
    below: dict[int, dict[int, None]] = {}
    for better, worse in rows:
        below.setdefault(better, {})[worse] = None
    found = []
    for start in below:
        seen: dict[int, None] = {}
        open_ = list(below[start])
        while open_:
            seen[(at := open_.pop(0))] = None
            open_ += [n for n in below.get(at, ()) if n not in seen and n not in open_]
        found += [(start, n) for n in seen if n != start]
    return found


def aft_losses(pairs: Pairs, form: Form, beta: float = 0.0, ranked: bool = False) -> Tensor:
    """Loss [B] of pairs: each row's is that of the group of its prompt."""
    chosen_B = pairs.policy.chosen / pairs.lengths_chosen
    rejected_B = pairs.policy.rejected / pairs.lengths_rejected
    groups: dict[Hashable, list[int]] = {}
    for i in range(len(chosen_B)):
        groups.setdefault(tuple(pairs.prompts[i]) if pairs.prompts else i, []).append(i)
    losses: dict[int, Tensor] = {}
    for members in groups.values():
        scores: dict[Hashable, Tensor] = {}
        places: dict[Hashable, int] = {}
        rows = []
        for i in members:
            named = zip(("c", "r"), (chosen_B[i], rejected_B[i]), strict=True)
            keys = [tuple(a) for a in pairs.answers[i]] if pairs.answers else [(i, "c"), (i, "r")]
            for key, (_, score) in zip(keys, named, strict=True):
                scores.setdefault(key, score)
                places.setdefault(key, len(places))
            rows.append((places[keys[0]], places[keys[1]]))
        order = ranked_pairs(rows) if ranked else every_pair(rows)
        loss = group_loss(torch.stack(list(scores.values())), order, form, beta)
        losses |= dict.fromkeys(members, loss)
    return torch.stack([losses[i] for i in range(len(chosen_B))])


def _aft(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return aft_losses(pairs, "plain")


def _aft_dc(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return aft_losses(pairs, "detached")


def _aft_bc(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return aft_losses(pairs, "bounded", options.beta)


def _aft_rank(pairs: Pairs, options: ObjectiveConfig) -> Tensor:
    return aft_losses(pairs, "bounded", options.beta, ranked=True)


def _loss(function: object, reads_beta: bool) -> Loss:
    return Loss(function, False, frozenset(["rpo_alpha"]), reads_beta, by_prompt=True)  # type: ignore[arg-type]


AFT, AFT_DC = _loss(_aft, False), _loss(_aft_dc, False)
AFT_BC, AFT_RANK = _loss(_aft_bc, True), _loss(_aft_rank, True)
