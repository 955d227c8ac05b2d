"""Signatures of tasks: where a task's prompts lie in the base model's hidden space. PURE functions of tensors.

Shapes: N prompts, D features (`training.strategy.ModelView.features`), T tasks. All arithmetic is float64.

One distance serves ranking and routing: each feature is measured in units of its spread within a task, pooled over the
tasks (a diagonal Mahalanobis distance with one spread for all). With separate spreads, a broad task would attract every
prompt, and a narrow one, estimated from few rows, none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROMPTS = 256
"""Most training prompts of a task used for its signature."""
FLOOR = 1e-6
"""Least pooled variance of a feature, as a share of the mean over features: a constant one must not decide alone."""
WEIGHT_STEPS = 10
"""Routed weights are rounded to 1 / WEIGHT_STEPS, so that similar prompts are answered together."""


@dataclass(frozen=True)
class Signature:
    """Signature of one task.

    Attributes:
        centroid_D: mean of the features, float64.
        variance_D: mean squared deviation from it, per feature; 0 for a single prompt.
        count: prompts behind both.
    """

    centroid_D: Tensor
    variance_D: Tensor
    count: int


def make_signature(features_ND: Tensor) -> Signature:
    """Centroid and spread of a task's features, N >= 1."""
    features = features_ND.double()
    return Signature(features.mean(0), features.var(0, correction=0), features.shape[0])


def to_tensors(signatures: Mapping[str, Signature]) -> dict[str, Tensor]:
    """Named float32 tensors (and the count, int64) for a file, one group per task."""
    tensors: dict[str, Tensor] = {}
    for name, signature in signatures.items():
        tensors[f"{name}.centroid"] = signature.centroid_D.float()
        tensors[f"{name}.variance"] = signature.variance_D.float()
        tensors[f"{name}.count"] = torch.tensor([signature.count])
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Signature]:
    """Signatures of tasks from a file's tensors; the inverse of `to_tensors`."""
    names = [key.removesuffix(".centroid") for key in tensors if key.endswith(".centroid")]
    return {
        name: Signature(
            tensors[f"{name}.centroid"].double(),
            tensors[f"{name}.variance"].double(),
            int(tensors[f"{name}.count"]),
        )
        for name in names
    }


def pooled_variance(signatures: Sequence[Signature]) -> Tensor:
    """Variance within the tasks, [D] > 0: sum_t n_t var_t / sum_t n_t, with a small floor."""
    total = sum(s.count for s in signatures)
    pooled_D = torch.stack([s.variance_D * s.count for s in signatures]).sum(0) / total
    floor = FLOOR * float(pooled_D.mean())
    return pooled_D.clamp(min=floor) if floor else torch.ones_like(pooled_D)


def distances(features_ND: Tensor, signatures: Sequence[Signature]) -> Tensor:
    """D [N, T]: root of the mean over features of (x - centroid_t)^2 / pooled variance. 0 <= d; about 1 within a task."""
    variance_D = pooled_variance(signatures)
    centroids_TD = torch.stack([s.centroid_D for s in signatures])
    gaps_NTD = features_ND.double()[:, None] - centroids_TD
    return (gaps_NTD**2 / variance_D).mean(-1).sqrt()


def route(distances_NT: Tensor, temperature: float) -> Tensor:
    """Weights [N, T] in [0, 1] of the tasks' updates for each prompt.

    softmax_t(-d_t^2 / temperature), divided by its largest entry and rounded to tenths. The nearest task has weight 1.
    If all are equally near, all have weight 1, which is the stored model; if one is far nearer, it answers alone.

    Args:
        distances_NT: of `distances`.
        temperature: 0 < temperature. Smaller decides more sharply.
    """
    squared_NT = distances_NT**2
    weights = torch.exp((squared_NT.min(1, keepdim=True).values - squared_NT) / temperature)
    return torch.round(weights * WEIGHT_STEPS) / WEIGHT_STEPS
