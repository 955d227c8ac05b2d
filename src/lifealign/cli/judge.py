"""Commands about answers judged by models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import AsJson
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.judging.llm.config import JudgeConfig

Config = Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML file, such as examples/judge-planted.yaml.")]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="URL", help="Base URL of an OpenAI-compatible server; repeats, for a panel."),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="Model at that server; repeats, one a judge.")
]
KeyEnv = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Environment variable of the key: one for all, or one a judge."),
]
PriceIn = Annotated[
    list[float] | None, typer.Option(min=0, help="Price of a million prompt tokens: one for all, or one a judge.")
]
PriceOut = Annotated[list[float] | None, typer.Option(min=0, help="Price of a million completion tokens, likewise.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Ask no more once this could be exceeded.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Calls at once, for each judge; default 8.")]
Seconds = Annotated[float | None, typer.Option("--timeout", help="Seconds until a call is given up; default 120.")]
Tries = Annotated[int | None, typer.Option(min=1, help="Tries of a call that is not answered; default 5.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest reply, in tokens; default 512.")]
Cache = Annotated[
    str | None, typer.Option(metavar="FILE", help="SQLite file of calls and replies; default: in the user's cache.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count calls, tokens and cost; ask nobody.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(judge)
    app.command("judge-check")(judge_check)


@command
def judge(
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="MEMORY|ANSWERS...",
            help="Memories, asked as they are now, or answers (jsonl, parquet) of `lifealign answers`.",
        ),
    ],
    config: Config = None,
    judges: Judges = None,
    models: Models = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Of a memory: prompts a task; default: as `answers`.")
    ] = None,
    rubric: Annotated[
        list[str] | None,
        typer.Option(metavar="[TASK=]RUBRIC", help="A built-in rubric or a YAML file, for all tasks or one; repeats."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="absolute|pairwise", help="Default: what the rubric says.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="WHO", help="Of pairwise: a source, @POINT, SOURCE@POINT or `reference`; default: the first."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the judgements here, as jsonl.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Show the paper's score: the mean of absolute scores times 10.")
    ] = False,
    key_env: KeyEnv = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    max_cost: MaxCost = None,
    concurrency: Concurrency = None,
    timeout: Seconds = None,
    tries: Tries = None,
    max_tokens: MaxTokens = None,
    cache: Cache = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> Reply:
    """Judge answers by models, by a rubric. Stopped and started again, it goes on and pays for nothing twice."""
    from lifealign.judging.llm.run import run

    settings = {
        **_panel(judges, models, key_env=key_env, price_in=price_in, price_out=price_out),
        **_rubric_settings(rubric),
        "mode": mode,
        "baseline": baseline,
        "max_cost": max_cost,
        "concurrency": concurrency,
        "timeout": timeout,
        "tries": tries,
        "max_tokens": max_tokens,
        "cache": cache,
    }
    return run(source, _read(config, settings), out=out, paper=paper, dry_run=dry_run, count=count)


@command
def judge_check(
    config: Config = None,
    judges: Judges = None,
    models: Models = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the judgements, as jsonl.")] = None,
    key_env: KeyEnv = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    max_cost: MaxCost = None,
    concurrency: Concurrency = None,
    timeout: Seconds = None,
    tries: Tries = None,
    max_tokens: MaxTokens = None,
    cache: Cache = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> Reply:
    """Try a judge with bad answers that ask for a good score, and show which get through."""
    from lifealign.judging.llm.run import check_steering

    settings = {
        **_panel(judges, models, key_env=key_env, price_in=price_in, price_out=price_out),
        "max_cost": max_cost,
        "concurrency": concurrency,
        "timeout": timeout,
        "tries": tries,
        "max_tokens": max_tokens,
        "cache": cache,
    }
    return check_steering(_read(config, settings), out=out, dry_run=dry_run)


def _read(config: Path | None, settings: dict[str, Any]) -> JudgeConfig:
    from lifealign.judging.llm.config import read_judge_config

    if config is None and "judges" not in settings:
        raise ConfigError("nobody to judge: give --judge URL and --model NAME, or --config FILE")
    return read_judge_config(config, {key: value for key, value in settings.items() if value is not None})


def _panel(judges: list[str] | None, models: list[str] | None, **of_each: list[Any] | None) -> dict[str, Any]:
    """The judges of the command line, each with what is said of it.

    Raises:
        ConfigError: as many models as judges are needed, and one or as many of everything else.
    """
    if not judges:
        if odd := [f"--{name.replace('_', '-')}" for name, values in {"model": models, **of_each}.items() if values]:
            raise ConfigError(f"{odd[0]} goes with --judge URL")
        return {}
    if len(models or ()) != len(judges):
        raise ConfigError(f"give one --model for each --judge, got {len(models or ())} for {len(judges)}")
    panel: list[dict[str, Any]] = [
        {"url": url, "model": model} for url, model in zip(judges, models or (), strict=True)
    ]
    for name, values in of_each.items():
        if not values:
            continue
        if len(values) not in (1, len(judges)):
            raise ConfigError(f"--{name.replace('_', '-')}: give one, or one for each of {len(judges)} judges")
        for one, value in zip(panel, values * len(judges) if len(values) == 1 else values, strict=True):
            one[name] = value
    return {"judges": panel}


def _rubric_settings(given: list[str] | None) -> dict[str, Any]:
    """``--rubric`` options as settings."""
    from lifealign.judging.rubrics import parse_rubrics

    general, by_task = parse_rubrics(given or ())
    return {"rubric": general, "rubrics": by_task or None}
