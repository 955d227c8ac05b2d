"""The questions for people: answers in each question, their annotators, order and sides. No torch.

Everything drawn here depends only on the seed and its purpose, so the same call makes the same batch.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lifealign.core.errors import DataError
from lifealign.data.answers import AnswerRecord, digest
from lifealign.judging.rubrics import Rubric, rubric_for
from lifealign.store.reader import NOW

Mode = Literal["pairwise", "absolute"]
PAIR_GOLD = ("win", "lose", "tie")
"""Values of `AnswerRecord.gold` in a pair: the required result of the answer against the other one."""
REFERENCE, REJECTED = "reference", "rejected"
"""Sources of the answers in gold questions made from held-out rows."""


@dataclass(frozen=True)
class Question:
    """One answer or pair of answers to rate.

    Attributes:
        rubric: name of the rubric.
        a: the answer, or the first one of a pair; this does not set the side on which it is shown.
        b: the second one; None: `a` is scored alone.
        gold: the known result: `a`, `b` or `tie` for a pair, ``low-high`` for a score; None: not known.
    """

    rubric: str
    a: AnswerRecord
    b: AnswerRecord | None = None
    gold: str | None = None

    @property
    def key(self) -> str:
        """16 hex digits, of the content."""
        return digest(self.rubric, self.a.id, self.b.id if self.b else None, self.gold)


@dataclass(frozen=True)
class Batch:
    """All questions and their rubrics.

    Attributes:
        mode: pairs or scores.
        seed: seed for all draws.
        rubrics: name -> rubric.
        questions: questions to show.
        equal: pairs of the same text, which count as ties and are never shown.
    """

    mode: Mode
    seed: int
    rubrics: Mapping[str, Rubric]
    questions: tuple[Question, ...]
    equal: tuple[Question, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex digits, of the content."""
        rubrics = {name: rubric.model_dump(mode="json") for name, rubric in sorted(self.rubrics.items())}
        return digest(self.mode, self.seed, rubrics, [q.key for q in (*self.questions, *self.equal)])


def make_batch(
    records: Sequence[AnswerRecord],
    *,
    mode: Mode,
    groups: Sequence[str] = (),
    rubric: Rubric | None = None,
    task_rubrics: Mapping[str, Rubric] | None = None,
    count: int | None = None,
    gold: int = 0,
    seed: int = 0,
) -> Batch:
    """Make questions about answers.

    Args:
        records: the answers; those with `gold` make gold questions.
        mode: pairs or scores.
        groups: the answers to ask about, as in `choose_groups`.
        rubric: rubric of every question; None: the built-in rubric of each task.
        task_rubrics: rubrics of single tasks; they override `rubric`.
        count: number of questions to draw, evenly over tasks and pairs of groups; None: all.
        gold: number of gold pairs to make from held-out rows: the preferred answer against the rejected one.
        seed: seed for the draws.

    Raises:
        DataError: nothing to ask, an unknown group, a task without a rubric, gold that cannot be used.
    """
    plain = [record for record in records if record.gold is None]
    chosen = choose_groups(plain, groups, mode)
    rubrics: dict[str, Rubric] = {}
    own = task_rubrics or {}
    tasks = list(dict.fromkeys(r.task for r in records))
    if unknown := sorted(set(own) - set(tasks)):
        raise DataError(f"--rubric: no answers for task {unknown[0]!r}; choose from: {', '.join(tasks)}")
    names = {task: _rubric_name(task, own.get(task) or rubric, rubrics) for task in tasks}
    found = _pairs(plain, chosen, names) if mode == "pairwise" else _singles(plain, chosen, names)
    drawn = _draw(found, count, seed)
    equal = tuple(q for q in drawn if _same_text(q))
    asked = [q for q in drawn if not _same_text(q)]
    known = [*_given_gold(records, mode, names, rubrics), *_made_gold(plain, gold, mode, names, seed)]
    if not asked and not known:
        raise DataError(_nothing(mode, chosen, len(equal)))
    return Batch(mode, seed, rubrics, (*asked, *known), equal)


def _same_text(question: Question) -> bool:
    return question.b is not None and question.a.answer == question.b.answer


def group_of(record: AnswerRecord) -> str:
    """Source and point of an answer, ``SOURCE@POINT``."""
    return f"{record.source}@{record.point}"


