"""Summary of ratings: who wins, how far people agree, and how far judge models agree with them. No torch.

An item counts once, however many people rated it: its value is the mean over them. Gold questions only check the
annotators and enter no result. Rates are in percent; intervals are 95% bootstraps over items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from lifealign.evaluation.metrics import Interval, mean_interval
from lifealign.judging.agreement import (
    Level,
    bradley_terry_intervals,
    cohen_kappa,
    krippendorff_alpha,
    majority,
    pairwise_agreement,
    rank_correlation,
)
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.people.batch import Question, group_of
from lifealign.judging.people.database import Assignment, Rating, Ratings
from lifealign.judging.people.export import gold_ok, outcome
from lifealign.judging.win_rate import length_controlled_win_rate, win_rate

NAN = float("nan")
ALL = "all"
"""Task of the rows over all tasks."""


@dataclass(frozen=True)
class Rated:
    """One question with its ratings.

    Attributes:
        question: the question.
        values: annotator -> outcome of `a` in a pair (0 to 1), or the score.
    """

    question: Question
    values: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the annotators; NaN without ratings."""
        return float(np.mean(list(self.values.values()))) if self.values else NAN


def summarise(ratings: Ratings, judgements: Sequence[Judgement] = (), min_gold: float = 0.0) -> dict[str, Any]:
    """Summarise ratings as plain values; `summary_lines` makes text of them.

    Args:
        ratings: the batch with its ratings.
        judgements: judgements of judge models on the same answers.
        min_gold: smallest share of correct gold questions, 0 to 1; annotators below it are left out.
    """
    held = ratings.held()
    people = [_annotator(name, ratings, [h for h in held if h[0] == name]) for name in ratings.annotators()]
    trusted = {p["name"] for p in people if p["gold"] == 0 or p["gold_right"] / p["gold"] >= min_gold}
    rated = _rated(ratings, [h for h in held if h[0] in trusted])
    pairwise = ratings.mode == "pairwise"
    return {
        "mode": ratings.mode,
        "questions": len(ratings.questions()),
        "equal": len(ratings.equal()),
        "annotators": people,
        "left_out": sorted(p["name"] for p in people if p["name"] not in trusted),
        "results": _win_rates(rated) if pairwise else _mean_scores(rated),
        "strengths": _strengths(rated) if pairwise else [],
        "agreement": _agreement(rated, "ordinal" if pairwise else "interval"),
        "judges": _judges(rated, judgements, pairwise),
    }


# --- people ---


def _annotator(name: str, ratings: Ratings, held: Sequence[tuple[str, Assignment, Rating, str]]) -> dict[str, Any]:
    rated, assigned = ratings.progress(name)
    gold = [ok for _, assignment, rating, _ in held if (ok := gold_ok(assignment, rating)) is not None]
    sides = [rating.winner for _, _, rating, _ in held if rating.winner in ("left", "right")]
    times = [rating.seconds for _, _, rating, _ in held if rating.seconds is not None]
    return {
        "name": name,
        "rated": rated,
        "assigned": assigned,
        "unable": sum(not rating.judged for _, _, rating, _ in held),
        "flagged": sum(rating.flag and rating.judged for _, _, rating, _ in held),
        "comments": sum(bool(rating.comment) for _, _, rating, _ in held),
        "seconds": median(times) if times else None,
        "gold": len(gold),
        "gold_right": sum(gold),
        "left": 100 * sides.count("left") / len(sides) if sides else None,
    }


