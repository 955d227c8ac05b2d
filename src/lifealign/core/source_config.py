"""Where the rows of one split are, and how they are read: `SourceConfig` and the rule for pairs that it may name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lifealign.core.frozen import Frozen
from lifealign.core.reward_transform import Transform

BEST_WORST = "best-worst"
ALL_ABOVE = "all-above"


@dataclass(frozen=True)
class PairRule:
    """Which answers with scores make a pair.

    Attributes:
        which: `best-worst`: the best answer against the worst. `all-above`: every two answers.
        above: two answers make a pair only if their scores differ by more than this, and the row keeps the difference as
            its margin; None: any difference, and no margin.
    """

    which: Literal["best-worst", "all-above"] = "best-worst"
    above: float | None = None

    @classmethod
    def parse(cls, text: str) -> PairRule:
        """A rule from `best-worst`, `best-worst MARGIN` or `all-above MARGIN`.

        Raises:
            ValueError: it is none of these.
        """
        name, _, number = " ".join(text.split()).partition(" ")
        try:
            above = float(number) if number else None
        except ValueError:
            above = math.nan
        known = name == BEST_WORST or (name == ALL_ABOVE and above is not None)
        if not known or (above is not None and not (math.isfinite(above) and above >= 0)):
            raise ValueError(
                f"expected {BEST_WORST}, '{BEST_WORST} MARGIN' or '{ALL_ABOVE} MARGIN' with a margin of 0 or more"
            )
        return cls("all-above" if name == ALL_ABOVE else "best-worst", above)

    def __str__(self) -> str:
        return self.which if self.above is None else f"{self.which} {self.above:.12g}"


class SourceConfig(Frozen):
    """Source of the rows of one split."""

    _newer: ClassVar[frozenset[str]] = frozenset({"map", "pairs", "good_from", "bad_to", "reward_transform"})
    path: str
    """A json, jsonl, parquet or csv file, or a hub data set id."""
    recipe: str | None = None
    """Name of a recipe of `data.recipes` for the columns of a public data set; None: the documented formats of rows."""
    split: str = "train"
    """Split of a hub data set; a file has only `train`."""
    data_dir: str | None = None
    """Sub-folder of a hub data set."""
    map: Mapping[str, str] | None = Field(None, min_length=1)
    """New names of columns, given before the layout is recognised: `{prompt: instruction}` renames `instruction`."""
    pairs: str = BEST_WORST
    """Pairs of scored answers: `best-worst`, `best-worst MARGIN` or `all-above MARGIN`; a margin is kept with its row."""
    good_from: float | None = None
    """A number as a label, e.g. of stars, means a wanted answer from here on; None: only 1, 0 and -1 are labels."""
    bad_to: float | None = None
    """Such a number means an unwanted answer up to here; between, the row is left out. None: everything below `good_from`."""
    reward_transform: str | None = None
    """Transform of calibrated scores whose differences are margins, as `data.reward_transform`; None: as that."""

    @field_validator("pairs")
    @classmethod
    def _known_rule(cls, value: str) -> str:
        return str(PairRule.parse(value))

    @field_validator("reward_transform")
    @classmethod
    def _known_transform(cls, value: str | None) -> str | None:
        return None if value is None else str(Transform.parse(value))

    @model_validator(mode="after")
    def _good_is_above_bad(self) -> SourceConfig:
        if self.bad_to is not None and (self.good_from is None or self.bad_to >= self.good_from):
            good = "None" if self.good_from is None else f"{self.good_from:g}"
            raise ValueError(f"bad_to must be below good_from, got bad_to={self.bad_to:g} and good_from={good}")
        return self
