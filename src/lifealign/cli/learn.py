"""Commands that learn tasks and check rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifealign.cli.options import AsJson, BadTo, GoodFrom, MemoryPath, Pairs, Recipe, Renamed, Rows, Settings
from lifealign.cli.output import command
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
    check_local(found.model)
    from lifealign.memory.learning import learn_stream

    session, store = learn_stream(read_config(config, settings or ()), make_progress(), stream)
    return report_reply([Memory(store, session)])


@command
def learn(
    memory: MemoryPath,
    rows: Rows,
    name: Annotated[str, typer.Option(metavar="TASK", help="Name of the task: letters, digits, - and _.")],
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
    settings: Settings = None,
    as_json: AsJson = False,
) -> Reply:
    """Learn one more task into a memory. With --base-model, create the memory if it does not exist."""
    from lifealign.core.progress import make_progress
    from lifealign.data.load import task_from_rows
    from lifealign.data.renaming import parse_map
    from lifealign.memory.api import Memory
    from lifealign.memory.life import checked_note
    from lifealign.model.names import check_local
    from lifealign.strategies.configure import check_early, read_config

    kept = checked_note(note)
    found = _open(memory, base_model, from_adapter, supersedes)
    given = (memory, base_model or from_adapter, settings or (), from_adapter, adapter_rows)
    if found:
        found.check_new(name, supersedes, settings or ())
    config = found.config if found else _new_config(*given, read=check_early)
    if not found:
        check_local(config.model)
    # Rows first: a mistake in them costs no loading of a model.
    task = task_from_rows(
        name,
        rows,
        test,
        recipe=recipe,
        columns=parse_map(renamed or ()),
        seed=config.seed,
        requirement=requirement,
        checker=checker,
        supersedes=supersedes,
        pairs=pairs,
        good_from=good_from,
        bad_to=bad_to,
    )
    progress = make_progress()
    found = found or Memory.create(memory, _new_config(*given, read=read_config), first=task, progress=progress)
    result = found.learn(task, settings=settings or (), note=kept, progress=progress)
    lines = [line for report in task.reports for line in report.lines()]
    lines.append(f"learnt {result.name} in {result.seconds:.0f} s: {result.directory}")
    return Reply(result.to_json(), [*lines, *result.notes, *result.lines()])


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


def _new_config(
    path: Path,
    base_model: str | None,
    settings: Sequence[str],
    adapter: str | None,
    adapter_rows: str | None,
    *,
    read: Callable[..., RunConfig],
) -> RunConfig:
    if adapter is None and adapter_rows is not None:
        adapter = base_model  # which must then be an adapter
    given = {"name": base_model, "adapter": adapter, "adapter_rows": adapter_rows}
    model = {key: value for key, value in given.items() if value is not None}
    config = read(None, settings, base={"memory": str(path), "model": model})
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
