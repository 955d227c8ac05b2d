"""Commands about the answers of a memory at points of its life."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.decoding import (
    BestOf,
    DecoderName,
    DecoderOptions,
    HeldRules,
    HoldWeights,
    Reward,
    chosen_decoder,
)
from lifealign.cli.options import AsJson, MemoryPath, N, Split
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError, DataError
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.data.answers import AnswerRecord
    from lifealign.memory.answering import Asked
    from lifealign.report.answers import Thread

Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="TASK", help="Task to include; repeatable. Default: all.")
]
Count = Annotated[
    int | None,
    typer.Option(min=1, metavar=N, help="Prompts per task. Default: the memory's evaluate.generations, else 20."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar=N, help="Longest answer, in tokens. Default: the memory's evaluate.max_new_tokens."),
]


Judgements = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Judgements of these answers, from `lifealign judge`; repeatable."),
]
Ratings = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Ratings of these answers, from `lifealign ratings export`; repeatable."),
]
Good = Annotated[
    float,
    typer.Option("--good", metavar="SCORE", help="Lowest mean score from judges or people that counts as good."),
]

At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POINT",
        help="When to answer: base (before any task), now, a task, a tag or a commit; repeatable. Default: now.",
    ),
]
EveryPoint = Annotated[
    bool,
    typer.Option("--every-point", help="Answer before any task, after the task itself and after each later task."),
]
PromptBaseline = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Let the base model answer, asked by a prompt alone: urial. Source of the answers: its name.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(answers)
    app.command()(compare)


@command
def answers(
    memory: MemoryPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the answers to this .jsonl or .parquet file.")],
    task: Tasks = None,
    at: At = None,
    every_point: EveryPoint = False,
    count: Count = None,
    max_new_tokens: MaxNewTokens = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Source to record with the answers. Default: the memory's strategy."),
    ] = None,
    split: Split = "test",
    prompt_baseline: PromptBaseline = None,
    best_of: BestOf = None,
    reward: Reward = None,
    hold: HeldRules = None,
    hold_weight: HoldWeights = None,
    decoder: DecoderName = None,
    option: DecoderOptions = None,
    as_json: AsJson = False,
) -> Reply:
    """Write answers to held-out prompts, with their scores.

    They are greedy, unless a decoder chooses them. The file is the input of `judge`, `annotate` and `compare`.
    """
    from lifealign.core.progress import make_progress
    from lifealign.data.answers import check_extension, write_answers
    from lifealign.data.prompts import decoded
    from lifealign.memory.answering import Asked
    from lifealign.memory.api import Memory
    from lifealign.store.reader import NOW

    check_extension(out)
    if at and every_point:
        raise ConfigError("--at and --every-point cannot be combined; give one of them")
    points = tuple(at or (NOW,))
    chosen = chosen_decoder(decoder, option, best_of, reward, hold, hold_weight)
    asked = Asked(
        tuple(task or ()), points, every_point, count, max_new_tokens, source, split, prompt_baseline, decoder=chosen
    )
    asked.check()
    progress = make_progress()
    records = Memory.open(memory).answers(asked, progress=progress)
    decodings = [decoded(record.answer, record.decoding) for record in records if record.decoding is not None]
    for line in chosen.told(decodings) if chosen is not None else ():
        progress.say(line)
    write_answers(out, records)
    found = list(dict.fromkeys(record.point for record in records))
    document = {"answers": len(records), "points": found, "out": out}
    return Reply(document, [f"written: {_count(len(records), 'answer')} at {_count(len(found), 'point')} to {out}"])


@command
def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="MEMORY|ANSWERS", help="Memories to ask, or files from `lifealign answers`."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the page to this .html file.")],
    task: Tasks = None,
    judgements: Judgements = None,
    ratings: Ratings = None,
    good: Good = 7.0,
    count: Count = None,
    max_new_tokens: MaxNewTokens = None,
    split: Split = "test",
    as_json: AsJson = False,
) -> Reply:
    """Write a page that compares answers over a memory's life.

    For each prompt it shows the answers right after the task was learnt, after each later task, and now.
    """
    from lifealign.memory.answering import Asked
    from lifealign.report.answers import write_page

    if out.suffix.lower() != ".html":
        raise ConfigError(f"--out {out}: expected a file name that ends in .html, got {out.suffix!r}")
    asked = Asked(tuple(task or ()), (), True, count, max_new_tokens, None, split)
    if all(source.is_file() for source in sources) and asked != Asked(asked.tasks, (), True):
        raise ConfigError("--count, --max-new-tokens and --split have no effect on files of answers; leave them out")
    threads = read_threads(sources, asked, judgements or (), ratings or (), good)
    write_page(threads, out)
    document, lines = _found(threads)
    return Reply({**document, "out": out}, [*lines, f"written: {out}"])


def browse(
    directory: Path, files: Sequence[Path], judgements: Sequence[Path], ratings: Sequence[Path]
) -> dict[str, Any] | None:
    """Write the page of answers beside a report and return the report's summary of it; None without answers.

    Raises:
        ConfigError: judgements or ratings without answers.
        DataError: a file cannot be used.
    """
    from lifealign.memory.answering import Asked
    from lifealign.report.answers import GOOD_SCORE, summary, write_page

    if not files:
        if judgements or ratings:
            raise ConfigError("--judgements and --ratings have no effect without answers; add --answers FILE")
        return None
    threads = read_threads(files, Asked(), judgements, ratings, GOOD_SCORE)
    write_page(threads, directory / "answers.html")
    return summary(threads, "answers.html")


def read_threads(
    sources: Sequence[Path], asked: Asked, judgements: Sequence[Path], ratings: Sequence[Path], good: float
) -> list[Thread]:
    """Answers from memories and files, with their judgements and ratings.

    Raises:
        DataError: an unknown task, a file that cannot be used, or judgements or ratings of other answers.
    """
    from lifealign.judging.opinions import read_judgements, read_ratings
    from lifealign.report.answers import build_threads, check_opinions

    records = [record for source in sources for record in _records(source, asked)]
    opinions = []
    for path in (*judgements, *ratings):
        found = read_judgements(path) if path in judgements else read_ratings(path)
        check_opinions(records, found, str(path))
        opinions += found
    return build_threads(records, opinions, good)


def _records(source: Path, asked: Asked) -> list[AnswerRecord]:
    if source.is_dir():
        from lifealign.core.progress import make_progress
        from lifealign.memory.api import Memory

        return Memory.open(source).answers(asked, progress=make_progress())
    from lifealign.data.answers import read_answers

    records = read_answers(source)
    known = list(dict.fromkeys(record.task for record in records))
    if unknown := [name for name in asked.tasks if name not in known]:
        raise DataError(f"{source}: no answers for task {unknown[0]!r}; choose from: {', '.join(known)}")
    return [record for record in records if not asked.tasks or record.task in asked.tasks]


def _found(threads: Sequence[Thread]) -> tuple[dict[str, Any], list[str]]:
    """States by criterion and task, and the first criterion's as lines."""
    from lifealign.report.answers import CRITERIA, LABELS, counts, criteria_of

    criteria = criteria_of(threads)
    states = {name: counts(threads, name) for name in criteria}
    disagreements = sum(thread.disagreement for thread in threads)
    document = {"prompts": len(threads), "states": states, "disagreements": disagreements}
    if not criteria:
        return document, [f"{len(threads)} prompts; no score, judgement or rating tells good answers from bad ones"]
    lines = [f"good is {CRITERIA[criteria[0]]}:"]
    for task, found in states[criteria[0]].items():
        lines.append(
            f"  {task}: " + ", ".join(f"{count} {LABELS[state].lower()}" for state, count in found.items() if count)
        )
    if disagreements:
        lines.append(f"judge and people disagree on {_count(disagreements, 'prompt')}")
    return document, lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
