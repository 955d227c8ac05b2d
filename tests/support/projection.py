"""Small runs for the tests of gradient projection."""

from __future__ import annotations

import itertools

import numpy as np


def brute_force(gradient: np.ndarray, memory: np.ndarray, margin: float, eps: float) -> np.ndarray:
    """The programme by trying every set of multipliers at their bound; the best feasible one."""
    quadratic, linear = memory @ memory.T + eps * np.eye(len(memory)), memory @ gradient
    best, found = np.inf, gradient
    for bound in itertools.product([False, True], repeat=len(memory)):
        v = np.full(len(memory), margin)
        free = [i for i, b in enumerate(bound) if not b]
        held = [i for i, b in enumerate(bound) if b]
        if free:
            right = -linear[free] - quadratic[np.ix_(free, held)] @ v[held]
            v[free] = np.linalg.solve(quadratic[np.ix_(free, free)], right)
        value = 0.5 * v @ quadratic @ v + linear @ v
        if (v >= margin - 1e-12).all() and value < best:
            best, found = value, gradient + memory.T @ v
    return found
