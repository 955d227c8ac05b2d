"""Configuration of the adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from lifealign.core.frozen import Frozen

ALL_LINEAR = "all-linear"
"""Stands for every linear module that reads text, but for the vocabulary projection and routers."""

_ONE_SCALE = "every strategy adds up tasks' products B A under one rank and one scale"
REFUSED: Mapping[str, str] = {
    "dora": "its magnitudes divide by the norm of the whole weight, so the updates of several tasks cannot be added up",
    "rank_pattern": _ONE_SCALE,
    "alpha_pattern": _ONE_SCALE,
    "init": "pissa, olora and eva change the base weights or start from B that is not zero, and a memory is tied to its base",
    "modules_to_save": "it trains whole modules, which are no low-rank update and cannot be consolidated or withdrawn",
    "target_parameters": "an adapter goes on linear modules, not on single parameters such as fused experts",
}
"""Options of PEFT that are known and not taken -> the reason."""
ALIASES = {"use_dora": "dora", "init_lora_weights": "init"}


class LoraConfig(Frozen):
    """The adapter (one per memory or one per task, depending on the strategy); fixed when the memory is created."""

    _newer: ClassVar[frozenset[str]] = frozenset({"rslora"})
    r: int = Field(8, ge=1)
    """Rank. 1 <= r."""
    alpha: float = Field(16.0, gt=0)
    """Scale numerator: dW = (alpha / r) B A. 0 < alpha."""
    rslora: bool = False
    """Rank-stabilised scale (arXiv 2312.03732): dW = (alpha / sqrt(r)) B A."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training. 0 <= dropout < 1."""
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """Names (suffixes) of the linear modules that get an adapter, or `all-linear`."""

    @property
    def numerator(self) -> float:
        """The alpha of an equal adapter with the usual scale, alpha / r; what an exported adapter has."""
        return self.alpha * math.sqrt(self.r) if self.rslora else self.alpha

    @property
    def scale(self) -> float:
        """Factor of B A in dW."""
        return self.numerator / self.r

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        return (value,) if value == ALL_LINEAR else value

    @field_validator("target_modules")
    @classmethod
    def _all_or_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if ALL_LINEAR in value and len(value) > 1:
            raise ValueError(f"{ALL_LINEAR} stands for all linear modules; give it alone, or names without it")
        return value

    @model_validator(mode="before")
    @classmethod
    def _known_but_not_taken(cls, values: Any) -> Any:
        for key in map(str, values if isinstance(values, Mapping) else ()):
            if (reason := REFUSED.get(ALIASES.get(key, key))) is not None:
                raise ValueError(f"{key} is not supported: {reason}; remove it")
        return values
