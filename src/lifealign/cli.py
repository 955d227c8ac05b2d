"""The command line: each command parses, calls one function and answers. See `answers` for output and exit codes.

Only typer is imported at start, so that ``--help`` answers at once; a command imports what it needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign import cli_compare
from lifealign.answers import Answer, answers, to_json
from lifealign.errors import EXIT_GATE_FAILED, EXIT_USER_ERROR, ConfigError, StoreError

if TYPE_CHECKING:
    from lifealign.config import RunConfig
    from lifealign.memory import Memory

app = typer.Typer(
    name="lifealign",
    help="Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all.",
    no_args_is_help=True,
    add_completion=False,
    # Pretty tracebacks and rich help cost 0.2 s at every start.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MemoryPath = Annotated[Path, typer.Argument(metavar="MEMORY", help="Directory of the memory.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=3; repeats."),
]
Recipe = Annotated[str | None, typer.Option(help="How to read the columns of a public data set, by name.")]
AsOf = Annotated[str | None, typer.Option(metavar="TASK", help="The model as it was after this task.")]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK=WEIGHT", help="Weight of what a task changed: 0 withdraws it, 1 leaves it as it is; repeats."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document to stdout.")]


# --- learning ---------------------------------------------------------------------------------------------------------


@app.command()
@answers
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as examples/planted.yaml.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> Answer:
    """Learn a whole stream of tasks. Stopped and started again, it goes on where it was."""
    from lifealign.pipeline import read_config, run_stream
    from lifealign.progress import make_progress

    return _report_answer([run_stream(read_config(config, settings or ()), progress=make_progress())])


@app.command()
@answers
def study(
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A YAML file, such as examples/studies/main-table.yaml.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and the time they take; do none.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="local|ADDRESS", help="Do the runs on Ray.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory for results.json; default: runs/studies/NAME.")
    ] = None,
    as_json: AsJson = False,
) -> Answer:
    """Compare methods over task orders, seeds, settings and models. Stopped and started again, it goes on."""
    from lifealign.progress import make_progress
    from lifealign.studies.engine import run_study

    document, lines, problems = run_study(file, dry_run=dry_run, ray=ray, out=out, progress=make_progress())
    return Answer(document, lines, EXIT_USER_ERROR if problems else 0, problems)


@app.command()
@answers
def learn(
    memory: MemoryPath,
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="json, jsonl, parquet or csv file, or a hub data set id.")
    ],
    name: Annotated[str, typer.Option(help="Name of the task: letters, digits, - and _.")],
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out rows; default: taken from ROWS.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Create the memory on this model: path, hub id or built-in name.")
    ] = None,
    recipe: Recipe = None,
    requirement: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the task asks for, in words, for strategies that read it.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> Answer:
    """Learn one more task into a memory; with --base-model, create the memory if there is none."""
    from lifealign.memory import Memory
    from lifealign.progress import make_progress
    from lifealign.tasks import task_from_rows

    found = _open(memory, base_model)
    config = found.config if found else _new_config(memory, base_model, settings or ())
    # Rows first: a mistake in them leaves no empty memory behind.
    task = task_from_rows(name, rows, test, recipe=recipe, seed=config.seed, requirement=requirement)
    result = (found or Memory.create(memory, config)).learn(task, settings=settings or (), progress=make_progress())
    lines = [line for report in task.reports for line in report.lines()]
    lines.append(f"learnt {result.name} in {result.seconds:.0f} s: {result.directory}")
    lines += [f"  {score}: {value:.2f}" for score, value in result.scores.items()]
    return Answer(result.to_json(), lines)


def _open(path: Path, base_model: str | None) -> Memory | None:
    """The memory to learn into; None if there is none and --base-model says on what to create it.

    Raises:
        StoreError: there is none and no base model is named, or the named one is not the memory's.
    """
    from lifealign.memory import Memory

    if not (path / "HEAD").exists():
        if base_model is not None:
            return None
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            raise StoreError(f"{path}: there is no memory here; give --base-model to create one, e.g. smollm2-135m")
    memory = Memory.open(path)
    if base_model is not None and not _same_model(base_model, memory.config.model.name):
        raise StoreError(
            f"{path}: this memory's base model is {memory.config.model.name!r}, got --base-model {base_model!r}; "
            "leave --base-model out, or choose another directory for a new memory"
        )
    return memory


def _new_config(path: Path, base_model: str | None, settings: Sequence[str]) -> RunConfig:
    from lifealign.pipeline import read_config

    config = read_config(None, settings, base={"memory": str(path), "model": {"name": base_model}})
    if config.model.name != base_model:
        raise ConfigError(f"--base-model {base_model!r} and --set model.name={config.model.name} disagree; give one")
    return config


def _same_model(one: str, other: str) -> bool:
    a, b = Path(one).expanduser(), Path(other).expanduser()
    return one == other or (a.exists() and b.exists() and a.resolve() == b.resolve())


# --- measuring --------------------------------------------------------------------------------------------------------


@app.command()
@answers
def evaluate(
    memory: MemoryPath,
    task: Annotated[list[str] | None, typer.Option(help="A task to score; repeats. Default: all.")] = None,
    split: Annotated[str, typer.Option(help="Held-out rows to score: test or validation.")] = "test",
    as_of: AsOf = None,
    generations: Annotated[
        int | None, typer.Option(min=0, help="Greedy answers per task, for its pass rate and the text metrics.")
    ] = None,
    text_metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A score of the greedy answers, e.g. chrf; repeats.")
    ] = None,
    guard_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text whose perplexity guards general ability.")
    ] = None,
    guard_choices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Multiple-choice questions that guard general ability.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GATE",
            help='Exit with code 3 unless this holds over all tasks learnt, e.g. "bwt>=-1", "tax.perplexity<=2"; repeats.',
        ),
    ] = None,
    as_json: AsJson = False,
) -> Answer:
    """Score a memory on held-out rows, and check gates."""
    from lifealign.gates import Gate, check_gates
    from lifealign.memory import Memory
    from lifealign.progress import make_progress

    gates = [Gate.parse(text) for text in gate or ()]
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    if gates and as_of is not None:
        raise ConfigError("--gate judges the memory as it is, so it does not go with --as-of")
    store = Memory.open(memory)
    evaluation = store.evaluate(
        task or None,
        split=split,
        as_of=as_of,
        generations=generations,
        text_metrics=text_metric or None,
        guard_text=guard_text,
        guard_choices=guard_choices,
        progress=make_progress(),
    )
    results = check_gates(gates, evaluation.summary)
    document = {**evaluation.to_json(), "gates": [result.to_json() for result in results]}
    failed = [result.line() for result in results if not result.held]
    lines = [*evaluation.lines(), *(result.line() for result in results if result.held)]
    return Answer(document, lines, EXIT_GATE_FAILED if failed else 0, failed)


@app.command("check-data")
@answers
def check_data(
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="json, jsonl, parquet or csv file, or a hub data set id.")
    ],
    recipe: Recipe = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out rows, to look for shared prompts.")] = None,
    as_json: AsJson = False,
) -> Answer:
    """Say what is wrong with preference rows, by row number."""
    from lifealign import check

    found = check.check_data(rows, recipe, test)
    if found.report.kept:
        return Answer(found.to_json(), found.lines())
    return Answer(found.to_json(), found.lines(), EXIT_USER_ERROR, [f"{rows}: no usable row"])


@app.command()
@answers
def report(
    memories: Annotated[list[Path], typer.Argument(metavar="MEMORY...", help="One or more memories, side by side.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for report.html, results.json and the CSV.")],
    answer_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--answers", metavar="FILE", help="Answers to browse in answers.html, beside the report; repeats."
        ),
    ] = None,
    judgements: cli_compare.Judgements = None,
    ratings: cli_compare.Ratings = None,
    as_json: AsJson = False,
) -> Answer:
    """Write one HTML page, the results as JSON and a CSV; print the score matrices."""
    from lifealign.memory import Memory

    opened = [Memory.open(path) for path in memories]
    return _report_answer(opened, out, cli_compare.browse(out, answer_files or (), judgements or (), ratings or ()))


def _report_answer(
    memories: Sequence[Memory], out: Path | None = None, browser: Mapping[str, Any] | None = None
) -> Answer:
    from lifealign.guard_results import guard_lines
    from lifealign.report import build_results, score_matrix_lines, summary_lines, write_report

    runs = [memory.results() for memory in memories]
    results = build_results(runs, answers=browser)
    lines = [
        line for one in runs for line in (*score_matrix_lines(one, "accuracy"), *guard_lines(one.get("guard", {})), "")
    ]
    lines += summary_lines(results)
    if out is not None:
        write_report(results, out)
        lines += ["", f"report: {out / 'report.html'}"]
    return Answer(results, lines)


@app.command("study-report")
@answers
def study_report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.json of a study.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the page, tables, CSV files and figures.")],
    as_json: AsJson = False,
) -> Answer:
    """Write a study's page, its tables as LaTeX and CSV, and its figures."""
    from lifealign.studies import report as writer

    found = writer.read_results(results)
    written = writer.write_study_report(found, out)
    return Answer({"study": found["study"], "written": written}, writer.lines(found, written))


