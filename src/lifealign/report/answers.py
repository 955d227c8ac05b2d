"""The transcript browser: how the answer to each prompt changed since its task was learnt. Imports no torch.

An answer is good by one criterion at a time: the task's rule, the judge's score, people's score, or the preference of
the held-out pair. The verdicts on a prompt's answers, in the order of the memory's life, give the state of the prompt.
Everything is decided here; the page only filters and shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lifealign.core.errors import DataError
from lifealign.core.files import replace_file, writing
from lifealign.core.version import __version__
from lifealign.data.answers import BASE, AnswerRecord
from lifealign.evaluation import catalog
from lifealign.judging.opinions import Opinion
from lifealign.report.render import template

GOOD_SCORE = 7.0
"""Mean score of judges or people from which an answer is good: the upper middle anchor of the built-in rubrics."""
CRITERIA: Mapping[str, str] = {
    "rule": "the task's rule",
    "judge": "the judge's score",
    "people": "people's score",
    "preference": "preference of the pair",
}
"""Ways to decide that an answer is good; the default is the first one with any verdicts."""
STATES: Mapping[str, str] = {
    "forgotten": "was good right after its task, is bad",
    "recovered": "was good, was bad, is good again",
    "passing": "was bad after its task, good after a later one, is bad",
    "never": "was never good",
    "later": "became good after a later task",
    "kept": "was good after its task and ever since",
    "unknown": "not judged",
}
"""State of a prompt -> what it means for the answers since the task was learnt."""

LABELS: Mapping[str, str] = {
    "forgotten": "Forgotten",
    "recovered": "Recovered",
    "passing": "Came and went",
    "never": "Never learnt",
    "later": "Learnt later",
    "kept": "Kept",
    "unknown": "Not judged",
}


def state_of(verdicts: Sequence[bool | None]) -> str:
    """A key of `STATES`, from the verdicts in order, the first right after the task was learnt; None is skipped."""
    known = [v for v in verdicts if v is not None]
    if not known:
        return "unknown"
    if not any(known):
        return "never"
    if not known[-1]:
        return "forgotten" if known[0] else "passing"
    since = known[known.index(True) :]
    if not all(since):
        return "recovered"
    return "kept" if known[0] else "later"


@dataclass(frozen=True)
class Seen:
    """One answer with everything known about it.

    Attributes:
        record: the answer.
        before: whether it was given before the task was learnt; the prompt's state then ignores it.
        verdicts: criterion -> whether it is good; None: unknown.
        opinions: of judges and people.
    """

    record: AnswerRecord
    before: bool
    verdicts: Mapping[str, bool | None]
    opinions: Sequence[Opinion]


@dataclass(frozen=True)
class Thread:
    """One prompt's answers by one source, in the order of the memory's life.

    Attributes:
        answers: at least one.
        states: criterion -> key of `STATES`.
        falls: criterion -> how much worse the answer is now than right after the task; None: unknown. Of a rule, what
            counts is for how many of the last answers it has failed; of the others, the loss of the score.
        disagreement: whether judge and people differ on one of the answers: one finds it good and the other does not, or
            they prefer opposite sides of a pair.
    """

    answers: Sequence[Seen]
    states: Mapping[str, str]
    falls: Mapping[str, float | None]
    disagreement: bool

    @property
    def first(self) -> AnswerRecord:
        """The earliest answer; task, prompt, source and reference are the same in all."""
        return self.answers[0].record


def build_threads(
    records: Sequence[AnswerRecord], opinions: Sequence[Opinion] = (), good: float = GOOD_SCORE
) -> list[Thread]:
    """Group answers into threads, in the order in which their prompts first appear in `records`.

    Args:
        records: in any order; one for each source, prompt and point.
        opinions: opinions on these answers; those on others are ignored.
        good: mean score of judges or people from which an answer is good.

    Raises:
        DataError: a source answered one prompt twice at one point.
    """
    said: dict[str, list[Opinion]] = {}
    for opinion in opinions:
        said.setdefault(opinion.answer, []).append(opinion)
    groups: dict[tuple[str, str], list[AnswerRecord]] = {}
    for record in records:
        groups.setdefault((record.source, record.item), []).append(record)
    learnt = _learnt(records)
    return [_thread(group, said, learnt, good) for group in groups.values()]


def _learnt(records: Sequence[AnswerRecord]) -> dict[tuple[str, str], int]:
    """(source, task) -> number of tasks learnt when the task was, as far as the answers show: 1 for joint training."""
    found: dict[tuple[str, str], int] = {}
    for record in records:
        if record.point == record.task:
            found[record.source, record.task] = record.stage
    return found


def _thread(
    records: Sequence[AnswerRecord],
    said: Mapping[str, Sequence[Opinion]],
    learnt: Mapping[tuple[str, str], int],
    good: float,
) -> Thread:
    ordered = sorted(records, key=lambda r: r.stage)
    first = ordered[0]
    for one, other in pairwise(ordered):
        if one.point == other.point:
            raise DataError(f"answers {one.id} and {other.id}: {one.source} answered one prompt twice at {one.point!r}")
    since = learnt.get((first.source, first.task), 1)
    answers = [
        Seen(r, r.point == BASE or r.stage < since, _verdicts(r, said.get(r.id, ()), good), said.get(r.id, ()))
        for r in ordered
    ]
    states = {name: state_of([a.verdicts[name] for a in answers if not a.before]) for name in CRITERIA}
    falls = {name: _fall(name, [a for a in answers if not a.before]) for name in CRITERIA}
    return Thread(answers, states, falls, any(map(_disagree, answers)))


def _fall(criterion: str, answers: Sequence[Seen]) -> float | None:
    if criterion == "rule":
        verdicts = [v for a in answers if (v := a.verdicts["rule"]) is not None]
        failed = next((i for i, verdict in enumerate(reversed(verdicts)) if verdict), len(verdicts))
        return float(failed) if verdicts else None
    if criterion == "preference":
        values = [a.record.scores.get("margin") for a in answers]
    else:
        values = [_mean([o.score for o in a.opinions if o.who == criterion and o.score is not None]) for a in answers]
    known = [value for value in values if value is not None]
    return known[0] - known[-1] if known else None


def _verdicts(record: AnswerRecord, opinions: Sequence[Opinion], good: float) -> dict[str, bool | None]:
    passed, preferred = record.scores.get("pass_rate"), record.scores.get("accuracy")
    means = {
        who: _mean([o.score for o in opinions if o.who == who and o.score is not None]) for who in ("judge", "people")
    }
    return {
        "rule": None if passed is None else passed >= 0.5,
        **{who: None if mean is None else mean >= good for who, mean in means.items()},
        "preference": None if preferred is None else preferred > 0.5,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _disagree(answer: Seen) -> bool:
    judge, people = answer.verdicts["judge"], answer.verdicts["people"]
    if judge is not None and people is not None and judge != people:
        return True
    balance: Counter[tuple[str | None, str]] = Counter()
    for opinion in answer.opinions:
        balance[opinion.versus, opinion.who] += {"won": 1, "lost": -1}.get(opinion.outcome or "", 0)
    return any(balance[versus, "judge"] * balance[versus, "people"] < 0 for versus, _ in balance if versus is not None)


def criteria_of(threads: Sequence[Thread]) -> list[str]:
    """Criteria with at least one verdict, in the order of `CRITERIA`."""
    return [name for name in CRITERIA if any(a.verdicts[name] is not None for t in threads for a in t.answers)]


def summary(threads: Sequence[Thread], page: str) -> dict[str, Any]:
    """Values for the report: the link to the page, and the number of prompts in each state by the first criterion."""
    criteria = criteria_of(threads)
    sources = list(dict.fromkeys(t.first.source for t in threads)) if criteria else []
    return {
        "page": page,
        "prompts": len(threads),
        "good_is": CRITERIA[criteria[0]] if criteria else None,
        "disagreements": sum(t.disagreement for t in threads),
        "states": [{"name": name, "label": LABELS[name], "text": text} for name, text in STATES.items()],
        "rows": [
            {"source": source, "task": task, "counts": list(found.values())}
            for source in sources
            for task, found in counts([t for t in threads if t.first.source == source], criteria[0]).items()
        ],
    }


def counts(threads: Sequence[Thread], criterion: str) -> dict[str, dict[str, int]]:
    """Task -> state -> number of prompts, in the order of the tasks and of `STATES`."""
    found: dict[str, Counter[str]] = {}
    for thread in threads:
        found.setdefault(thread.first.task, Counter())[thread.states[criterion]] += 1
    return {task: {state: counter[state] for state in STATES} for task, counter in found.items()}


# --- the page ---


def page_document(threads: Sequence[Thread]) -> dict[str, Any]:
    """Plain values that the page's script reads: a table of texts (most answers do not change) and the threads."""
    texts: dict[str, int] = {}

    def text(value: str | None) -> int | None:
        return None if value is None else texts.setdefault(value, len(texts))

    criteria = criteria_of(threads)
    names = {a.record.id: [a.record.source, a.record.point] for t in threads for a in t.answers}
    document = {
        "criteria": [[name, CRITERIA[name]] for name in criteria],
        "states": [[name, LABELS[name], text] for name, text in STATES.items()],
        "tasks": list(dict.fromkeys(t.first.task for t in threads)),
        "sources": list(dict.fromkeys(t.first.source for t in threads)),
        "points": _points(threads),
        "labels": {m: catalog.score(m).title for t in threads for a in t.answers for m in a.record.scores},
        "threads": [
            {
                "item": t.first.item,
                "task": t.first.task,
                "source": t.first.source,
                "turns": [[m.role, text(m.content)] for m in t.first.prompt],
                "reference": text(t.first.reference),
                "rejected": text(t.first.rejected),
                "states": [t.states[name] for name in criteria],
                "falls": [t.falls[name] for name in criteria],
                "rule": t.first.rule,
                "disagreement": t.disagreement,
                "answers": [_answer(a, criteria, text(a.record.answer), names) for a in t.answers],
            }
            for t in threads
        ],
    }
    return {**document, "texts": list(texts)}


