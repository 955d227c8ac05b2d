"""Judge answers: plan the calls, send those without a reply yet, and make a judgement of each question. No torch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifealign.core.errors import JudgeError
from lifealign.core.progress import NullProgress, Progress, Stage
from lifealign.core.stopping import run_async
from lifealign.judging.llm.bill import Bill
from lifealign.judging.llm.cache import Known, open_cache
from lifealign.judging.llm.client import Call, Judge
from lifealign.judging.llm.config import JudgeConfig
from lifealign.judging.llm.judgements import Judgement
from lifealign.judging.llm.plan import Ask, label, plan
from lifealign.judging.llm.reply import Unscored, read_reply, read_usage

if TYPE_CHECKING:
    from lifealign.data.answers import AnswerRecord

CHARACTERS_A_TOKEN = 4.0
"""Characters per token for the forecast of a dry run; about right for English text."""
REPLY_TOKENS = 80
"""Length of a reply for the same forecast, in tokens."""


@dataclass(frozen=True)
class Totals:
    """Counts and costs of a run.

    Attributes:
        judgements: questions, one for each line of the file.
        calls: different requests that they need.
        known: calls with a reply that an earlier run paid for.
        tries: requests sent by this run.
        replies: replies received by this run.
        prompt_tokens: prompt tokens of all replies, from this run or earlier ones.
        completion_tokens: completion tokens of the same replies.
        uncounted: replies whose tokens the server did not count.
        cost: cost of all replies, from this run or earlier ones; None: prices or tokens are not known.
        unanswered: tries of this run and earlier ones that may have been paid for without a reply.
        unanswered_cost: the most that these can have cost; None: prices are not known.
        left_out: judge -> request parameters that its server rejects.
    """

    judgements: int
    calls: int
    known: int
    tries: int
    replies: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    cost: float | None
    unanswered: int
    unanswered_cost: float | None
    left_out: Mapping[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Forecast:
    """Forecast of a run.

    Attributes:
        judgements: questions.
        calls: different requests that they need.
        known: calls with a reply already.
        prompt_tokens: estimate for the other calls, by `CHARACTERS_A_TOKEN`.
        completion_tokens: estimate for the other calls, `REPLY_TOKENS` each.
        cost: estimate for the other calls; None: prices are not known.
        most_cost: the most that one try of each of the other calls can cost; None: prices are not known.
        spent: cost of the known replies; None: prices are not known.
    """

    judgements: int
    calls: int
    known: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    most_cost: float | None
    spent: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def forecast(config: JudgeConfig, records: Sequence[AnswerRecord], cache: Path) -> Forecast:
    """Forecast `judge_answers` without sending or writing anything.

    Raises:
        JudgeError, ConfigError: as in `plan`.
    """
    asks = plan(config, records)
    calls = {ask.key: ask.call for ask in asks if ask.key is not None}
    known: dict[str, Known] = {}
    if cache.exists():
        with open_cache(cache) as stored:
            known = {key: one for key, one in stored.get(calls).items() if one.reply is not None}
    spent, new = _split(calls, known)
    guesses = [
        (call, round(sum(len(m["content"]) for m in call.messages) / CHARACTERS_A_TOKEN)) for call in new.values()
    ]
    return Forecast(
        judgements=len(asks),
        calls=len(calls),
        known=len(known),
        prompt_tokens=sum(prompt for _, prompt in guesses),
        completion_tokens=REPLY_TOKENS * len(guesses),
        cost=_sum([call.judge.cost(prompt, REPLY_TOKENS) for call, prompt in guesses]),
        most_cost=_sum([call.most_cost for call in new.values()]),
        spent=_sum(spent),
    )


def _split(calls: Mapping[str, Call], known: Mapping[str, Known]) -> tuple[list[float | None], dict[str, Call]]:
    spent = [_cost(calls[key], one.reply or "") for key, one in known.items()]
    return spent, {key: call for key, call in calls.items() if key not in known}


def _cost(call: Call, reply: str) -> float | None:
    usage = read_usage(reply)
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return call.judge.cost(usage.prompt_tokens, usage.completion_tokens)


def _sum(costs: Sequence[float | None]) -> float | None:
    """Sum of the costs; None if one of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def judge_answers(
    config: JudgeConfig,
    records: Sequence[AnswerRecord],
    cache: Path,
    *,
    progress: Progress | None = None,
) -> tuple[list[Judgement], Totals]:
    """Make a judgement of every question. Called again after a kill, it sends only calls without a reply.

    Args:
        config: judges, rubrics and limits.
        records: the answers.
        cache: SQLite file for calls and replies.
        progress: receives the progress.

    Raises:
        JudgeError: as in `plan`; no server answers, or it rejects the key or the model. Replies received so far are
            kept.
    """
    asks = plan(config, records)
    calls = {ask.key: ask for ask in asks if ask.key is not None}
    with open_cache(cache) as stored:
        before = stored.get(calls)
        known = {key: one.reply for key, one in before.items() if one.reply is not None}
        bill = Bill(stored, config.max_cost)
        for key, one in before.items():
            bill.carry_over(calls[key].call, one)
        todo = [ask.call for key, ask in calls.items() if key not in known]
        failures, left_out = run_async(_ask_all(config, todo, bill, len(known), progress or NullProgress()))
        after = stored.get(calls)
    replies = {key: one.reply for key, one in after.items() if one.reply is not None}
    judgements = _judgements(asks, replies, failures)
    priced = all(judge.price_in is not None for judge in config.judges)
    lost = [(calls[key].call.most_cost, one.unanswered) for key, one in after.items()]
    totals = Totals(
        judgements=len(asks),
        calls=len(calls),
        known=len(known),
        tries=bill.tries,
        replies=bill.replies,
        prompt_tokens=sum(one.prompt_tokens or 0 for one in judgements),
        completion_tokens=sum(one.completion_tokens or 0 for one in judgements),
        uncounted=sum(one.prompt_tokens is None or one.completion_tokens is None for one in judgements),
        cost=_sum([one.cost for one in judgements]),
        unanswered=sum(count for _, count in lost),
        unanswered_cost=sum((most or 0.0) * count for most, count in lost) if priced else None,
        left_out=left_out,
    )
    return judgements, totals


