"""Configuration of the adapter."""

from __future__ import annotations

from pydantic import Field

from lifealign.core.frozen import Frozen


class LoraConfig(Frozen):
    """The adapter (one per memory or one per task, depending on the strategy); fixed when the memory is created."""

    r: int = Field(8, ge=1)
    """Rank. 1 <= r."""
    alpha: float = Field(16.0, gt=0)
    """Scale numerator: dW = (alpha / r) B A. 0 < alpha."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training. 0 <= dropout < 1."""
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """Names (suffixes) of the linear modules that get an adapter."""
