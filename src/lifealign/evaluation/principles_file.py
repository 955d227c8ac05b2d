"""Principles that two answers are compared by: rules and measures of a text, from a YAML file or built in; no torch.

principles:
  concise: {measure: words, better: lower, margin: 3}
  valid-json: {rule: data-json}
  our-tone: {rule: my_rules.py:friendly}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from lifealign.core.config import Frozen
from lifealign.core.config_files import explain, nearest, read_yaml, together
from lifealign.core.errors import UserError
from lifealign.core.json_codec import encode_json
from lifealign.data.suites.planted_rules import refuses
from lifealign.data.suites.rules import checker

_HEDGES = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|likely|usually|often|sometimes|seems?|appears?|I think|I believe|not sure)\b",
    re.IGNORECASE,
)
_POLITE = re.compile(r"\b(?:please|thanks?|thank you|sorry|welcome|happy to|glad to|of course|kindly)\b", re.IGNORECASE)
_ITEM = re.compile(r"(?:^|\n)\s*(?:[-*•]|\(?\d{1,2}[.):])\s+\S|(?<!\S)\(?\d{1,2}[.)]\s+\S")
TEXT_MEASURES: Mapping[str, Callable[[str], float]] = {
    "words": lambda text: float(len(text.split())),
    "hedges": lambda text: float(len(_HEDGES.findall(text))),
    "polite_words": lambda text: float(len(_POLITE.findall(text))),
    "list_items": lambda text: float(len(_ITEM.findall(text))),
    "questions": lambda text: float(text.count("?")),
    "exclamations": lambda text: float(text.count("!")),
    "refusal": lambda text: float(refuses(text)),
}
"""Name -> a number of one answer's text, for `measure` of a principle."""


class Principle(Frozen):
    """One principle: which of two answers it prefers, if any."""

    rule: str | None = None
    """A rule that an answer passes or not: a name, or path/to/file.py:Name. Instead of `measure`."""
    measure: str | None = None
    """A number of the answer's text: one of `TEXT_MEASURES`. Instead of `rule`."""
    better: Literal["higher", "lower"] = "higher"
    """Which way is preferred: an answer that passes the rule, or has more of the measure (higher), or the other one."""
    margin: float = Field(0.0, ge=0)
    """The principle decides only if the two answers differ by more than this. 0 <= margin."""

    @field_validator("measure")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in TEXT_MEASURES:
            raise ValueError(f"unknown measure{nearest(name, TEXT_MEASURES)}; allowed: {', '.join(TEXT_MEASURES)}")
        return name

    @field_validator("rule")
    @classmethod
    def _found(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                checker(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _one(self) -> Principle:
        if (self.rule is None) == (self.measure is None):
            raise ValueError("give exactly one of rule and measure")
        return self

    def prefers(self, first: str, second: str) -> int:
        """1 if it prefers the first of two texts, -1 the second, 0 neither."""
        score: Callable[[str], Any] = checker(self.rule) if self.rule else TEXT_MEASURES[str(self.measure)]
        gap = float(score(first)) - float(score(second))
        sign = (gap > 0) - (gap < 0) if abs(gap) > self.margin else 0
        return sign if self.better == "higher" else -sign


class Principles(Frozen):
    """A file of principles."""

    principles: dict[str, Principle]
    """Name -> principle; two or more, and names of lower-case letters, digits, - and _."""

    @field_validator("principles")
    @classmethod
    def _named(cls, found: dict[str, Principle]) -> dict[str, Principle]:
        if len(found) < 2:
            raise ValueError(f"expected two or more principles, got {len(found)}")
        if wrong := [name for name in found if re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) is None]:
            raise ValueError(f"the name {wrong[0]!r} cannot be used; use lower-case letters, digits, - and _")
        return found

    @property
    def sha256(self) -> str:
        """Checksum of the principles, wherever their file lies."""
        return hashlib.sha256(encode_json(self.model_dump(mode="json"))).hexdigest()


DEFAULT = Principles(
    principles={
        "concise": Principle(measure="words", better="lower", margin=3),
        "polite": Principle(measure="polite_words"),
        "hedged": Principle(measure="hedges"),
        "listed": Principle(measure="list_items"),
        "asking": Principle(measure="questions"),
        "refusing": Principle(measure="refusal"),
    }
)
"""The principles if no file names others."""


def read_principles(path: str | None) -> Principles:
    """The principles of a file; `DEFAULT` without one.

    Raises:
        ConfigError: the file cannot be read, or a principle of it cannot be used; lists every mistake.
    """
    if path is None:
        return DEFAULT
    tree = read_yaml(Path(path).expanduser())
    try:
        return Principles.model_validate(tree)
    except ValidationError as error:
        raise together(list(explain(error, path, Principles, ()))) from None
