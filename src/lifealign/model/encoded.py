"""What encoding makes of rows: their ids, and a report on those that it cut, changed or left out."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lifealign.data.tasks import RowKind

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
class EncodedPair:
    """One row as token ids. `prompt` holds at least one id, each answer that the row's kind has at least one.

    Attributes:
        prompt: ids of the rendered prompt, BOS included where the template or tokenizer has one.
        chosen: ids of the preferred answer, ending with EOS unless it was cut.
        rejected: ids of the other answer, ending with EOS unless it was cut.
        chosen_cut: the chosen answer was cut at `max_length`, so its EOS is not trained.
        rejected_cut: the rejected answer was cut at `max_length`, so its EOS is not trained.
        digest: content of the row (`Row.digest`).
        chosen_context: number of ids that the chosen answer begins with and that are neither trained nor scored (reasoning
            with `data.reasoning=mask`); less than its length.
        rejected_context: the same of the rejected answer.
        kind: of the row; an answer that it lacks is empty, and its log-prob is 0.
        gap: the row's `margin`, 0 if it has none.
        position: of the row among those that were encoded together.
        opening: number of ids that all prompts encoded together begin with. Every packed row branches there at the
            latest, even a row of one pair: in half precision, the place where a prompt is cut changes how attention
            rounds, and a pair must round the same way in every row. Otherwise a policy equal to its reference would have
            a margin.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_cut: bool
    rejected_cut: bool
    digest: str
    position: int = field(default=0, compare=False)
    opening: int = field(default=0, compare=False)
    chosen_context: int = 0
    rejected_context: int = 0
    kind: RowKind = "pair"
    gap: float = 0.0

    @property
    def chosen_tokens(self) -> int:
        """Number of the chosen answer's tokens that are trained and scored."""
        return len(self.chosen) - self.chosen_context

    @property
    def rejected_tokens(self) -> int:
        """Number of the rejected answer's tokens that are trained and scored."""
        return len(self.rejected) - self.rejected_context


@dataclass(frozen=True)
class Sides:
    """A row as ids, not cut.

    Attributes:
        prompt: ids of the prompt.
        answers: ids of the chosen and the rejected answer; empty for one that the row's kind lacks.
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
