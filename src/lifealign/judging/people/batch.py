"""What people are asked: which answers meet in a question, who rates which, in what order and on which side. No torch.

Everything drawn here is a function of the seed and of what it is for, so the same call makes the same batch.
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

Mode = Literal["pairwise", "absolute"]
PAIR_GOLD = ("win", "lose", "tie")
"""What `AnswerRecord.gold` may say of one answer of a pair: how it must come out against the other one."""
REFERENCE, REJECTED = "reference", "rejected"
"""Who answered, in the gold questions that are made of held-out rows."""


@dataclass(frozen=True)
class Question:
    """One thing to rate.

    Attributes:
        rubric: name of what is asked.
        a: the answer, or the first one of a pair; not the side on which it is shown.
        b: the second one; None: `a` is scored by itself.
        gold: the known result: `a`, `b` or `tie` of a pair, ``low-high`` of a score; None: not known.
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
    """Everything that is asked.

    Attributes:
        mode: pairs or scores.
        seed: of all draws.
        rubrics: by name.
        questions: to be shown.
        equal: pairs of the same text, which nobody is shown: ties.
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
    """Questions about answers.

    Args:
        records: the answers; those with `gold` make gold questions.
        mode: pairs or scores.
        groups: whose answers are asked about, as `choose_groups` reads them.
        rubric: of every question; None: the one that fits each task.
        task_rubrics: of single tasks, before `rubric`.
        count: number of questions drawn, evenly over tasks and pairs of groups; None: all there are.
        gold: number of gold pairs made of held-out rows: their preferred answer against the rejected one.
        seed: of the draws.

    Raises:
        DataError: nothing to ask, a group that is not there, a task without a rubric, gold that cannot be used.
    """
    plain = [record for record in records if record.gold is None]
    chosen = choose_groups(plain, groups, mode)
    rubrics: dict[str, Rubric] = {}
    own = task_rubrics or {}
    tasks = list(dict.fromkeys(r.task for r in records))
    if unknown := sorted(set(own) - set(tasks)):
        raise DataError(f"--rubric: no answer is of task {unknown[0]!r}; tasks of the answers: {', '.join(tasks)}")
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
    """Who answered and when, ``SOURCE@POINT``."""
    return f"{record.source}@{record.point}"


def choose_groups(records: Sequence[AnswerRecord], wanted: Sequence[str], mode: Mode) -> list[str]:
    """The ``SOURCE@POINT`` that are asked about.

    Args:
        records: the answers.
        wanted: each a ``SOURCE@POINT``, or a source or ``@POINT`` that stands for one alone; none: all, of which a
            comparison takes no more than two.
        mode: pairs need two or more.

    Raises:
        DataError: one is not there, stands for several, or there are too few or too many.
    """
    there = list(dict.fromkeys(group_of(record) for record in records))
    chosen = list(dict.fromkeys(_one_group(name, there) for name in wanted)) or there
    if mode == "pairwise" and (len(chosen) < 2 or (not wanted and len(chosen) > 2)):
        raise DataError(
            f"a comparison needs answers of two or more sources or points, named by --compare NAME for each, got "
            f"{len(chosen)}: {', '.join(chosen) or 'none'}"
        )
    return chosen


def _one_group(name: str, there: Sequence[str]) -> str:
    if name in there:
        return name
    fitting = [g for g in there if name == g.partition("@")[0] or (name[:1] == "@" and g.endswith(name))]
    if len(fitting) == 1:
        return fitting[0]
    problem = f"stands for {len(fitting)} of them" if fitting else "is none of them"
    raise DataError(f"--compare {name!r} {problem}; there are answers of: {', '.join(fitting or there) or 'nobody'}")


def _rubric_name(task: str, given: Rubric | None, rubrics: dict[str, Rubric]) -> str:
    rubric = given or rubric_for(task)
    if rubric is None:
        raise DataError(f"task {task!r}: no built-in rubric is made for it; give --rubric NAME or FILE.yaml")
    if rubrics.setdefault(rubric.name, rubric) != rubric:
        raise DataError(f"two different rubrics have the name {rubric.name!r}; give each its own")
    return rubric.name


def _pairs(records: Iterable[AnswerRecord], groups: Sequence[str], rubrics: Mapping[str, str]) -> list[Question]:
    by_item: dict[str, dict[str, AnswerRecord]] = defaultdict(dict)
    for record in records:
        if by_item[record.item].setdefault(group_of(record), record) is not record:
            raise DataError(
                f"two different answers of {group_of(record)} to the same prompt of task {record.task!r} "
                f"(ids {by_item[record.item][group_of(record)].id} and {record.id}); a comparison takes one"
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
    """`count` of them, in turn from each task and pair of groups, so that a small batch is an even one."""
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
    """Of the answers that say how they must be rated; of a pair, `win` goes before `lose`."""
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
            f"gold answers to one prompt of task {members[0].task!r} say {', '.join(said)}; a comparison takes two "
            "answers, `win` and `lose`, or `tie` and `tie`"
        )
    a, b = members
    return Question(names[a.task], a, b, {"win": "a", "lose": "b", "tie": "tie"}[str(a.gold)])


def _score_gold(record: AnswerRecord, rubric: Rubric) -> str:
    low, _, high = str(record.gold).partition("-")
    high = high or low
    if not (low.isdigit() and high.isdigit() and rubric.scale.low <= int(low) <= int(high) <= rubric.scale.high):
        raise DataError(
            f"answer {record.id}: gold {record.gold!r}; a score takes LOW-HIGH or one number within "
            f"{rubric.scale.low} to {rubric.scale.high}"
        )
    return f"{low}-{high}"


def _made_gold(
    records: Sequence[AnswerRecord], count: int, mode: Mode, names: Mapping[str, str], seed: int
) -> list[Question]:
    """Held-out rows' preferred answers against the rejected ones; without a reference, which would give it away."""
    if not count:
        return []
    if mode == "absolute":
        raise DataError("--gold makes pairs, so it goes with --mode pairwise; give scores as `gold` of the answers")
    items = {r.item: r for r in records if r.reference and r.rejected and r.reference != r.rejected}
    if len(items) < count:
        raise DataError(f"--gold {count}: only {len(items)} prompts have a reference and a rejected answer")
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
        return f"nothing to compare: {' and '.join(groups)} have answered no prompt in common"
    return "nothing to score: there is no answer"


