"""The work of `lifealign judge`: from answers to a file of judgements and its summary. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lifealign.core.errors import EXIT_USER_ERROR, JudgeError
from lifealign.core.files import cache_dir, keep_apart, writing
from lifealign.core.progress import make_progress
from lifealign.core.reply import Reply
from lifealign.data.answers import read_answers, write_answers
from lifealign.judging.llm.config import JudgeConfig
from lifealign.judging.llm.engine import Forecast, Totals, forecast, judge_answers
from lifealign.judging.llm.judgements import write_judgements
from lifealign.judging.llm.plan import Ask, plan, unused_rubrics
from lifealign.judging.llm.steering import steering_answers, steering_config, steering_report
from lifealign.judging.llm.summary import Summary, summarise

if TYPE_CHECKING:
    from lifealign.data.answers import AnswerRecord


def run(
    sources: Sequence[Path],
    config: JudgeConfig,
    *,
    out: Path | None,
    paper: bool,
    dry_run: bool,
    count: int | None = None,
) -> Reply:
    """Judge answers, write the judgements and summarise them.

    Args:
        sources: files of answers, and memories, whose answers are written beside the judgements.
        config: judges, rubrics and limits.
        out: file for the judgements; None only for a dry run.
        paper: also show the paper's score.
        dry_run: forecast only; send nothing.
        count: prompts per task to ask a memory.

    Raises:
        UserError: answers, configuration or a judge cannot be used.
    """
    records, cache = _read(sources, count), _cache(config)
    if paper:
        _check_paper(plan(config, records))
    unused = unused_rubrics(config, {record.task for record in records})
    said = [f"rubrics not used, as no answer is of their task: {', '.join(unused)}"] if unused else []
    if dry_run:
        found = forecast(config, records, cache)
        return Reply({"dry_run": True, **found.to_json()}, [*said, *_forecast_lines(found)])
    if out is None:
        raise JudgeError("no file for the judgements: give --out FILE.jsonl, or --dry-run to ask no judge")
    keep_apart(out, *sources)
    with writing(out):  # fail before paying for judgements that could not be kept
        out.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    if any(path.is_dir() for path in sources):  # readers of the judgements need the answers too
        kept = [out.with_suffix(".answers.jsonl")]
        write_answers(kept[0], records)
    judgements, totals = judge_answers(config, records, cache, progress=make_progress())
    write_judgements(out, judgements)
    summary = summarise(judgements, paper=paper)
    lines = [*summary.lines(), *_total_lines(totals), *said, f"written: {len(judgements)} judgements to {out}"]
    lines += [f"written: {len(records)} answers to {path}" for path in kept]
    document = {"out": out, "totals": totals.to_json(), **summary.to_json(), "unused_rubrics": unused}
    problems = _problems(summary, config)
    return Reply(document, lines, EXIT_USER_ERROR if problems else 0, problems)


def check_steering(config: JudgeConfig, *, out: Path | None, dry_run: bool) -> Reply:
    """Judge the embedded answers that try to steer a judge, and report the attacks that succeed.

    Raises:
        UserError: a judge cannot be used.
    """
    config, records, cache = steering_config(config), steering_answers(), _cache(config)
    if dry_run:
        found = forecast(config, records, cache)
        return Reply({"dry_run": True, **found.to_json()}, _forecast_lines(found))
    judgements, totals = judge_answers(config, records, cache, progress=make_progress())
    if out is not None:
        write_judgements(out, judgements)
    report, summary = steering_report(judgements), summarise(judgements)
    lines = [*report.lines(), *summary.counts(), *_total_lines(totals)]
    document = {**report.to_json(), "unscored": summary.unscored, "totals": totals.to_json()}
    problems = _problems(summary, config)
    return Reply(document, lines, EXIT_USER_ERROR if problems else 0, problems)


def _check_paper(asks: Sequence[Ask]) -> None:
    """Refuse questions that have no paper score.

    Raises:
        JudgeError: a question compares pairs, or its scale is not 1 to 10.
    """
    for ask in asks:
        scale = ask.rubric.scale
        if ask.other is not None or (scale.low, scale.high) != (1, 10):
            found = (
                "is used in pairwise mode" if ask.other is not None else f"has the scale {scale.low} to {scale.high}"
            )
            raise JudgeError(f"--paper needs scores from 1 to 10, but rubric {ask.rubric.name!r} {found}; drop --paper")


def _cache(config: JudgeConfig) -> Path:
    return Path(config.cache).expanduser() if config.cache else cache_dir() / "judge.sqlite"


def _read(sources: Sequence[Path], count: int | None) -> list[AnswerRecord]:
    """Read answers from files, and ask memories as they are now; each answer once.

    Raises:
        JudgeError: a number of prompts without a memory to ask.
    """
    if count is not None and not any(path.is_dir() for path in sources):
        raise JudgeError("--count has no effect on files of answers; leave it out")
    records: dict[str, AnswerRecord] = {}
    for path in sources:
        for record in _of_memory(path, count) if path.is_dir() else read_answers(path):
            records.setdefault(record.id, record)
    return list(records.values())


def _of_memory(path: Path, count: int | None) -> list[AnswerRecord]:
    from lifealign.memory.answering import Asked
    from lifealign.memory.api import Memory

    return Memory.open(path).answers(Asked(count=count), progress=make_progress())


def _problems(summary: Summary, config: JudgeConfig) -> list[str]:
    """Problems for the user to solve: a bill at its limit, or no verdict at all."""
    problems = []
    if short := summary.unscored.get("max_cost", 0):
        problems.append(
            f"--max-cost {config.max_cost:g} reached: {short} of {summary.judgements} judgements are missing; "
            "run again with a higher limit to continue"
        )
    if summary.judgements and not summary.scored and not short:
        problems.append("no judgement was scored; see the reasons above")
    return problems


def _money(cost: float | None) -> str:
    return "not known" if cost is None else f"{cost:.4f}"


def _forecast_lines(found: Forecast) -> list[str]:
    return [
        f"{found.judgements} judgements need {found.calls} calls; {found.known} already answered "
        f"(cost {_money(found.spent)})",
        f"to ask: {found.calls - found.known} calls, about {found.prompt_tokens} prompt and "
        f"{found.completion_tokens} completion tokens",
        f"cost: about {_money(found.cost)}, at most {_money(found.most_cost)} if the first try of every call is answered",
    ]


def _total_lines(totals: Totals) -> list[str]:
    lines = [
        f"calls: {totals.calls} ({totals.known} answered by an earlier run; {totals.tries} tries and "
        f"{totals.replies} replies now)",
        f"tokens: {totals.prompt_tokens} prompt, {totals.completion_tokens} completion; cost: {_money(totals.cost)}",
    ]
    if totals.uncounted:
        lines.append(f"tokens not counted by the server: {totals.uncounted} replies")
    if totals.unanswered:
        lines.append(
            f"{totals.unanswered} tries got no answer but may have been paid for "
            f"({'cost not known' if totals.unanswered_cost is None else f'at most {totals.unanswered_cost:.4f}'})"
        )
    lines += [f"{judge}: the server rejected {', '.join(names)}; left out" for judge, names in totals.left_out.items()]
    return lines