def _rated(ratings: Ratings, held: Sequence[tuple[str, Assignment, Rating, str]]) -> list[Rated]:
    """All questions but gold ones; pairs of the same text are ties without asking anybody."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for annotator, assignment, rating, _ in held:
        if rating.judged:
            value = float(rating.score) if rating.score is not None else outcome(assignment, rating)
            values[assignment.question.key][annotator] = value
    asked = [Rated(q, values.get(q.key, {})) for q in ratings.questions() if q.gold is None]
    return [*asked, *(Rated(q, {"": 0.5}) for q in ratings.equal())]


def _by_people(rated: Sequence[Rated]) -> list[Rated]:
    return [one for one in rated if one.values and "" not in one.values]


# --- who is better ---


def _pair_of(question: Question) -> tuple[str, str]:
    assert question.b is not None
    return group_of(question.a), group_of(question.b)


def _win_rates(rated: Sequence[Rated]) -> list[dict[str, Any]]:
    rows = []
    said = [one for one in rated if one.values]
    for pair in dict.fromkeys(_pair_of(one.question) for one in said):
        of_pair = [one for one in said if _pair_of(one.question) == pair]
        tasks = list(dict.fromkeys(one.question.a.task for one in of_pair))
        for task in [ALL, *(tasks if len(tasks) > 1 else [])]:
            rows.append(_win_rate(pair, task, [o for o in of_pair if task in (ALL, o.question.a.task)]))
    return rows


def _win_rate(pair: tuple[str, str], task: str, rated: Sequence[Rated]) -> dict[str, Any]:
    won = [one.mean for one in rated]
    lengths = [(len(one.question.a.answer), len(one.question.b.answer)) for one in rated if one.question.b]
    return {
        "a": pair[0],
        "b": pair[1],
        "task": task,
        "items": len(rated),
        "wins": sum(value > 0.5 for value in won),
        "ties": sum(value == 0.5 for value in won),
        "losses": sum(value < 0.5 for value in won),
        "win_rate": _plain(win_rate(won)),
        "length_controlled": _plain(length_controlled_win_rate(won, [a for a, _ in lengths], [b for _, b in lengths])),
    }


def _strengths(rated: Sequence[Rated]) -> list[dict[str, Any]]:
    outcomes = [(*_pair_of(one.question), one.mean) for one in rated if one.values]
    found = bradley_terry_intervals(outcomes)
    rows = [{"who": who, "strength": _plain(interval)} for who, interval in found.items()]
    return sorted(rows, key=lambda row: -float(row["strength"]["value"] or 0.0))


def _mean_scores(rated: Sequence[Rated]) -> list[dict[str, Any]]:
    rows = []
    said = [one for one in rated if one.values]
    for who in dict.fromkeys(group_of(one.question.a) for one in said):
        of_group = [one for one in said if group_of(one.question.a) == who]
        tasks = list(dict.fromkeys(one.question.a.task for one in of_group))
        for task in [ALL, *(tasks if len(tasks) > 1 else [])]:
            means = [one.mean for one in of_group if task in (ALL, one.question.a.task)]
            rows.append({"who": who, "task": task, "items": len(means), "score": _plain(mean_interval(means))})
    return rows


# --- agreement ---


def _agreement(rated: Sequence[Rated], level: Level) -> dict[str, Any]:
    """Agreement among people, over the items rated by two or more."""
    shared = [one for one in _by_people(rated) if len(one.values) > 1]
    names = sorted({name for one in shared for name in one.values})
    matrix = np.array([[one.values.get(name, NAN) for one in shared] for name in names]).reshape(
        len(names), len(shared)
    )
    same = {name: {i: v for i, v in enumerate(matrix[n]) if not np.isnan(v)} for n, name in enumerate(names)}
    return {
        "items": len(shared),
        "level": level,
        "alpha": _plain(krippendorff_alpha(matrix, level)),
        "alpha_nominal": _plain(krippendorff_alpha(matrix, "nominal")),
        "same": 100 * pairwise_agreement(same),
    }


def _judges(rated: Sequence[Rated], judgements: Sequence[Judgement], pairwise: bool) -> list[dict[str, Any]]:
    """One row for each judge and mode; a judge's pairs cannot be compared with people's scores."""
    rows = []
    people = _by_people(rated)
    for judge, mode in dict.fromkeys((one.judge, one.mode) for one in judgements):
        if mode == "pairwise" and not pairwise:
            continue
        verdict = _verdicts([one for one in judgements if (one.judge, one.mode) == (judge, mode)], mode, pairwise)
        said = [(one, verdict(one.question)) for one in people]
        scored = [(one, v) for one, v in said if not np.isnan(v)]
        row = {"judge": judge, "mode": mode, "items": len(scored), "unscored": len(said) - len(scored)}
        rows.append({**row, **(_pair_agreement(scored) if pairwise else _score_agreement(scored))})
    return rows


def _verdicts(own: Sequence[Judgement], mode: str, pairwise: bool) -> Callable[[Question], float]:
    """One judge's verdict on a question, in the units of `Rated.values`; NaN without a verdict."""
    scores = {(one.rubric, one.id): _number(one.score) for one in own}
    votes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for one in own:
        if one.winner is not None and one.other is not None:
            value = {"a": 1.0, "b": 0.0, "tie": 0.5}[one.winner]
            votes[one.rubric, one.id, one.other].append(value)
            votes[one.rubric, one.other, one.id].append(1 - value)

    def of(question: Question) -> float:
        a = scores.get((question.rubric, question.a.id), NAN)
        if question.b is None or not pairwise:
            return a
        if mode == "absolute":
            return 0.5 + 0.5 * float(np.sign(a - scores.get((question.rubric, question.b.id), NAN)))
        both = votes[question.rubric, question.a.id, question.b.id]
        # A judge that prefers a position, not an answer, contradicts itself: a tie.
        return 0.5 + 0.5 * float(np.sign(np.mean(both) - 0.5)) if len(both) > 1 else NAN

    return of


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)


