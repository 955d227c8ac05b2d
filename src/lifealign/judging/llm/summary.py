"""Summary of judgements, for each judge and for the panel: PURE functions. Imports no torch.

An unscored judgement is neither a score of zero nor a tie. It is left out of means and rates, and counted beside them with
its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifealign.evaluation.metrics import Interval, mean_interval
from lifealign.judging.agreement import Level, krippendorff_alpha
from lifealign.judging.llm.config import PANEL
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.llm.reply import REASONS
from lifealign.judging.win_rate import length_controlled_win_rate, win_rate

ALL = "all"
"""Name of the rows over all tasks, in place of a task."""
_REASONS: Mapping[str, str] = {str(name): text for name, text in REASONS.items()}
_OUTCOME = {"a": 1.0, "b": 0.0, "tie": 0.5}

Row = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """Tables of plain values.

    Attributes:
        judgements: number of judgements.
        scored: number with a verdict.
        unscored: reason -> number.
        examples: reason -> what came instead of a verdict, in the first judgement with this reason.
        absolute: one row for each judge, source and task.
        pairwise: one row for each judge, source, baseline and task.
        agreement: mode -> Krippendorff's alpha of a panel's judges, over scores as numbers or winners as names.
    """

    judgements: int
    scored: int
    unscored: Mapping[str, int]
    examples: Mapping[str, str]
    absolute: Sequence[Row]
    pairwise: Sequence[Row]
    agreement: Mapping[str, Row]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Tables for people."""
        lines = []
        if self.absolute:
            paper = "paper" in self.absolute[0]
            head = ["judge", "answers of", "task", "scored", "score", "95% interval", *(["paper"] if paper else [])]
            lines += _table(head, [_absolute_cells(row, paper) for row in self.absolute])
        if self.pairwise:
            head = ["judge", "answers of", "against", "task", "pairs", "win rate", "95% interval"]
            head += ["length-controlled", "95% interval", "orders agree", "first shown wins"]
            lines += _table(head, [_pairwise_cells(row) for row in self.pairwise])
        for mode, alpha in self.agreement.items():
            value, limits = _cells(alpha, 2)
            lines.append(f"agreement of the judges, {mode}: Krippendorff's alpha {value} ({limits})")
        return [*lines, *self.counts()]

    def counts(self) -> list[str]:
        """Number of judgements scored, and the reasons of the others with one example each."""
        lines = [f"scored: {self.scored} of {self.judgements} judgements"]
        for reason, count in self.unscored.items():
            example = self.examples.get(reason)
            shown = f", e.g. {example}" if example else ""
            lines.append(f"unscored: {count} {reason} ({_REASONS[reason]}){shown}")
        return lines


def summarise(judgements: Sequence[Judgement], *, paper: bool = False) -> Summary:
    """Make all tables of a file of judgements.

    Args:
        judgements: the judgements, in any order.
        paper: also give the paper's score, the mean of absolute scores times 10.
    """
    reasons = Counter(one.unscored for one in judgements if one.unscored is not None)
    absolute = [one for one in judgements if one.mode == "absolute"]
    pairs = _pairs([one for one in judgements if one.mode == "pairwise"])
    judges = list(dict.fromkeys(one.judge for one in judgements))
    scores = [_Score(one.judge, _who(one), one.task, one.id, _float(one.score), one.unscored) for one in absolute]
    agreement = _agreement(scores, pairs) if len(judges) > 1 else {}
    if len(judges) > 1:
        scores += _panel_scores(scores, len(judges))
        pairs += _panel_pairs(pairs, len(judges))
    return Summary(
        judgements=len(judgements),
        scored=len(judgements) - reasons.total(),
        unscored=dict(reasons.most_common()),
        examples={one.unscored: one.detail for one in reversed(judgements) if one.unscored is not None and one.detail},
        absolute=[_absolute_row(key, group, paper) for key, group in _groups(scores, lambda s: (s.judge, s.who))],
        agreement=agreement,
        pairwise=[_pairwise_row(key, group) for key, group in _groups(pairs, lambda p: (p.judge, p.who, p.against))],
    )


def _who(one: Judgement) -> str:
    return f"{one.source}@{one.point}"


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


