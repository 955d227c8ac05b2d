"""Short-to-long memory consolidation, merging and composing: pure functions of updates."""

from __future__ import annotations

from lifealign.consolidation.adapter import Consolidated, consolidate
from lifealign.consolidation.subspace import Denoised, SubspaceBasis, denoise

__all__ = ["Consolidated", "Denoised", "SubspaceBasis", "consolidate", "denoise"]
