"""Shared by methods that pull each weight back to where the last task left it, as strongly as it mattered."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weighted_distance(
    parameters: Mapping[str, nn.Parameter], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]
) -> Tensor:
    """sum_i w_i (theta_i - theta*_i)^2 over all entries of all parameters; a scalar with a graph.

    Args:
        parameters: theta by name.
        anchor: theta*, the same names and shapes.
        importance: w, the same names and shapes, >= 0 (a negative one would push away without bound).
    """
    parts = [
        (importance[name].to(p.device) * (p - anchor[name].to(p.device)) ** 2).sum() for name, p in parameters.items()
    ]
    return torch.stack(parts).sum()