# --- absolute ---


@dataclass(frozen=True)
class _Score:
    judge: str
    who: str
    task: str
    id: str
    score: float | None
    reason: str | None


def _panel_scores(scores: Sequence[_Score], judges: int) -> list[_Score]:
    """Each answer's mean over the judges, if all of them scored it."""
    by_id: dict[str, list[_Score]] = {}
    for one in scores:
        by_id.setdefault(one.id, []).append(one)
    found = []
    for group in by_id.values():
        values = [one.score for one in group if one.score is not None]
        whole = len(values) == judges
        reason = None if whole else "a judge's score is missing"
        mean = sum(values) / judges if whole else None
        found.append(_Score(PANEL, group[0].who, group[0].task, group[0].id, mean, reason))
    return found


def _absolute_row(key: tuple[str, ...], scores: Sequence[_Score], paper: bool) -> Row:
    judge, who, task = key
    values = [one.score for one in scores if one.score is not None]
    row: Row = {
        "judge": judge,
        "answers_of": who,
        "task": task,
        "answers": len(scores),
        "scored": len(values),
        "unscored": dict(Counter(one.reason for one in scores if one.reason is not None)),
        "score": _interval(mean_interval(values), len(values)),
    }
    if paper:
        row["paper"] = 10 * row["score"]["value"]
    return row


# --- pairwise ---


@dataclass(frozen=True)
class _Pair:
    """Both orders of one pair, by one judge.

    Attributes:
        verdicts: winner (a, b, tie; None: unscored) with ours shown first, and with ours shown second.
        outcome: 1 won, 0 lost, 0.5 tie or two orders that contradict each other; None: an order is unscored.
    """

    judge: str
    who: str
    against: str
    task: str
    id: str
    other: str
    verdicts: tuple[str | None, str | None]
    outcome: float | None
    reason: str | None
    lengths: tuple[int, int]

    @property
    def agree(self) -> bool:
        return self.verdicts[0] == self.verdicts[1]


def _pairs(judgements: Sequence[Judgement]) -> list[_Pair]:
    orders: dict[tuple[str, str, str], dict[bool, Judgement]] = {}
    for one in judgements:
        orders.setdefault((one.judge, one.id, one.other or ""), {})[one.swapped] = one
    pairs = []
    for both in orders.values():
        some = next(iter(both.values()))
        plain = both[False].winner if False in both else None
        swapped = both[True].winner if True in both else None
        verdicts = (plain, swapped)
        reason = next(
            (v.unscored for v in both.values() if v.unscored), None if len(both) == 2 else "an order is missing"
        )
        outcome = None
        if reason is None:
            outcome = _OUTCOME[str(verdicts[0])] if verdicts[0] == verdicts[1] else 0.5
        lengths = (some.lengths[0], some.lengths[1]) if len(some.lengths) == 2 else (0, 0)
        pairs.append(
            _Pair(
                some.judge,
                _who(some),
                some.against or "",
                some.task,
                some.id,
                some.other or "",
                verdicts,
                outcome,
                reason,
                lengths,
            )
        )
    return pairs


def _panel_pairs(pairs: Sequence[_Pair], judges: int) -> list[_Pair]:
    """The majority of the judges on each pair; a tie without a majority."""
    by_pair: dict[tuple[str, str], list[_Pair]] = {}
    for one in pairs:
        by_pair.setdefault((one.id, one.other), []).append(one)
    found = []
    for group in by_pair.values():
        some = group[0]
        outcomes = [one.outcome for one in group if one.outcome is not None]
        whole = len(outcomes) == judges
        lead = sum(outcome - 0.5 for outcome in outcomes)
        outcome = (0.5 if lead == 0 else float(lead > 0)) if whole else None
        reason = None if whole else "a judge's verdict is missing"
        found.append(
            _Pair(
                PANEL,
                some.who,
                some.against,
                some.task,
                some.id,
                some.other,
                (None, None),
                outcome,
                reason,
                some.lengths,
            )
        )
    return found