def _points(threads: Sequence[Thread]) -> list[str]:
    """Points of all answers in the order of the memories' lives: the columns of every prompt."""
    stages: dict[str, int] = {}
    for answer in (a.record for t in threads for a in t.answers):
        stages.setdefault(answer.point, answer.stage)
    return sorted(stages, key=lambda point: stages[point])


def _answer(seen: Seen, criteria: Sequence[str], text: int | None, names: Mapping[str, list[str]]) -> dict[str, Any]:
    record = seen.record
    return {
        "id": record.id,
        "point": record.point,
        "before": seen.before,
        "learnt": record.point == record.task,
        "cut": record.finish == "length",
        "text": text,
        "verdicts": [seen.verdicts[name] for name in criteria],
        "scores": dict(record.scores),
        "opinions": [
            {
                "who": o.who,
                "name": o.name,
                "rubric": o.rubric,
                "score": o.score,
                "outcome": o.outcome,
                "versus": None if o.versus is None else names.get(o.versus, ["", "an answer not on this page"]),
                "words": o.words,
                "unscored": o.unscored,
            }
            for o in seen.opinions
        ],
    }


def render_page(threads: Sequence[Thread], title: str) -> str:
    """One self-contained page: no other file and no network; all text of the answers is shown as text."""
    document = json.dumps(page_document(threads), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Inside a script element only "<" can end it or open a comment; "&" and the rest are not read as markup there.
    data = document.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return template("answers.html.j2").render(
        title=title,
        data=data,
        prompts=len({t.first.item for t in threads}),
        answers=sum(len(t.answers) for t in threads),
        sources=list(dict.fromkeys(t.first.source for t in threads)),
        tasks=list(dict.fromkeys(t.first.task for t in threads)),
        version=__version__,
    )


def write_page(threads: Sequence[Thread], out: str | Path, title: str = "Answers, prompt by prompt") -> None:
    """Write the page; the file is replaced as a whole.

    Raises:
        StoreError: the operating system refused a write.
    """
    target = Path(out)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, render_page(threads, title).encode("utf-8"))


def check_opinions(records: Sequence[AnswerRecord], opinions: Sequence[Opinion], where: str) -> None:
    """Refuse a file in which no line is about these answers.

    Raises:
        DataError: the file belongs to other answers.
    """
    ids = {record.id for record in records}
    if opinions and not any(opinion.answer in ids for opinion in opinions):
        raise DataError(f"{where}: none of its {len(opinions)} lines is about these answers; pass their own file")