def choose_groups(records: Sequence[AnswerRecord], wanted: Sequence[str], mode: Mode) -> list[str]:
    """Choose the ``SOURCE@POINT`` to ask about.

    Args:
        records: the answers.
        wanted: each a ``SOURCE@POINT``, or a source or ``@POINT`` that matches only one; the point `now` is a source's
            newest one; empty: all, but at most two in pairwise mode.
        mode: pairs need two or more.

    Raises:
        DataError: a name matches none or several, or there are too few or too many.
    """
    there = list(dict.fromkeys(group_of(record) for record in records))
    newest = _newest(records)
    chosen = list(dict.fromkeys(_one_group(name, there, newest) for name in wanted)) or there
    if mode == "pairwise" and (len(chosen) < 2 or (not wanted and len(chosen) > 2)):
        raise DataError(
            f"a comparison needs answers of two or more sources or points, got {len(chosen)}: "
            f"{', '.join(chosen) or 'none'}; name each with --compare"
        )
    return chosen


def _newest(records: Sequence[AnswerRecord]) -> dict[str, str]:
    """``SOURCE@now`` -> the group of the source's newest point, of the sources whose stages are known."""
    latest: dict[str, AnswerRecord] = {}
    for record in records:
        if record.stage is not None and record.stage >= (latest.get(record.source, record).stage or 0):
            latest[record.source] = record
    return {f"{source}@{NOW}": group_of(record) for source, record in latest.items()}


def _one_group(name: str, there: Sequence[str], newest: Mapping[str, str]) -> str:
    name = newest.get(name, name)
    if name in there:
        return name
    fitting = [g for g in there if name == g.partition("@")[0] or (name[:1] == "@" and g.endswith(name))]
    if name == f"@{NOW}":
        fitting = list(newest.values())
    if len(fitting) == 1:
        return fitting[0]
    problem = f"matches answers of {len(fitting)} sources or points" if fitting else "matches no answers"
    raise DataError(f"--compare {name!r} {problem}; choose one of: {', '.join(fitting or there) or 'none'}")


def _rubric_name(task: str, given: Rubric | None, rubrics: dict[str, Rubric]) -> str:
    rubric = given or rubric_for(task)
    if rubric is None:
        raise DataError(f"task {task!r}: no built-in rubric; give --rubric NAME or --rubric FILE.yaml")
    if rubrics.setdefault(rubric.name, rubric) != rubric:
        raise DataError(f"two different rubrics are named {rubric.name!r}; rename one of them")
    return rubric.name


def _pairs(records: Iterable[AnswerRecord], groups: Sequence[str], rubrics: Mapping[str, str]) -> list[Question]:
    by_item: dict[str, dict[str, AnswerRecord]] = defaultdict(dict)
    for record in records:
        if by_item[record.item].setdefault(group_of(record), record) is not record:
            raise DataError(
                f"two different answers of {group_of(record)} to the same prompt of task {record.task!r} "
                f"(ids {by_item[record.item][group_of(record)].id} and {record.id}); keep only one"
            )
    return [
        Question(rubrics[answers[one].task], answers[one], answers[other])
        for one, other in itertools.combinations(groups, 2)
        for answers in by_item.values()
        if one in answers and other in answers
    ]


def _singles(records: Iterable[AnswerRecord], groups: Sequence[str], rubrics: Mapping[str, str]) -> list[Question]:
    return [Question(rubrics[record.task], record) for record in records if group_of(record) in groups]


def _draw(questions: Sequence[Question], count: int | None, seed: int) -> list[Question]:
    """Draw `count` questions in turn from each task and pair of groups, so that a small batch is balanced."""
    kinds: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    for question in questions:
        kinds[(question.a.task, *(group_of(r) for r in (question.a, question.b) if r))].append(question)
    for kind, members in kinds.items():
        random.Random(f"{seed} {kind}").shuffle(members)
    turns = [q for turn in itertools.zip_longest(*kinds.values()) for q in turn if q is not None]
    return turns[:count]


def _given_gold(
    records: Iterable[AnswerRecord], mode: Mode, names: Mapping[str, str], rubrics: Mapping[str, Rubric]
) -> list[Question]:
    """Gold questions from answers with `gold`; in a pair, `win` goes before `lose`."""
    known = [record for record in records if record.gold is not None]
    if mode == "absolute":
        return [Question(names[r.task], r, gold=_score_gold(r, rubrics[names[r.task]])) for r in known]
    by_item: dict[str, list[AnswerRecord]] = defaultdict(list)
    for record in known:
        by_item[record.item].append(record)
    return [_gold_pair(members, names) for members in by_item.values()]


