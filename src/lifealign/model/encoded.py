"""What encoding makes of rows: their ids, and a report on those that it cut, changed or left out."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Reasoning = Literal["train", "mask", "drop"]
"""Use of the reasoning in answers, `data.reasoning`."""

BOUNDARY = "no token boundary separates prompt and answers, or the answers are equal within data.max_length"
NOT_WHOLE = "the model's chat template does not write the whole answer"
CUT_REASONING = (
    "the model's chat template cuts the reasoning out of an answer; data.reasoning=drop learns the answers without it"
)
MIXED = (
    "one answer has reasoning, and the model's chat template shows no way to begin the other one without; "
    "data.reasoning=drop learns both without"
)
USES = {"train": "trained", "mask": "read, but not trained", "drop": "left out"}
"""What becomes of reasoning, by `data.reasoning`."""
EMPTY = "an answer is empty without its reasoning"
NO_ROOM = "the reasoning of an answer leaves no room for the rest of it within data.max_length"


@dataclass(frozen=True)
class Sides:
    """A row as ids, not cut.

    Attributes:
        prompt: ids of the prompt.
        answers: ids of the chosen and the rejected answer.
        context: number of ids at the beginning of each answer that are not trained.
        reasons: an answer has reasoning.
        part: the template leaves a part of the prompt out.
    """

    prompt: array[int]
    answers: tuple[array[int], array[int]]
    context: tuple[int, int]
    reasons: bool
    part: bool


@dataclass(frozen=True)
class EncodingReport:
    """Rows of one task that encoding cut, changed or left out; each value lists their sources (``file:row``).

    Attributes:
        cut: at least one answer was cut at `max_length`.
        long_prompt: left out, the prompt leaves no room for an answer.
        boundary: left out, no token boundary between prompt and answer, EOS inside the answer, or answers that were cut to
            the same tokens.
        refused: reason -> left out because of the template or an answer's reasoning.
        part: the template leaves a part of the prompt out, e.g. a system text; the rows are kept.
        reasoning: an answer has reasoning.
        use: of that reasoning, `data.reasoning`.
    """

    cut: tuple[str, ...] = ()
    long_prompt: tuple[str, ...] = ()
    boundary: tuple[str, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    part: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    use: Reasoning = "train"

    def lines(self, what: str) -> list[str]:
        """Lines for people about the cut and left-out rows of `what`; empty if every row is whole."""
        causes = {
            "an answer was cut at data.max_length": self.cut,
            "left out because the prompt leaves no room for an answer": self.long_prompt,
            f"left out because {BOUNDARY}": self.boundary,
            **{f"left out because {reason}": rows for reason, rows in self.refused.items()},
            "kept, but the model's chat template leaves out a part of the prompt": self.part,
            f"an answer has reasoning, which is {USES[self.use]} (data.reasoning={self.use})": self.reasoning,
        }
        return [
            f"{what}: {len(rows)} row{'s' * (len(rows) > 1)}: {cause} ({rows[0]}{', ...' * (len(rows) > 1)})"
            for cause, rows in causes.items()
            if rows
        ]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; causes that only some templates and rows have are there only with rows."""
        plain: dict[str, Any] = {
            "cut": list(self.cut),
            "long_prompt": list(self.long_prompt),
            "boundary": list(self.boundary),
        }
        if self.refused:
            plain["refused"] = {reason: list(rows) for reason, rows in self.refused.items()}
        if self.part:
            plain["part"] = list(self.part)
        if self.reasoning:
            plain["reasoning"] = {self.use: list(self.reasoning)}
        return plain


@dataclass
class Tally:
    """An `EncodingReport` in the making."""

    cut: list[str] = field(default_factory=list)
    long_prompt: list[str] = field(default_factory=list)
    boundary: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    part: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, source: str) -> None:
        """Count a row that is left out."""
        (self.boundary if reason == BOUNDARY else self.refused.setdefault(reason, [])).append(source)

    def keep(self, source: str, *, cut: bool, part: bool, reasons: bool) -> None:
        """Count a row that is kept, under each of these that holds."""
        for there, sources in ((cut, self.cut), (part, self.part), (reasons, self.reasoning)):
            sources += [source] * there

    def report(self, use: Reasoning) -> EncodingReport:
        """What was counted; `use` is `data.reasoning`."""
        refused = {reason: tuple(sources) for reason, sources in self.refused.items()}
        return EncodingReport(
            tuple(self.cut),
            tuple(self.long_prompt),
            tuple(self.boundary),
            refused,
            tuple(self.part),
            tuple(self.reasoning),
            use,
        )
