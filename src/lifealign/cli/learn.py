"""Commands that learn tasks and check rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import (
    AllMetrics,
    AsJson,
    BadTo,
    GoodFrom,
    MemoryPath,
    N,
    Pairs,
    Recipe,
    Renamed,
    Rows,
    Settings,
)
from lifealign.cli.output import coloured, command
from lifealign.cli.scores import report_reply
from lifealign.core.errors import EXIT_USER_ERROR, ConfigError, DataError, StoreError
from lifealign.core.reply import Reply
from lifealign.store.layout import HEAD

if TYPE_CHECKING:
    from lifealign.core.config import RunConfig
    from lifealign.memory.api import Memory


FromAdapter = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Begin the memory with this PEFT LoRA adapter of the base model, as task `imported`."
    ),
]
AdapterRows = Annotated[
    str | None, typer.Option(metavar="FILE", help="Rows that the adapter was trained on, for replay and scores.")
]

Requirement = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The task's requirement in words, for strategies that read it.")
]
Checker = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Rule that greedy answers must pass, by name or path/to/file.py:function."),
]

Supersedes = Annotated[
    str | None,
    typer.Option(metavar="TASK", help="Earlier task that this one replaces: take its update out and retire its rows."),
]
Note = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A note to keep with the task; `log` and `show` print it.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings in YAML, as of `run` but without stream and memory; --set overrides them."
    ),
]
ValidationRows = Annotated[
    int, typer.Option(min=0, metavar=N, help="Rows to hold out for choosing settings (--split validation).")
]
TestRows = Annotated[
    int | None,
    typer.Option(min=1, metavar=N, help="Rows to hold out for scores. Default: all of --test, or a fifth, at most 40."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count rows, tokens and steps, and estimate minutes and bytes. Learn nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(learn)
    app.command("check-data")(check_data)


@command
def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Configuration in YAML, e.g. examples/planted.yaml.")
    ],
    settings: Settings = None,
    as_json: AsJson = False,
) -> Reply:
    """Learn a whole stream of tasks. Run it again after an interruption to continue."""
    from lifealign.core.progress import make_progress
    from lifealign.data.load import configured_stream
    from lifealign.memory.api import Memory
    from lifealign.model.names import check_local
    from lifealign.strategies.configure import check_early, read_config

    # Everything that can be told without torch comes first: importing it takes seconds.
    found = check_early(config, settings or ())
    stream = configured_stream(found)
    check_local(found.model, adapter=False)
    from lifealign.memory.learning import learn_stream

    session, store = learn_stream(read_config(config, settings or ()), make_progress(), stream)
    return report_reply([Memory(store, session)])


@command
def learn(
    memory: MemoryPath,
    rows: Rows,
    name: Annotated[str, typer.Option(metavar="TASK", help="Name of the task, e.g. 'late parcels'.")],
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out rows. Default: some of ROWS.")] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Create the memory on this model: a path, hub id or built-in name."),
    ] = None,
    from_adapter: FromAdapter = None,
    adapter_rows: AdapterRows = None,
    recipe: Recipe = None,
    renamed: Renamed = None,
    pairs: Pairs = "best-worst",
    good_from: GoodFrom = None,
    bad_to: BadTo = None,
    requirement: Requirement = None,
    checker: Checker = None,
    supersedes: Supersedes = None,
    note: Note = None,
    config: Config = None,
    validation_rows: ValidationRows = 0,
    test_rows: TestRows = None,
    settings: Settings = None,
    all_metrics: AllMetrics = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> Reply:
    """Learn one more task into a memory. With --base-model, create the memory if it does not exist."""
    chosen = [*_settings_in(config), *(settings or ())]
    reading = {"recipe": recipe, "pairs": pairs, "good_from": good_from, "bad_to": bad_to}
    reading |= {"validation_rows": validation_rows, "test_rows": test_rows}
    reading |= {"requirement": requirement, "checker": checker, "supersedes": supersedes}
    target = _Target(memory, base_model or _model_in(memory, config), from_adapter, adapter_rows, chosen)
    return _learn(target, name, (rows, test), renamed or (), reading, note, all_metrics, dry_run)


@dataclass(frozen=True)
class _Target:
    """The memory to learn into, or to make, as the command line has it."""

    path: Path
    base_model: str | None
    adapter: str | None
    adapter_rows: str | None
    settings: Sequence[str]


def _learn(
    target: _Target,
    name: str,
    rows: tuple[str, str | None],
    renamed: Sequence[str],
    reading: Mapping[str, Any],
    note: str | None,
    all_metrics: bool,
    dry_run: bool,
) -> Reply:
    from lifealign.core.progress import make_progress
    from lifealign.data.load import task_from_rows
    from lifealign.data.renaming import parse_map
    from lifealign.memory.api import Memory
    from lifealign.memory.life import checked_note
    from lifealign.model.names import check_local
    from lifealign.strategies.configure import check_early, read_config

    # Settings, names and rows first: a mistake in them costs no loading of a model.
    kept = checked_note(note)
    found = _open(target.path, target.base_model, target.adapter, reading["supersedes"])
    if found:
        found.check_new(name, reading["supersedes"], target.settings)
        own = check_early(None, target.settings, found.config.model_dump(mode="json"), whole=True)
    else:
        own = _new_config(target, check_early)
        check_local(own.model)
    reading = {**reading, "reward_transform": own.data.reward_transform}
    task = task_from_rows(name, *rows, columns=parse_map(renamed), seed=own.seed, **reading)
    lines = [line for report in task.reports for line in report.lines()]
    if dry_run:
        from lifealign.memory.sizing import estimate

        expected = estimate(task, target.path, own)
        return Reply(expected.to_json(), [*lines, *expected.lines()])
    progress = make_progress()
    found = found or Memory.create(target.path, _new_config(target, read_config), first=task, progress=progress)
    result = found.learn(task, settings=target.settings, note=kept, progress=progress)
    lines += ["", f"learnt {result.name} in {result.seconds:.0f} s: {result.directory}", *result.notes]
    return Reply(result.to_json(), [*lines, *result.lines(coloured, every=all_metrics)])


def _settings_in(file: Path | None) -> list[str]:
    """The settings of a YAML file as ``KEY=VALUE``, so that they apply to a new memory and to a task of an old one alike.

    Raises:
        ConfigError: the file cannot be read, or it has settings of `lifealign run` alone.
    """
    if file is None:
        return []
    from lifealign.core.config_files import read_yaml

    tree = read_yaml(file)
    if wrong := [key for key in ("stream", "memory") if key in tree]:
        raise ConfigError(
            f"{file}: {wrong[0]} is for `lifealign run`; remove it: `learn` gets its rows and its memory as arguments"
        )
    return [f"{key}={json.dumps(value, default=str)}" for key, value in _flat(tree)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _model_in(memory: Path, file: Path | None) -> str | None:
    """The base model that a file names for a memory that does not exist yet."""
    from lifealign.core.config_files import read_yaml

    model = None if file is None or (memory / HEAD).exists() else read_yaml(file).get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) else None


def _open(path: Path, base_model: str | None, adapter: str | None, supersedes: str | None) -> Memory | None:
    """The memory to learn into; None if it does not exist yet and there is a model (or an adapter) to create it on.

    Raises:
        DataError: a memory to be made has no task to supersede.
        StoreError: the memory does not exist and no base model is given, or the given one is not the memory's.
    """
    from lifealign.memory.api import Memory

    if not (path / HEAD).exists():
        if supersedes is not None and (base_model is not None or adapter is not None):
            raise DataError(
                f"{path}: no task {supersedes!r} to supersede; the memory is made by this command, so it has none"
            )
        if base_model is not None or adapter is not None:
            return None
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            raise StoreError(f"{path}: no memory here; give --base-model to create one, e.g. smollm2-135m")
    memory = Memory.open(path)
    own = memory.config.model
    if adapter is None and base_model is not None and own.adapter is not None and _same_model(base_model, own.adapter):
        adapter, base_model = base_model, None
    if adapter is not None:
        memory.check_adapter(adapter)
    if base_model is not None and not _same_model(base_model, own.name):
        raise StoreError(
            f"{path}: this memory's base model is {memory.config.model.name!r}, got --base-model {base_model!r}; "
            "leave --base-model out, or choose another directory for a new memory"
        )
    return memory


def _new_config(target: _Target, read: Callable[..., RunConfig]) -> RunConfig:
    base_model, adapter = target.base_model or target.adapter, target.adapter
    if adapter is None and target.adapter_rows is not None:
        adapter = base_model  # which must then be an adapter
    given = {"name": base_model, "adapter": adapter, "adapter_rows": target.adapter_rows}
    model = {key: value for key, value in given.items() if value is not None}
    config = read(None, target.settings, base={"memory": str(target.path), "model": model})
    if config.model.name != base_model:
        raise ConfigError(f"--base-model {base_model!r} and --set model.name={config.model.name} disagree; give one")
    return config


def _same_model(one: str, other: str) -> bool:
    a, b = Path(one).expanduser(), Path(other).expanduser()
    return one == other or (a.exists() and b.exists() and a.resolve() == b.resolve())


@command
def check_data(
    rows: Rows,
    recipe: Recipe = None,
    renamed: Renamed = None,
    pairs: Pairs = "best-worst",
    good_from: GoodFrom = None,
    bad_to: BadTo = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out rows to check for shared prompts.")] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            metavar="MEMORY", help="A memory: name the rows whose prompts its tasks hold out; `learn` leaves them out."
        ),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that are kept, cleaned, to a new JSONL file.")
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Check rows and report problems by row number."""
    from lifealign.data import check, fixing
    from lifealign.data.renaming import parse_map
    from lifealign.store.heldout import heldout_rows
    from lifealign.store.reader import MemoryReader

    held_out = None if memory is None else heldout_rows(MemoryReader.open(memory))
    if fix is not None:
        fixing.check_target(fix, rows, *([test] if test is not None else []))
    renaming = parse_map(renamed or ())
    rules: dict[str, Any] = {"pairs": pairs, "good_from": good_from, "bad_to": bad_to}
    found = check.check_data(rows, recipe, test, columns=renaming, held_out=held_out, **rules)
    if not found.report.kept:
        return Reply(found.to_json(), found.lines(), EXIT_USER_ERROR, [f"{rows}: no usable row"])
    if fix is None or found.rows is None:
        return Reply(found.to_json(), found.lines())
    fixed = fixing.write_rows(fix, found.rows)
    return Reply({**found.to_json(), "fixed": fixed.to_json()}, [*found.lines(), *fixed.lines()])