def _gold_pair(members: Sequence[AnswerRecord], names: Mapping[str, str]) -> Question:
    said = sorted(str(record.gold) for record in members)
    if said not in (["lose", "win"], ["tie", "tie"]):
        raise DataError(
            f"gold answers to one prompt of task {members[0].task!r}: expected `win` and `lose`, or `tie` twice, "
            f"got {', '.join(said)}"
        )
    a, b = members
    return Question(names[a.task], a, b, {"win": "a", "lose": "b", "tie": "tie"}[str(a.gold)])


def _score_gold(record: AnswerRecord, rubric: Rubric) -> str:
    low, _, high = str(record.gold).partition("-")
    high = high or low
    if not (low.isdigit() and high.isdigit() and rubric.scale.low <= int(low) <= int(high) <= rubric.scale.high):
        raise DataError(
            f"answer {record.id}: gold {record.gold!r}; expected LOW-HIGH or one number, from "
            f"{rubric.scale.low} to {rubric.scale.high}"
        )
    return f"{low}-{high}"


def _made_gold(
    records: Sequence[AnswerRecord], count: int, mode: Mode, names: Mapping[str, str], seed: int
) -> list[Question]:
    """Preferred answers of held-out rows against the rejected ones, without a reference that would give them away."""
    if not count:
        return []
    if mode == "absolute":
        raise DataError("--gold needs --mode pairwise; in absolute mode, set `gold` in the answers instead")
    items = {r.item: r for r in records if r.reference and r.rejected and r.reference != r.rejected}
    if len(items) < count:
        raise DataError(
            f"--gold {count}: only {len(items)} prompts have a reference and a rejected answer; ask for fewer"
        )
    drawn = random.Random(f"{seed} gold").sample(sorted(items), count)
    return [Question(names[items[item].task], *_row_answers(items[item]), gold="a") for item in drawn]


def _row_answers(record: AnswerRecord) -> tuple[AnswerRecord, AnswerRecord]:
    def answer(text: str | None, source: str) -> AnswerRecord:
        return AnswerRecord.of(record.task, record.prompt, text or "", source=source, point="data", stage=0)

    return answer(record.reference, REFERENCE), answer(record.rejected, REJECTED)


def _nothing(mode: Mode, groups: Sequence[str], equal: int) -> str:
    if equal:
        return f"nothing to compare: all {equal} pairs of {' and '.join(groups)} have the same text"
    if mode == "pairwise":
        return f"nothing to compare: {' and '.join(groups)} have no prompt in common"
    return "nothing to score: no answers"


# --- who rates what ---


@dataclass(frozen=True)
class Turn:
    """One question in an annotator's order.

    Attributes:
        question: position in the batch, from 0.
        swapped: whether `b` is on the left.
    """

    question: int
    swapped: bool


def shared(batch: Batch, overlap: float) -> list[int]:
    """Positions of the questions for everybody: all gold, and this share (0 to 1) of the others."""
    plain = [i for i, q in enumerate(batch.questions) if q.gold is None]
    gold = [i for i, q in enumerate(batch.questions) if q.gold is not None]
    # The batch's order is balanced over the tasks, so its beginning is too.
    return [*gold, *plain[: math.ceil(overlap * len(plain))]]


def deal(batch: Batch, annotators: Sequence[str], overlap: float) -> dict[str, list[Turn]]:
    """Each annotator's questions, in order: the shared ones and an equal part of the others."""
    everybody = shared(batch, overlap)
    others = sorted(set(range(len(batch.questions))) - set(everybody))
    return {
        name: order([*everybody, *others[n :: len(annotators)]], name, batch.seed) for n, name in enumerate(annotators)
    }


def order(questions: Sequence[int], annotator: str, seed: int) -> list[Turn]:
    """One annotator's order and sides: shuffled, with half of the questions swapped (an odd one by chance)."""
    generator = random.Random(f"{seed} order {annotator}")
    shuffled = generator.sample(questions, len(questions))
    first = generator.random() < 0.5
    sides = [(i % 2 == 0) == first for i in range(len(questions))]
    generator.shuffle(sides)
    return [Turn(q, side) for q, side in zip(shuffled, sides, strict=True)]
