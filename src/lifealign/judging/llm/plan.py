"""Plan of the questions and their calls: PURE functions of answers and configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lifealign.core.errors import JudgeError
from lifealign.judging.llm.client import Call
from lifealign.judging.llm.config import EndpointConfig, JudgeConfig
from lifealign.judging.llm.prompt import messages, schema
from lifealign.judging.rubrics import RUBRICS, Rubric, load_rubric, rubric_for

if TYPE_CHECKING:
    from lifealign.data.answers import AnswerRecord

REFERENCE = "reference"
"""Source and point of the held-out row's preferred answer when it is the baseline."""


@dataclass(frozen=True)
class Ask:
    """One question to one judge.

    Attributes:
        judge: the judge to ask.
        rubric: the rubric to judge by.
        answer: the answer to judge.
        other: pairwise mode: the answer to compare it with; None: absolute mode.
        swapped: pairwise mode: whether the other answer is shown first.
        max_tokens: longest reply, in tokens.
    """

    judge: EndpointConfig
    rubric: Rubric
    answer: AnswerRecord
    other: AnswerRecord | None
    swapped: bool
    max_tokens: int

    @cached_property
    def call(self) -> Call:
        """The request for this question."""
        if self.other is None:
            asked = messages(self.rubric, self.answer)
        else:
            first, second = (self.other, self.answer) if self.swapped else (self.answer, self.other)
            asked = messages(self.rubric, first, second)
        return Call(self.judge, asked, schema(self.rubric, self.other is not None), self.max_tokens)

    @property
    def needs_reference(self) -> bool:
        """Whether the rubric shows a reference answer that the row does not have."""
        return REFERENCE in self.rubric.sees and self.answer.reference is None

    @property
    def same(self) -> bool:
        """Whether the two answers to compare are the same text."""
        return self.other is not None and self.other.answer == self.answer.answer

    @property
    def key(self) -> str | None:
        """Key of the call; None if nothing has to be asked."""
        return None if self.needs_reference or self.same else self.call.key


def plan(config: JudgeConfig, records: Sequence[AnswerRecord]) -> list[Ask]:
    """All questions, judge by judge and answer by answer; in pairwise mode, each pair in both orders.

    Raises:
        JudgeError: a task has no rubric; pairwise mode without two answers to a prompt; a baseline without answers.
        ConfigError: a rubric that cannot be read.
    """
    rubrics = _rubrics_of_tasks(config, dict.fromkeys(record.task for record in records))
    modes = {task: config.mode or rubric.mode for task, rubric in rubrics.items()}
    if config.baseline is not None and "pairwise" not in modes.values():
        raise JudgeError(f"baseline {config.baseline!r} needs pairwise mode; give --mode pairwise or leave it out")
    others = _others(config, [r for r in records if modes[r.task] == "pairwise"])
    asks = []
    for judge in config.judges:
        for record in records:
            rubric = rubrics[record.task]
            if modes[record.task] == "absolute":
                asks.append(Ask(judge, rubric, record, None, False, config.max_tokens))
            elif other := others.get(record.id):
                asks += [Ask(judge, rubric, record, other, swapped, config.max_tokens) for swapped in (False, True)]
    return asks


def _rubrics_of_tasks(config: JudgeConfig, tasks: Mapping[str, None]) -> dict[str, Rubric]:
    unknown = unused_rubrics(config, tasks)
    if unknown and len(unknown) == len(config.rubrics):
        raise JudgeError(f"rubrics: no answers for task {unknown[0]!r}; choose from: {', '.join(tasks)}")
    given = {task: config.rubrics.get(task) or config.rubric for task in tasks}
    found = {task: load_rubric(name) if name is not None else rubric_for(task) for task, name in given.items()}
    if missing := [task for task, rubric in found.items() if rubric is None]:
        raise JudgeError(
            f"no rubric for task {missing[0]!r}; give --rubric NAME or --rubric {missing[0]}=NAME, "
            f"with one of {', '.join(RUBRICS)} or a .yaml file"
        )
    return {task: rubric for task, rubric in found.items() if rubric is not None}


def unused_rubrics(config: JudgeConfig, tasks: Iterable[str]) -> list[str]:
    """Tasks with a rubric in the configuration, which several files of answers may share, but without an answer here."""
    return sorted(set(config.rubrics) - set(tasks))


def label(record: AnswerRecord) -> str:
    """Source and point of an answer: ``source@point``."""
    return f"{record.source}@{record.point}"


def _others(config: JudgeConfig, records: Sequence[AnswerRecord]) -> dict[str, AnswerRecord]:
    """Id of an answer -> the baseline's answer to the same prompt."""
    labels = list(dict.fromkeys(map(label, records)))
    if not labels:
        return {}
    if config.baseline == REFERENCE:
        return {r.id: _reference(r) for r in records if r.reference is not None}
    named = [one for one in labels if config.baseline in _names(one)]
    if config.baseline is None:
        named = labels[:1]
    if len(named) != 1:
        result = f"matches answers of {' and '.join(named)}" if named else "matches no answers"
        raise JudgeError(f"baseline {config.baseline!r} {result}; choose one of: {', '.join(labels)}, {REFERENCE}")
    baseline = {r.item: r for r in records if label(r) == named[0]}
    found = {r.id: baseline[r.item] for r in records if label(r) != named[0] and r.item in baseline}
    if not found:
        raise JudgeError(
            f"pairwise mode needs two answers to a prompt, but no prompt has one of {named[0]} and another "
            f"(answers of: {', '.join(labels)}); give answers of two points or sources, or --baseline {REFERENCE}"
        )
    return found


def _names(one: str) -> tuple[str, ...]:
    source, _, point = one.rpartition("@")
    return one, source, point, f"@{point}"


def _reference(record: AnswerRecord) -> AnswerRecord:
    from lifealign.data.answers import AnswerRecord

    return AnswerRecord.of(
        record.task,
        record.prompt,
        record.reference or "",
        source=REFERENCE,
        point=REFERENCE,
        stage=record.stage,
        reference=record.reference,
    )