# --- a memory's history and its model ---------------------------------------------------------------------------------


@app.command()
@answers
def log(memory: MemoryPath, as_json: AsJson = False) -> Answer:
    """List what the memory has learnt, oldest first, and what was rolled back."""
    from lifealign.memory import Memory

    entries = Memory.open(memory).log()
    width = max((len(entry["directory"]) for entry in entries), default=0)
    lines = []
    for entry in entries:
        state = "  <- now" if entry["head"] else "" if entry["current"] else "  (rolled back)"
        lines.append(f"{entry['directory']:<{width}}  {entry['created']}  {entry['bytes'] / 1e6:7.2f} MB{state}")
    return Answer(entries, lines)


@app.command()
@answers
def show(
    memory: MemoryPath,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of a task in the memory.")],
    as_json: AsJson = False,
) -> Answer:
    """Show one task: its configuration, data report, scores and consolidation diagnostics."""
    import yaml

    from lifealign.memory import Memory

    record = Memory.open(memory).show(task)
    text = yaml.safe_dump(json.loads(to_json(record)), sort_keys=False, allow_unicode=True, width=120)
    return Answer(record, [text.rstrip()])


@app.command()
@answers
def verify(memory: MemoryPath, as_json: AsJson = False) -> Answer:
    """Check every file of the memory against its checksum."""
    from lifealign.memory import Memory

    problems = Memory.open(memory).verify()
    verdict = "is not as it was written" if problems else "every file is as it was written"
    document = {"memory": memory, "problems": problems}
    return Answer(document, [f"{memory}: {verdict}"], EXIT_USER_ERROR if problems else 0, problems)


