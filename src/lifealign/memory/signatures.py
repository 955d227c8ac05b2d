"""Signatures of tasks: where a task's prompts lie in the base model's hidden space. PURE functions of tensors.

Shapes: N prompts, D features (`training.strategy.ModelView.features`), T tasks, K directions. All arithmetic is float64.

One distance serves ranking and routing: a Mahalanobis distance with one covariance for all tasks, pooled within them, as
in linear discriminant analysis. With separate covariances, a broad task would attract every prompt, and a narrow one,
estimated from few rows, none. The covariance is shrunk towards its diagonal, because prompts are fewer than features; a
task keeps its strongest directions instead of the whole matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PROMPTS = 256
"""Most training prompts of a task used for its signature."""
DIRECTIONS = 64
"""Most directions of a task's spread that are kept beside its variances."""
CHECKS = 64
"""Most validation prompts of a task whose features are kept to calibrate routing."""
DEPTH = 0.5
"""Depth of the hidden states that new memories read, as a share of the layers; 1.0 in older ones. See docs/explanation/routing.md."""
FLOOR = 1e-6
"""Least pooled variance of a feature, as a share of the mean over features: a constant one must not decide alone."""
SHRINK = 0.2
"""Share of the diagonal in the pooled correlation of the features."""
MISSED = 0.02
"""Share of the validation prompts whose own task may be missing among the chosen ones."""
LEAST = 0.05
"""Probability from which a task is chosen, if the validation prompts do not ask for less."""
TEMPERATURE = 0.05
"""Temperature of the probabilities where no held-out prompt is there to choose it; five times the one chosen on our suites."""
HELD_BACK = 4
"""One in so many training prompts is kept out of the signature of a task without validation rows."""


@dataclass(frozen=True)
class Signature:
    """Signature of one task.

    Attributes:
        centroid_D: mean of the features, float64.
        variance_D: mean squared deviation from it, per feature; 0 for a single prompt.
        count: prompts behind both.
        directions_KD: rows whose outer products add up to the strongest part of the covariance; none in older memories.
        checks_MD: features of validation prompts; none in older memories, or if the task has no validation rows.
        depth: of the hidden states, a share of the layers.
    """

    centroid_D: Tensor
    variance_D: Tensor
    count: int
    directions_KD: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    checks_MD: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    depth: float = 1.0


def make_signature(features_ND: Tensor, checks_MD: Tensor | None = None, depth: float = 1.0) -> Signature:
    """Centroid and spread of a task's features, N >= 1.

    Args:
        features_ND: of training prompts.
        checks_MD: of validation prompts; None: there are none.
        depth: of the hidden states behind both.
    """
    features = features_ND.double()
    centroid_D = features.mean(0)
    gaps_ND = (features - centroid_D) / math.sqrt(features.shape[0])
    _, singular, directions = torch.linalg.svd(gaps_ND, full_matrices=False)
    kept = int((singular > 1e-6 * max(float(singular[0]), 1e-12)).sum().clamp(max=DIRECTIONS))
    checks = torch.zeros(0, features.shape[1]) if checks_MD is None else checks_MD[:CHECKS]
    return Signature(
        centroid_D,
        features.var(0, correction=0),
        features.shape[0],
        singular[:kept, None] * directions[:kept],
        checks.double(),
        depth,
    )


def held_back(features_ND: Tensor) -> tuple[Tensor, Tensor | None]:
    """The features for a signature, and the last quarter of them to calibrate on; None if there are fewer than eight.

    A prompt that shaped the signature lies too near to it: the directions fit its own deviation.
    """
    count = min(features_ND.shape[0] // HELD_BACK, CHECKS)
    if count < 2:
        return features_ND, None
    return features_ND[:-count], features_ND[-count:]


def to_tensors(signatures: Mapping[str, Signature]) -> dict[str, Tensor]:
    """Named float32 tensors (and the count, int64) for a file, one group per task."""
    tensors: dict[str, Tensor] = {}
    for name, signature in signatures.items():
        tensors[f"{name}.centroid"] = signature.centroid_D.float()
        tensors[f"{name}.variance"] = signature.variance_D.float()
        tensors[f"{name}.count"] = torch.tensor([signature.count])
        tensors[f"{name}.directions"] = signature.directions_KD.float().contiguous()
        tensors[f"{name}.checks"] = signature.checks_MD.float().contiguous()
        tensors[f"{name}.depth"] = torch.tensor([signature.depth], dtype=torch.float32)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Signature]:
    """Signatures of tasks from a file's tensors; the inverse of `to_tensors`. Older files have the first three alone."""
    names = [key.removesuffix(".centroid") for key in tensors if key.endswith(".centroid")]
    found = {}
    for name in names:
        centroid_D = tensors[f"{name}.centroid"].double()
        nothing = torch.zeros(0, centroid_D.shape[0])
        found[name] = Signature(
            centroid_D,
            tensors[f"{name}.variance"].double(),
            int(tensors[f"{name}.count"]),
            tensors.get(f"{name}.directions", nothing).double(),
            tensors.get(f"{name}.checks", nothing).double(),
            float(tensors.get(f"{name}.depth", torch.ones(1))),
        )
    return found