async def _ask_all(
    config: JudgeConfig, calls: Sequence[Call], bill: Bill, known: int, progress: Progress
) -> tuple[dict[str, Unscored], dict[str, list[str]]]:
    """Send every call; return the reasons of those without a reply, and the parameters that servers reject."""
    failures: dict[str, Unscored] = {}
    mistakes: list[JudgeError] = []

    async def work(judge: Judge, queue: Iterator[Call], stage: Stage) -> None:
        for call in queue:
            try:
                failure = await judge.ask(call, bill)
            except JudgeError as error:
                mistakes.append(error)
            else:
                if failure is not None:
                    failures[call.key] = failure
                stage.advance(1)
            if mistakes:  # calls under way finish first: their replies are paid for
                return

    async with AsyncExitStack() as stack:
        judges = []
        for one in config.judges:
            queue = iter([call for call in calls if call.judge == one])
            judge = Judge(one, timeout=config.timeout, tries=config.tries)
            judges.append((await stack.enter_async_context(judge), queue))
        with progress.stage("judging", total=known + len(calls), unit="calls", done=known) as stage:
            async with asyncio.TaskGroup() as group:
                for judge, queue in judges:
                    for _ in range(config.concurrency):
                        group.create_task(work(judge, queue, stage))
    if mistakes:
        raise mistakes[0]
    return failures, {judge.name: judge.left_out for judge, _ in judges if judge.left_out}


def _judgements(asks: Sequence[Ask], replies: Mapping[str, str], failures: Mapping[str, Unscored]) -> list[Judgement]:
    """One judgement per question; if a reply answers several, the first of them has its tokens."""
    counted: set[str] = set()
    found = []
    for ask in asks:
        key = ask.key
        reply = replies.get(key) if key is not None else None
        found.append(_judgement(ask, reply, failures.get(key or ""), first=key not in counted))
        if key is not None:
            counted.add(key)
    return found


def _judgement(ask: Ask, reply: str | None, failure: Unscored | None, *, first: bool) -> Judgement:
    said: dict[str, Any]
    if ask.needs_reference:
        said = {"unscored": "no_reference"}
    elif ask.same:
        said = {"winner": "tie", "words": "The two answers are the same; nobody was asked."}
    elif reply is None:
        assert failure is not None, "a call ends with a reply or a reason"
        said = {"unscored": failure.reason, "detail": failure.detail}
    else:
        said = _said(ask, reply)
    prompt, completion = 0, 0
    if reply is not None and first:
        usage = read_usage(reply)
        said |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        said["cost"] = _cost(ask.call, reply)
    else:
        said["cost"] = ask.judge.cost(prompt, completion)
    record, other = ask.answer, ask.other
    return Judgement(
        id=record.id,
        item=record.item,
        task=record.task,
        source=record.source,
        point=record.point,
        judge=ask.judge.label,
        rubric=ask.rubric.name,
        mode="absolute" if other is None else "pairwise",
        other=None if other is None else other.id,
        against=None if other is None else label(other),
        swapped=ask.swapped,
        lengths=tuple(len(one.answer) for one in (record, other) if one is not None),
        **said,
    )


def _said(ask: Ask, reply: str) -> dict[str, Any]:
    verdict = read_reply(reply, ask.rubric, ask.other is not None)
    if isinstance(verdict, Unscored):
        return {"unscored": verdict.reason, "detail": verdict.detail}
    winner = None
    if verdict.winner is not None:
        first, second = ("b", "a") if ask.swapped else ("a", "b")
        winner = {"A": first, "B": second, "tie": "tie"}[verdict.winner]
    return {"score": verdict.score, "winner": winner, "words": verdict.words, "steps": verdict.steps}