def _pairwise_row(key: tuple[str, ...], pairs: Sequence[_Pair]) -> Row:
    judge, who, against, task = key
    scored = [(one, one.outcome) for one in pairs if one.outcome is not None]
    outcomes = [outcome for _, outcome in scored]
    controlled = length_controlled_win_rate(
        outcomes, [one.lengths[0] for one, _ in scored], [one.lengths[1] for one, _ in scored]
    )
    # Which side was shown first won: `a` in the plain order, `b` in the swapped one.
    firsts = [
        verdict == first
        for one, _ in scored
        for verdict, first in zip(one.verdicts, ("a", "b"), strict=True)
        if verdict in ("a", "b")
    ]
    panel = judge == PANEL
    return {
        "judge": judge,
        "answers_of": who,
        "against": against,
        "task": task,
        "pairs": len(pairs),
        "scored": len(scored),
        "unscored": dict(Counter(one.reason for one in pairs if one.reason is not None)),
        "wins": outcomes.count(1.0),
        "ties": outcomes.count(0.5),
        "losses": outcomes.count(0.0),
        "win_rate": _interval(win_rate(outcomes), len(scored)),
        "length_controlled": _interval(controlled, len(scored)),
        "orders_agree": None if panel else _percent([one.agree for one, _ in scored]),
        "first_wins": None if panel else _percent(firsts),
    }


# --- both ---


def _agreement(scores: Sequence[_Score], pairs: Sequence[_Pair]) -> dict[str, Row]:
    """Krippendorff's alpha of the judges; a judge without a verdict on an item is left out of that item."""
    said: dict[str, tuple[Level, dict[str, dict[Any, float | None]]]] = {}
    if scores:
        said["absolute"] = ("interval", {})
    if pairs:
        said["pairwise"] = ("nominal", {})
    for score in scores:
        said["absolute"][1].setdefault(score.judge, {})[score.id] = score.score
    for pair in pairs:
        said["pairwise"][1].setdefault(pair.judge, {})[pair.id, pair.other] = pair.outcome
    found = {}
    for mode, (level, by_judge) in said.items():
        items = list(dict.fromkeys(item for values in by_judge.values() for item in values))
        table = [[values.get(item) for item in items] for values in by_judge.values()]
        rows = [[float("nan") if value is None else value for value in row] for row in table]
        found[mode] = _interval(krippendorff_alpha(rows, level), len(items))
    return found


def _groups(items: Iterable[Any], key: Callable[[Any], tuple[str, ...]]) -> list[tuple[tuple[str, ...], list[Any]]]:
    """Items by key and task; after a key's tasks, all of them together if there are several."""
    groups: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    for item in items:
        groups.setdefault(key(item), {}).setdefault(item.task, []).append(item)
    found = []
    for name, tasks in groups.items():
        found += [((*name, task), group) for task, group in tasks.items()]
        if len(tasks) > 1:
            found.append(((*name, ALL), [item for group in tasks.values() for item in group]))
    return found


def _percent(hits: Sequence[bool]) -> float | None:
    return 100 * sum(hits) / len(hits) if hits else None


def _interval(found: Interval, count: int) -> dict[str, float]:
    """Plain values; a single value has no interval, because all its resamples are the same."""
    return dict((found if count > 1 else Interval(found.value, float("nan"), float("nan")))._asdict())


def _absolute_cells(row: Row, paper: bool) -> list[str]:
    cells = [
        row["judge"],
        row["answers_of"],
        row["task"],
        f"{row['scored']}/{row['answers']}",
        *_cells(row["score"], 2),
    ]
    return [*cells, _cell(row["paper"], 1)] if paper else cells


def _pairwise_cells(row: Row) -> list[str]:
    cells = [row["judge"], row["answers_of"], row["against"], row["task"], f"{row['scored']}/{row['pairs']}"]
    cells += [*_cells(row["win_rate"], 1), *_cells(row["length_controlled"], 1)]
    return [*cells, _cell(row["orders_agree"], 0), _cell(row["first_wins"], 0)]


def _cells(found: Mapping[str, float], digits: int) -> list[str]:
    low, high = _cell(found["low"], digits), _cell(found["high"], digits)
    return [_cell(found["value"], digits), f"{low} to {high}" if low != "-" else "-"]


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ] + [""]