def pooled_variance(signatures: Sequence[Signature]) -> Tensor:
    """Variance within the tasks, [D] > 0: sum_t n_t var_t / sum_t n_t, with a small floor."""
    total = sum(s.count for s in signatures)
    pooled_D = torch.stack([s.variance_D * s.count for s in signatures]).sum(0) / total
    floor = FLOOR * float(pooled_D.mean())
    return pooled_D.clamp(min=floor) if floor else torch.ones_like(pooled_D)


def distances(features_ND: Tensor, signatures: Sequence[Signature]) -> Tensor:
    """D [N, T]: sqrt(a g^T R^-1 g / D) with g = (x - centroid_t) / sqrt(pooled variance) and R = (1 - a) C + a I.

    C is the part of the pooled correlation that the directions span, and a = `SHRINK`. Without directions R is a I, and
    the distance the root of the mean of g^2.
    """
    scale_D = pooled_variance(signatures).sqrt()
    gaps_NTD = (features_ND.double()[:, None] - torch.stack([s.centroid_D for s in signatures])) / scale_D
    squared_NT = (gaps_NTD**2).sum(-1)
    total = sum(s.count for s in signatures)
    spread = [s.directions_KD * math.sqrt(s.count / total) for s in signatures if s.directions_KD.numel()]
    if spread:
        # Woodbury: a R^-1 = I - sum_k w_k v_k v_k^T, with w = (1 - a) s^2 / ((1 - a) s^2 + a).
        _, singular, v_KD = torch.linalg.svd(torch.cat(spread) / scale_D, full_matrices=False)
        strength = (1 - SHRINK) * singular**2
        squared_NT = squared_NT - ((gaps_NTD @ v_KD.T) ** 2 @ (strength / (strength + SHRINK)))
    return (squared_NT.clamp(min=0) / scale_D.shape[0]).sqrt()


@dataclass(frozen=True)
class Calibration:
    """How sure routing may be, learnt from the tasks' validation prompts.

    Attributes:
        temperature: of the probabilities softmax_t(-d_t^2 / temperature).
        least: probability from which a task is chosen.
        farthest: largest distance of a validation prompt from its own task; a prompt farther from all tasks belongs to none. Infinite
            if the prompts are too few for that to miss at most a share `MISSED`: fewer than 49.
        prompts: validation prompts behind these; 0: none, so that no prompt is ever unknown.
        nearest: share of them whose nearest task is their own; NaN without any.
    """

    temperature: float
    least: float
    farthest: float
    prompts: int
    nearest: float


def calibrate(signatures: Sequence[Signature]) -> Calibration:
    """Choose temperature, least probability and farthest distance on the validation prompts of the tasks themselves.

    The temperature is the one of a fixed grid under which the prompts' own tasks are likeliest. The least probability is
    at most `LEAST`, and so small that at most a share `MISSED` of such prompts misses its own task (split conformal
    prediction: Vovk et al., Algorithmic Learning in a Random World, 2005; scores 1 - p as in Sadinle et al., 2019).
    """
    own = [(t, s.checks_MD) for t, s in enumerate(signatures) if s.checks_MD.numel()]
    if not own:
        return Calibration(TEMPERATURE, LEAST, math.inf, 0, math.nan)
    gaps_MT = distances(torch.cat([checks for _, checks in own]), signatures)
    owner_M = torch.cat([torch.full((len(checks),), t) for t, checks in own])
    own_M = gaps_MT.gather(1, owner_M[:, None])[:, 0]
    grid = [0.01 * 2**i for i in range(12)]
    logs = [torch.log_softmax(-(gaps_MT**2) / t, 1).gather(1, owner_M[:, None])[:, 0] for t in grid]
    best = max(range(len(grid)), key=lambda i: float(logs[i].mean()))
    likely = logs[best].exp().sort().values
    missed = math.floor(MISSED * (len(likely) + 1))
    least = min(LEAST, float(likely[missed]) if missed < len(likely) else 0.0)
    nearest = float((gaps_MT.argmin(1) == owner_M).double().mean())
    # The next prompt of a task is farther than all n of these with probability 1 / (n + 1).
    farthest = float(own_M.max()) if MISSED * (len(likely) + 1) >= 1 else math.inf
    return Calibration(grid[best], least, farthest, len(likely), nearest)


def chosen(distances_NT: Tensor, calibration: Calibration) -> Tensor:
    """The tasks that each prompt may belong to, bool [N, T]; none for a prompt that belongs to no task.

    Args:
        distances_NT: of `distances`.
        calibration: of the same tasks.
    """
    likely_NT = torch.softmax(-(distances_NT**2) / calibration.temperature, 1)
    nearest_NT = torch.zeros_like(likely_NT, dtype=torch.bool).scatter(1, distances_NT.argmin(1, keepdim=True), True)
    known_N1 = distances_NT.min(1, keepdim=True).values <= calibration.farthest
    return ((likely_NT >= calibration.least) | nearest_NT) & known_N1
