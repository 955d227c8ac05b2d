"""Options of `recover`, checked; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lifealign.core.errors import ConfigError

EVERY = 5
"""Steps between two saved states."""
BATCH = 16
"""Prompts of one forward."""
PROMPTS = 64
"""Most prompts of a task that are used."""
CHECKED = 40
"""Most validation rows that the newest task is checked on."""


@dataclass(frozen=True)
class RecoverOptions:
    """How to recover a task (arXiv 2504.09757).

    Attributes:
        rate: share of the elements that a step puts back. 0 < rate <= 1.
        steps: 1 <= steps.
        warm_up: steps before the newest task is checked. 0 <= warm_up.
        rollback_share: share of a step's elements that is taken back, once steps are taken back at all. 0 <= rollback_share < 1.
        allowed_drop: how much the newest task may lose, as a share of what it had. 0 <= allowed_drop <= 1.
        accumulate: let the gradients add up over the steps, as the paper's script does.
        layer: layers whose output is compared; None: floor(4/6 of them). 1 <= layer.
        seed: of the order of the prompts; None: the memory's.

    Raises:
        ConfigError: a value out of its range; names the option.
    """

    rate: float = 0.002
    steps: int = 20
    warm_up: int = 5
    rollback_share: float = 0.2
    allowed_drop: float = 0.05
    accumulate: bool = False
    layer: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, allowed, holds in (
            ("rate", "0 < rate <= 1", 0 < self.rate <= 1),
            ("steps", "1 <= steps", self.steps >= 1),
            ("warm_up", "0 <= warm_up", self.warm_up >= 0),
            ("rollback_share", "0 <= rollback_share < 1", 0 <= self.rollback_share < 1),
            ("allowed_drop", "0 <= allowed_drop <= 1", 0 <= self.allowed_drop <= 1),
            ("layer", "1 <= layer", self.layer is None or self.layer >= 1),
        ):
            if not holds:
                raise ConfigError(f"{name.replace('_', '-')}={getattr(self, name)}: allowed: {allowed}")


Space = Literal["adapter", "merged"]
SPACES: tuple[Space, ...] = ("adapter", "merged")


def checked_space(space: str, out: object) -> Space:
    """The space, with a folder if it needs one.

    Raises:
        ConfigError: no such space, or the space and the folder do not belong together.
    """
    if space == "merged" and out is None:
        raise ConfigError(
            "space merged writes a model, because its result is no LoRA of the memory's rank; give --out DIR"
        )
    if space == "adapter" and out is not None:
        raise ConfigError(
            f"--out {out} is for --space merged; space adapter makes a commit, which lifealign export writes"
        )
    if space not in SPACES:
        raise ConfigError(f"space {space!r}: allowed: {', '.join(SPACES)}")
    return space
