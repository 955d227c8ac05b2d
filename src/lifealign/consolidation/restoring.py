"""Put single elements of earlier weights back, chosen by a gradient: the step of arXiv 2504.09757. Pure functions.

Shapes: a weight is a mapping from names to tensors of any shape; masks have the same names and shapes and are boolean. N
is the number of all elements. A is the earlier weight, B the present one. A mask tells where A is: everywhere else is B, so a
weight that is made of a mask has no value of a third kind.

The authors' script (kangyangWHU/LLMAlignment) takes every element from the k-th gradient on, so
that ties restore more than k; here exactly k are restored, and of equal gradients those that come first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
_EXCLUDED = re.compile(r"embed|norm|(^|\.)(ln_?\w*|wte|wpe|lm_head)(\.|$)", re.IGNORECASE)


def restorable(weights: Weights) -> list[str]:
    """Names of the weights whose elements may be put back: matrices, but no embeddings, normalisations or output layer."""
    return [name for name, tensor in weights.items() if tensor.ndim >= 2 and not _EXCLUDED.search(name)]


def count_of(rate: float, total: int) -> int:
    """Elements of one step: k = ceil(rate N), 0 < rate <= 1."""
    return min(total, math.ceil(rate * total))


def elements(weights: Weights, names: Iterable[str] | None = None) -> int:
    """Number of elements of the named weights; None: of all."""
    return sum(weights[name].numel() for name in (weights if names is None else names))


def nothing(weights: Weights) -> dict[str, Tensor]:
    """A mask that chooses no element."""
    return {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in weights.items()}


def mixed(mask: Weights, earlier: Weights, now: Weights) -> dict[str, Tensor]:
    """The weight that is A where the mask is true, and B elsewhere."""
    return {name: torch.where(mask[name], earlier[name], now[name]) for name in mask}


def choose(
    weights: Weights, targets: Weights, gradients: Weights, count: int, among: Weights | None = None
) -> dict[str, Tensor]:
    """Mask of the elements whose move to `targets` lowers a loss to first order, the largest gradients first.

    An element is eligible if sign(weight - target) == sign(gradient) and neither is 0: one that is at its target, or that the
    loss does not depend on, is left alone.

    Args:
        weights: as they are.
        targets: where a chosen element will be put.
        gradients: of the loss at `weights`.
        count: most elements to choose; fewer are chosen if fewer are eligible.
        among: a mask of the elements that may be chosen; None: all.
    """
    scores = {}
    for name, gradient in gradients.items():
        eligible = torch.sign(weights[name] - targets[name]) * torch.sign(gradient) > 0
        if among is not None:
            eligible &= among[name]
        scores[name] = torch.where(eligible, gradient.abs(), 0.0)
    return largest(scores, count)


def largest(scores: Weights, count: int) -> dict[str, Tensor]:
    """Mask of the `count` largest positive scores over all tensors; of equal ones at the threshold, the first."""
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    count = min(count, int((flat > 0).sum()))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    if count:
        threshold = flat.topk(count).values[-1]
        chosen = flat > threshold
        chosen[(flat == threshold).nonzero().reshape(-1)[: count - int(chosen.sum())]] = True
    parts = torch.split(chosen, [score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def moved(mask: Weights, earlier: Weights, now: Weights) -> float:
    """Euclidean norm of what a mask changes in B."""
    squares = [((earlier[n] - now[n])[m].double() ** 2).sum() for n, m in mask.items()]
    return float(torch.stack(squares).sum().sqrt())
