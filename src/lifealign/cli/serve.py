"""The command that serves a memory to OpenAI clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifealign.cli.options import AsJson, MemoryPath, N, WithoutValue
from lifealign.cli.output import command
from lifealign.core.errors import EXIT_GATE_FAILED, ConfigError
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.memory.serving.points import Required

Points = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Model to serve: base, now, routed, as-of:TASK or as-of:TAG; repeatable. Default: all.",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GATE",
        help='Refuse to start, with exit code 3, unless this holds, e.g. "bwt>=-1"; also for every new commit; repeatable.',
    ),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="test|validation", help="Held-out rows whose scores --require reads. Default: as configured."),
]
FeedbackFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Take votes on answers and append them to this jsonl file. Default: no votes."),
]
KeyEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Environment variable with the API key that clients must send.")
]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar=N, help="Port to listen on; 0 picks a free one.")]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Allow an address that others can reach; needs --key-env.")
]
BatchSize = Annotated[int, typer.Option(min=1, metavar=N, help="Most answers that are written at once.")]
MaxTokens = Annotated[
    int, typer.Option(min=1, metavar=N, help="Longest answer to a request that gives no length, in tokens.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)


@command
def serve(
    memory: MemoryPath,
    points: Points = None,
    require: Require = None,
    no_value: WithoutValue = "fail",
    split: Split = None,
    feedback: FeedbackFile = None,
    host: Host = "127.0.0.1",
    port: Port = 8600,
    allow_remote: AllowRemote = False,
    key_env: KeyEnv = None,
    batch_size: BatchSize = 16,
    max_tokens: MaxTokens = 512,
    as_json: AsJson = False,
) -> Reply:
    """Serve a memory to OpenAI clients. New commits are taken while it runs."""
    from lifealign.core.addresses import url_of
    from lifealign.core.progress import make_progress
    from lifealign.memory.serving import run
    from lifealign.memory.serving.points import Points

    progress = make_progress()
    required = _required(require, no_value, split)
    found = Points(memory, points or (), required, progress.say)
    gates = [result.to_json() for result in found.results]
    failed = [result.line() for result in found.results if not result.held]
    if failed:
        return Reply({"gates": gates}, ["not started"], EXIT_GATE_FAILED, failed)
    for result in found.results:
        progress.say(result.line())

    def started(actual: int) -> None:
        typer.echo(f"models: {', '.join(found.names())}", err=True)
        typer.echo(f"serving {url_of(host, actual)}/v1; press Ctrl-C to stop (running requests are finished)", err=True)

    request = run.Request(
        memory,
        host,
        port,
        allow_remote,
        key_env,
        batch_size,
        max_tokens,
        feedback,
    )
    done, code = run.serve(request, found, progress, started)
    votes = "" if feedback is None else f"; {done['votes']} votes in {feedback}"
    lines = [f"stopped after {done['answers']} answers{votes}"]
    return Reply({**done, "gates": gates, "feedback": feedback}, lines, code)


def _required(gates: list[str] | None, no_value: str, split: str | None) -> Required:
    from lifealign.memory.serving.points import Required

    if split not in (None, "test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    if no_value not in ("pass", "fail"):
        raise ConfigError(f"--no-value {no_value!r}: allowed: pass, fail")
    return Required(tuple(gates or ()), "pass" if no_value == "pass" else "fail", split)