# --- who rates what ---


@dataclass(frozen=True)
class Turn:
    """One question in an annotator's order.

    Attributes:
        question: position in the batch, from 0.
        swapped: whether `b` is shown on the left.
    """

    question: int
    swapped: bool


def shared(batch: Batch, overlap: float) -> list[int]:
    """Positions of the questions that everybody gets: all gold, and this share (0 to 1) of the others."""
    plain = [i for i, q in enumerate(batch.questions) if q.gold is None]
    gold = [i for i, q in enumerate(batch.questions) if q.gold is not None]
    # The batch's order goes evenly over the tasks, so its beginning does too.
    return [*gold, *plain[: math.ceil(overlap * len(plain))]]


def deal(batch: Batch, annotators: Sequence[str], overlap: float) -> dict[str, list[Turn]]:
    """Each annotator's questions, in order: those that are shared, and an even part of the others."""
    everybody = shared(batch, overlap)
    others = sorted(set(range(len(batch.questions))) - set(everybody))
    return {
        name: order([*everybody, *others[n :: len(annotators)]], name, batch.seed) for n, name in enumerate(annotators)
    }


def order(questions: Sequence[int], annotator: str, seed: int) -> list[Turn]:
    """One annotator's order and sides: shuffled, and half of the questions (the odd one by chance) swapped."""
    generator = random.Random(f"{seed} order {annotator}")
    shuffled = generator.sample(questions, len(questions))
    first = generator.random() < 0.5
    sides = [(i % 2 == 0) == first for i in range(len(questions))]
    generator.shuffle(sides)
    return [Turn(q, side) for q, side in zip(shuffled, sides, strict=True)]
