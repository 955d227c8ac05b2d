"""Commands that use a memory: answer prompts, compare it with new rows, reweight its tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from lifealign.cli.options import AsJson, AsOf, MemoryPath, N, Recipe, Rows, Split, Weight
from lifealign.cli.output import command
from lifealign.core.errors import ConfigError
from lifealign.core.reply import Reply

if TYPE_CHECKING:
    from lifealign.data.tasks import Message
    from lifealign.model.decoding import Decoder

PromptTexts = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="User message to answer; repeatable.")]
PromptFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Rows with `prompt` or `messages` to answer, - for stdin; answers are printed as jsonl."
    ),
]
Route = Annotated[
    bool | None,
    typer.Option(
        "--route/--no-route",
        show_default=False,
        help="Answer each prompt by the tasks that it may belong to, or by all. Default: as the memory was made.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="X", help="Sampling temperature; 0 gives greedy answers. Default: 0, and 1 with --best-of."
    ),
]
TopP = Annotated[
    float, typer.Option(min=0.0, max=1.0, metavar="SHARE", help="Sample from this share of the probability.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(generate)
    app.command()(related)
    app.command()(compose)


@command
def generate(
    memory: MemoryPath,
    prompt: PromptTexts = None,
    prompts: PromptFile = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers to this jsonl file instead of printing them.")
    ] = None,
    as_of: AsOf = None,
    weight: Weight = None,
    route: Route = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar=N, help="Longest answer, in tokens.")] = 256,
    temperature: Temperature = None,
    top_p: TopP = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar=N, help="Seed for sampling.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar=N, help="Prompts per batch; sampled answers depend on it.")
    ] = 16,
    best_of: BestOf = None,
    reward: Reward = None,
    hold: HeldRules = None,
    hold_weight: HoldWeights = None,
    decoder: DecoderName = None,
    option: DecoderOptions = None,
    as_json: AsJson = False,
) -> Reply:
    """Answer prompts with the model as it is or was after a task."""
    from lifealign.core.files import keep_apart, replace_file, writing
    from lifealign.data.prompts import CutAnswer, Prompt, read_prompts

    if bool(prompt) == (prompts is not None):
        raise ConfigError("give either --prompt TEXT (repeats) or --prompts FILE")
    asked = read_prompts(prompts) if prompts is not None else [Prompt.of_text(text) for text in prompt or ()]
    if out is not None:
        keep_apart(out, *([Path(prompts)] if prompts not in (None, "-") else []))
        with writing(out):  # fail before generating answers that could not be kept
            out.parent.mkdir(parents=True, exist_ok=True)
    chosen = chosen_decoder(decoder, option, best_of, reward, hold, hold_weight)
    sampling = {"max_new_tokens": max_new_tokens, "top_p": top_p, "seed": seed, "batch_size": batch_size}
    if chosen is None or temperature is not None:
        sampling["temperature"] = temperature or 0.0
    where = {"as_of": as_of, "weights": _weights(weight) or None, "route": route}
    texts = _answered(memory, [one.turns for one in asked], chosen, {**where, **sampling})
    cut = sum(isinstance(text, CutAnswer) for text in texts)
    problems = [f"{cut} of {len(texts)} answers cut at {max_new_tokens} tokens; raise --max-new-tokens"] if cut else []
    records = [one.with_answer(text) for one, text in zip(asked, texts, strict=True)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if out is not None:
        with writing(out):
            replace_file(out, "".join(f"{line}\n" for line in lines).encode())
        return Reply(
            {"answers": len(records), "out": out}, [f"written: {len(records)} answers to {out}"], problems=problems
        )
    return Reply(records, lines if prompts is not None else ["\n\n".join(texts)], problems=problems)


def _answered(
    memory: Path, prompts: Sequence[Sequence[Message]], chosen: Decoder | None, options: Mapping[str, Any]
) -> list[str]:
    """Answers of a memory; says what the decoder, if there is one, tells of them."""
    from lifealign.core.progress import make_progress
    from lifealign.memory.api import Memory

    progress = make_progress()
    given: dict[str, Any] = {} if chosen is None else {"decoder": chosen}
    texts = Memory.open(memory).generate(prompts, **given, **options, progress=progress)
    for line in chosen.told(texts) if chosen is not None else ():
        progress.say(line)
    return texts


@command
def related(
    memory: MemoryPath,
    rows: Rows,
    steps: Annotated[
        int,
        typer.Option(min=0, metavar=N, help="Gradient steps on a sample of the rows for the forecast; 0 skips it."),
    ] = 4,
    recipe: Recipe = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Reply:
    """Rank stored tasks by likeness to new rows. Also forecast interference with them. Nothing is written."""
    from lifealign.core.progress import make_progress
    from lifealign.memory.api import Memory

    found = Memory.open(memory).related(rows, steps=steps, recipe=recipe, as_of=as_of, progress=make_progress())
    return Reply(found.to_json(), found.lines())


@command
def compose(
    memory: MemoryPath,
    weight: Weight = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="factors|delta_w", help="Space to add in. Default: the space the memory consolidates in."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a PEFT adapter to this directory instead of scoring held-out rows."),
    ] = None,
    split: Split = "test",
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Reply:
    """Reweight or withdraw tasks without training. The memory does not change."""
    from lifealign.core.progress import make_progress
    from lifealign.memory.api import Memory

    weights = _weights(weight)
    if not weights:
        raise ConfigError("no weights given; pass --weight TASK=WEIGHT, e.g. --weight tone=0")
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    made = Memory.open(memory).compose(
        weights, space=space, out=out, as_of=as_of, split=split, progress=make_progress()
    )
    return Reply(made.to_json(), made.lines())


def _weights(given: Sequence[str] | None) -> dict[str, float]:
    """Parse ``task=1.5`` options into numbers.

    Raises:
        ConfigError: another form, or the same task twice.
    """
    weights: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"--weight {text!r}: expected TASK=WEIGHT with a number, e.g. tone=0.5") from None
        if name in weights:
            raise ConfigError(f"--weight {text!r}: task {name!r} already has a weight ({weights[name]:g})")
        weights[name] = number
    return weights
