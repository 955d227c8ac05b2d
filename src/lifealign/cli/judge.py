"""Commands about answers judged by models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import AsJson, N
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.judging.llm.config import JudgeConfig

Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Configuration in YAML, e.g. examples/judge-planted.yaml.")
]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="URL", help="Base URL of an OpenAI-compatible server; repeat it for a panel."),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="Model on that server; repeat it for each judge.")
]
KeyEnv = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Environment variable that holds the key: one for all, or one per judge."),
]
PriceIn = Annotated[
    list[float] | None,
    typer.Option(min=0, metavar="PRICE", help="Price per million prompt tokens: one for all, or one per judge."),
]
PriceOut = Annotated[
    list[float] | None,
    typer.Option(min=0, metavar="PRICE", help="Price per million completion tokens: one for all, or one per judge."),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="COST", help="Stop asking before the cost could exceed this, in the currency of the prices."
    ),
]
Concurrency = Annotated[int | None, typer.Option(min=1, metavar=N, help="Calls at once, for each judge. Default: 8.")]
Seconds = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up a call after this time. Default: 120.")
]
Tries = Annotated[int | None, typer.Option(min=1, metavar=N, help="Tries for a call that gets no answer. Default: 5.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, metavar=N, help="Longest reply, in tokens. Default: 512.")]
Cache = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="SQLite file for calls and replies. Default: in the user's cache directory."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count calls, tokens and cost without asking any judge.")]
Count = Annotated[
    int | None,
    typer.Option(min=1, metavar=N, help="Prompts per task, for a memory. Default: as for `lifealign answers`."),
]
Rubrics = Annotated[
    list[str] | None,
    typer.Option(metavar="[TASK=]RUBRIC", help="Built-in rubric or YAML file, for all tasks or one; repeatable."),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="absolute|pairwise",
        help="Score each answer, or compare it with the baseline's. Default: the rubric's mode.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="WHO",
        help="Answers to compare with in pairwise mode: SOURCE, @POINT, SOURCE@POINT or reference. "
        "Default: the source of the first answer.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(judge)
    app.command("judge-check")(judge_check)


@command
def judge(
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="MEMORY|ANSWERS",
            help="Memories to ask as they are now, or files (jsonl, parquet) from `lifealign answers`.",
        ),
    ],
    config: Config = None,
    judges: Judges = None,
    models: Models = None,
    count: Count = None,
    rubric: Rubrics = None,
    mode: Mode = None,
    baseline: Baseline = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the judgements to this jsonl file.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Also show the paper's score: the mean of absolute scores times 10.")
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
    """Judge answers with one or more models and a rubric.

    Run it again after an interruption to continue; no reply is paid for twice.
    """
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
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the judgements to this jsonl file.")
    ] = None,
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
    """Test a judge with bad answers that ask for a good score. Show which of them get one."""
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
        raise ConfigError("no judge given: pass --judge URL and --model NAME, or --config FILE")
    return read_judge_config(config, {key: value for key, value in settings.items() if value is not None})


def _panel(judges: list[str] | None, models: list[str] | None, **of_each: list[Any] | None) -> dict[str, Any]:
    """The judges of the command line, each with its own options.

    Raises:
        ConfigError: the number of models differs from that of judges, or another option has neither one value nor one
            for each judge.
    """
    if not judges:
        if odd := [f"--{name.replace('_', '-')}" for name, values in {"model": models, **of_each}.items() if values]:
            raise ConfigError(f"{odd[0]} has no effect without --judge; add --judge URL")
        return {}
    if len(models or ()) != len(judges):
        raise ConfigError(f"--model: expected one for each --judge ({len(judges)}), got {len(models or ())}")
    panel: list[dict[str, Any]] = [
        {"url": url, "model": model} for url, model in zip(judges, models or (), strict=True)
    ]
    for name, values in of_each.items():
        if not values:
            continue
        if len(values) not in (1, len(judges)):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: expected one, or one for each --judge ({len(judges)}), got {len(values)}")
        for one, value in zip(panel, values * len(judges) if len(values) == 1 else values, strict=True):
            one[name] = value
    return {"judges": panel}


def _rubric_settings(given: list[str] | None) -> dict[str, Any]:
    """``--rubric`` options as settings."""
    from lifealign.judging.rubrics import parse_rubrics

    general, by_task = parse_rubrics(given or ())
    return {"rubric": general, "rubrics": by_task or None}