def _pair_agreement(scored: Sequence[tuple[Rated, float]]) -> dict[str, Any]:
    """Agreement with each person, and with the majority."""
    with_each = [float(np.mean([value == verdict for value in one.values.values()])) for one, verdict in scored]
    most = [0.5 + 0.5 * majority([2 * v - 1 for v in one.values.values()]) for one, _ in scored]
    verdicts = [verdict for _, verdict in scored]
    same = [float(a == b) for a, b in zip(most, verdicts, strict=True)]
    return {
        "same_as_each": _plain(mean_interval([100 * v for v in with_each])),
        "same_as_most": _plain(mean_interval([100 * v for v in same])),
        "kappa": cohen_kappa(most, verdicts),
    }


def _score_agreement(scored: Sequence[tuple[Rated, float]]) -> dict[str, Any]:
    means, verdicts = [one.mean for one, _ in scored], [verdict for _, verdict in scored]
    return {
        "rank_correlation": rank_correlation(means, verdicts),
        "above_people": _plain(mean_interval([v - m for m, v in zip(means, verdicts, strict=True)])),
        "alpha": _plain(krippendorff_alpha([means, verdicts], "interval")),
    }


def _plain(interval: Interval) -> dict[str, float]:
    return interval._asdict()


# --- for people ---


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """Lines of text for a summary."""
    lines = [f"{document['questions']} questions, {document['mode']}"]
    if document["equal"]:
        lines.append(f"{document['equal']} pairs of the same text were not shown; they count as ties")
    lines += ["", *_people_lines(document)]
    if document["mode"] == "pairwise":
        lines += ["", "wins (percent of items; a tie is half a win)", *map(_win_line, document["results"])]
        if document["strengths"]:
            lines += ["", "Bradley-Terry strength (log-odds, mean 0)"]
            lines += [f"  {row['who']}: {_shown(row['strength'], 2)}" for row in document["strengths"]]
    else:
        lines += ["", "mean scores"]
        lines += [
            f"  {row['who']}, {row['task']}: {_shown(row['score'], 2)} of {row['items']} items"
            for row in document["results"]
        ]
    return [*lines, "", *agreement_lines(document)]


def _people_lines(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in document["annotators"]:
        parts = [f"{one['rated']} of {one['assigned']} rated"]
        parts += [f"{one['seconds']:.0f} s each"] if one["seconds"] is not None else []
        parts += [f"gold {one['gold_right']} of {one['gold']}"] if one["gold"] else []
        parts += [f"{one[key]} {word}" for key, word in (("unable", "not judged"), ("flagged", "flagged")) if one[key]]
        parts += [f"left side {one['left']:.0f}%"] if one["left"] is not None else []
        parts += ["left out"] if one["name"] in document["left_out"] else []
        lines.append(f"{one['name']}: {', '.join(parts)}")
    return lines


def _win_line(row: Mapping[str, Any]) -> str:
    counts = f"{row['wins']} won, {row['ties']} even, {row['losses']} lost"
    line = (
        f"  {row['a']} against {row['b']}, {row['task']}: {_shown(row['win_rate'])} of {row['items']} items ({counts})"
    )
    controlled = row["length_controlled"]
    return line if np.isnan(controlled["value"]) else f"{line}; at equal length {_shown(controlled)}"


def agreement_lines(document: Mapping[str, Any]) -> list[str]:
    """Lines of text on how far people agree with each other, and judges with them."""
    found = document["agreement"]
    lines = ["agreement of people: no item was rated by two people"]
    if found["items"]:
        alpha = f"Krippendorff's alpha ({found['level']}) {_shown(found['alpha'], 2)}"
        same = _number_shown(found["same"])
        lines = [f"agreement of people on {found['items']} items: {alpha}, same rating in {same}%"]
    for row in document["judges"]:
        head = f"judge {row['judge']} ({row['mode']}), {row['items']} items, {row['unscored']} unscored:"
        if "kappa" in row:
            each, most = _shown(row["same_as_each"]), _shown(row["same_as_most"])
            lines.append(
                f"{head} agrees with each person in {each}%, with the majority in {most}%, "
                f"kappa {_number_shown(row['kappa'], 2)}"
            )
        else:
            rho, above = _number_shown(row["rank_correlation"], 2), _shown(row["above_people"], 2)
            lines.append(f"{head} rank correlation {rho}, above people by {above}, alpha {_shown(row['alpha'], 2)}")
    return lines


def _shown(interval: Mapping[str, float], digits: int = 1) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if np.isnan(low):
        return _number_shown(value, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _number_shown(value: float, digits: int = 1) -> str:
    return "not defined" if np.isnan(value) else f"{value:.{digits}f}"
