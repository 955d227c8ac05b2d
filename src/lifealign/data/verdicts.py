"""Rules that the user chooses for scores and labels: which answers make a pair, and which numbers mean "wanted".

Without a rule, the best of several answers is paired with the worst, and a number is a label only where it can mean one
thing (1 and 0, 1 and -1). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from lifealign.core.config_files import explain
from lifealign.core.errors import ConfigError
from lifealign.core.reward_transform import Transform
from lifealign.core.source_config import ALL_ABOVE, BEST_WORST, PairRule, SourceConfig
from lifealign.data.formats import Triple
from lifealign.data.turns import UnusableRowError

DIGITS = 9
"""Decimal places of a margin: 4.2 - 4.0 is 0.2, no more."""


def pairs_of(triple: Triple, rule: PairRule, transform: Transform | None = None) -> tuple[Triple, ...]:
    """The pairs of a record: one of the answers that it compares, or several.

    A record without scores is one pair, without a margin. With a transform a margin is of transformed calibrated scores.

    Raises:
        UnusableRowError: no two of its answers differ by more than the margin.
    """
    if triple.kind != "pair" or triple.scores is None or (rule.above is None and transform is None):
        return (triple,)
    if rule.above is None and triple.scores[0] <= triple.scores[1]:  # the scores say the opposite: no margin
        return (triple,)
    found = tuple(_pairs_above(triple, rule.which, rule.above or 0.0))
    if transform is not None:
        scores = [score for _, score in triple.ranking] or list(triple.scores)
        found = tuple(replace(one, margin=_transformed(transform, one, scores)) for one in found)
    if not found:
        raise UnusableRowError(f"no two scores differ by more than {rule.above:g}")
    return found


def _transformed(transform: Transform, pair: Triple, scores: Sequence[float]) -> float:
    assert pair.scores is not None
    return round(transform.margin(*pair.scores, scores), DIGITS)


def _pairs_above(triple: Triple, which: str, above: float) -> Iterator[Triple]:
    assert triple.scores is not None
    ranked = sorted(triple.ranking, key=lambda one: -one[1]) if which == ALL_ABOVE else ()
    compared = [(a, b) for place, a in enumerate(ranked) for b in ranked[place + 1 :]]
    for (chosen, high), (rejected, low) in compared or [
        ((triple.chosen, triple.scores[0]), (triple.rejected, triple.scores[1]))
    ]:
        margin = round(high - low, DIGITS)
        if margin > above:
            yield replace(triple, chosen=chosen, rejected=rejected, scores=(high, low), margin=margin, ranking=())


@dataclass(frozen=True)
class Rules:
    """All rules for one source.

    Attributes:
        pairs: of scored and ranked answers.
        good_from: a number as a label means a wanted answer from here on; None: no rule for such numbers.
        bad_to: up to here it means an unwanted answer; None: everything below `good_from` does.
        transform: of the calibrated scores whose differences are margins; None: margins are of the scores themselves.
    """

    pairs: PairRule = field(default_factory=PairRule)
    good_from: float | None = None
    bad_to: float | None = None
    transform: Transform | None = None

    @classmethod
    def of(cls, source: SourceConfig) -> Rules:
        """The rules of a source, which are checked already."""
        transform = None if source.reward_transform is None else Transform.parse(source.reward_transform)
        return cls(PairRule.parse(source.pairs), source.good_from, source.bad_to, transform)

    def lines(self) -> tuple[str, ...]:
        """The rules that are not the default, as text for reports."""
        found = [] if self.pairs == PairRule() else [f"pairs: {self.pairs}"]
        if self.transform is not None:
            found.append(f"margins: calibrated scores, transformed by {self.transform}")
        if self.good_from is not None:
            below = f"below {self.good_from:g}" if self.bad_to is None else f"up to {self.bad_to:g}"
            found.append(f"labels: good from {self.good_from:g}, bad {below}")
        return tuple(found)


def source_of(
    path: str,
    *,
    recipe: str | None = None,
    columns: Mapping[str, str] | None = None,
    pairs: str = BEST_WORST,
    good_from: float | None = None,
    bad_to: float | None = None,
    reward_transform: str | None = None,
) -> SourceConfig:
    """A source from the options of a command.

    Raises:
        ConfigError: a rule that is none, or rules that contradict each other.
    """
    try:
        return SourceConfig(
            path=path,
            recipe=recipe,
            map=columns or None,
            pairs=pairs,
            good_from=good_from,
            bad_to=bad_to,
            reward_transform=reward_transform,
        )
    except ValidationError as error:
        mistakes = (
            line.removeprefix(": (whole file): ").removeprefix(": ") for line in explain(error, "", SourceConfig, ())
        )
        raise ConfigError("\n".join(mistakes)) from None