@app.command()
@answers
def rollback(
    memory: MemoryPath,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task that is to be the newest one.")],
    as_json: AsJson = False,
) -> Answer:
    """Go back to an earlier task. Nothing is deleted."""
    from lifealign.memory import Memory

    head = Memory.open(memory).rollback(task)
    return Answer({"memory": memory, "head": head}, [f"{memory}: now at {head}"])


@app.command()
@answers
def export(
    memory: MemoryPath,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write to.")],
    merged: Annotated[bool, typer.Option("--merged", help="The whole model instead of a PEFT adapter.")] = False,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Answer:
    """Write a PEFT adapter, or the merged model, for use elsewhere."""
    from lifealign.memory import Memory

    written = Memory.open(memory).export(out, merged=merged, as_of=as_of)
    return Answer({"memory": memory, "merged": merged, "as_of": as_of, "out": written}, [f"written: {written}"])


@app.command()
@answers
def generate(
    memory: MemoryPath,
    prompt: Annotated[list[str] | None, typer.Option(help="A user turn to answer; repeats.")] = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Rows with `prompt` or `messages`; answers come as jsonl.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answers here, as jsonl.")] = None,
    as_of: AsOf = None,
    weight: Weight = None,
    route: Annotated[
        bool, typer.Option("--route", help="Weigh the tasks for each prompt by its likeness to their training prompts.")
    ] = False,
    route_temperature: Annotated[
        float | None, typer.Option(help="Of --route, above 0; smaller decides more sharply.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 answers greedily.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once; sampled answers depend on it.")] = 16,
    as_json: AsJson = False,
) -> Answer:
    """Answer prompts with the model as it is, or as it was after an earlier task."""
    from lifealign.files import replace_file, writing
    from lifealign.memory import Memory
    from lifealign.progress import make_progress
    from lifealign.prompts import Prompt, read_prompts

    if bool(prompt) == (prompts is not None):
        raise ConfigError("give either --prompt TEXT (repeats) or --prompts FILE")
    asked = read_prompts(prompts) if prompts is not None else [Prompt.of_text(text) for text in prompt or ()]
    if out is not None:
        with writing(out):  # before answers that could then not be kept
            out.parent.mkdir(parents=True, exist_ok=True)
    texts = Memory.open(memory).generate(
        [one.turns for one in asked],
        as_of=as_of,
        weights=_weights(weight) or None,
        route=route,
        route_temperature=route_temperature,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        progress=make_progress(),
    )
    records = [one.with_answer(text) for one, text in zip(asked, texts, strict=True)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if out is not None:
        with writing(out):
            replace_file(out, "".join(f"{line}\n" for line in lines).encode())
        return Answer({"answers": len(records), "out": out}, [f"written: {len(records)} answers to {out}"])
    return Answer(records, lines if prompts is not None else ["\n\n".join(texts)])


@app.command()
@answers
def related(
    memory: MemoryPath,
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="json, jsonl, parquet or csv file, or a hub data set id.")
    ],
    steps: Annotated[
        int, typer.Option(min=0, help="Gradient steps on a sample that the forecast is made from; 0: no forecast.")
    ] = 4,
    recipe: Recipe = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Answer:
    """Rank stored tasks by likeness to new rows, and forecast interference. Writes nothing."""
    from lifealign.memory import Memory
    from lifealign.progress import make_progress

    found = Memory.open(memory).related(rows, steps=steps, recipe=recipe, as_of=as_of, progress=make_progress())
    return Answer(found.to_json(), found.lines())


@app.command()
@answers
def compose(
    memory: MemoryPath,
    weight: Weight = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="factors|delta_w", help="What is added up; default: as the memory consolidates."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="ADAPTER", help="Write a PEFT adapter here, instead of scoring held-out rows."),
    ] = None,
    split: Annotated[str, typer.Option(help="Held-out rows to score: test or validation.")] = "test",
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Answer:
    """Weigh tasks differently, or withdraw them, without training. The memory is left as it is."""
    from lifealign.memory import Memory
    from lifealign.progress import make_progress

    weights = _weights(weight)
    if not weights:
        raise ConfigError("nothing to compose: give --weight TASK=WEIGHT, e.g. --weight tone=0")
    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r}: allowed: test, validation")
    made = Memory.open(memory).compose(
        weights, space=space, out=out, as_of=as_of, split=split, progress=make_progress()
    )
    return Answer(made.to_json(), made.lines())


def _weights(given: Sequence[str] | None) -> dict[str, float]:
    """``task=1.5`` options as numbers.

    Raises:
        ConfigError: not of that form, or one task twice.
    """
    weights: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"--weight {text!r}: expected TASK=WEIGHT with a number, e.g. tone=0.5") from None
        if name in weights:
            raise ConfigError(f"--weight {text!r}: task {name!r} has a weight already ({weights[name]:g})")
        weights[name] = number
    return weights


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lifealign {version('lifealign')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Keep a language model aligned for life: learn a stream of preference tasks with LoRA, and keep them all."""


cli_compare.register(app)


def main() -> None:
    """Entry point of the `lifealign` command."""
    app()


if __name__ == "__main__":
    main()
