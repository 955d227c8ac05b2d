"""Commands about a memory's history and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lifealign.cli.options import BASE, NOW, AsJson, AsOf, MemoryPath
from lifealign.cli.output import command
from lifealign.core.errors import EXIT_USER_ERROR, ConfigError
from lifealign.core.json_codec import to_json
from lifealign.core.reply import Reply


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(log)
    app.command()(show)
    app.command()(verify)
    app.command()(rollback)
    app.command()(withdraw)
    app.command()(tag)
    app.command()(export)
    app.command()(push)


@command
def log(memory: MemoryPath, as_json: AsJson = False) -> Reply:
    """List the tasks, with tags and notes. Those rolled back are marked."""
    from lifealign.memory.api import Memory

    entries = Memory.open(memory).log()
    width = max((len(entry["directory"]) for entry in entries), default=0)
    lines = []
    for number, entry in enumerate(entries):
        names = [name for name, holds in ((BASE, not number), (NOW, entry["head"])) if holds]
        state = f"  <- {', '.join(names)}" if names else "" if entry["current"] else "  (rolled back)"
        tags = f"  [{', '.join(entry['tags'])}]" if entry["tags"] else ""
        lines.append(f"{entry['directory']:<{width}}  {entry['created']}  {entry['bytes'] / 1e6:7.2f} MB{state}{tags}")
        if entry["retires"]:
            verb = "supersedes" if entry["members"] else "withdraws"
            lines.append(f"{'':<{width}}  {verb} {', '.join(entry['retires'])}")
        if "recovers" in entry:
            lines.append(f"{'':<{width}}  recovers {entry['recovers']}")
        lines += [f"{'':<{width}}  {line}" for line in (entry["note"] or "").splitlines()]
    return Reply(entries, lines)


@command
def show(
    memory: MemoryPath,
    task: Annotated[str, typer.Argument(metavar="POINT", help="A task, a tag, base, now or a commit.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Print all that is stored: settings, diagnostics of each matrix, versions.")
    ] = False,
    as_json: AsJson = False,
) -> Reply:
    """Show a task: its rows, training and scores. With --all, also its settings and diagnostics."""
    from lifealign.memory.api import Memory

    opened = Memory.open(memory)
    record = opened.show(task)
    if not everything:
        from lifealign.cli.screen import task_screen

        return Reply(record, task_screen(record, f"lifealign show {memory} {task} --all"))
    import yaml

    text = yaml.safe_dump(json.loads(to_json(record)), sort_keys=False, allow_unicode=True, width=120)
    return Reply(record, [text.rstrip()])


@command
def verify(
    memory: MemoryPath,
    deep: Annotated[bool, typer.Option("--deep", help="Also load every tensor and parse every document.")] = False,
    as_json: AsJson = False,
) -> Reply:
    """Check every file of the memory against its checksum."""
    from lifealign.memory.api import Memory

    problems = Memory.open(memory).verify(deep=deep)
    verdict = "damaged" if problems else "every file matches its checksum"
    document = {"memory": memory, "problems": problems}
    return Reply(document, [f"{memory}: {verdict}"], EXIT_USER_ERROR if problems else 0, problems)


@command
def rollback(
    memory: MemoryPath,
    task: Annotated[str, typer.Argument(metavar="POINT", help="Where to: base, a task, a tag or a commit.")],
    as_json: AsJson = False,
) -> Reply:
    """Roll back to an earlier task. Nothing is deleted."""
    from lifealign.memory.api import Memory

    store = Memory.open(memory)
    head = store.rollback(task)
    left = {name: tag["directory"] for name, tag in store.tags().items() if not tag["current"]}
    lines = [f"{memory}: now at {head}"]
    lines += [f"tag {name} names {at}, which is rolled back now and cannot be used" for name, at in left.items()]
    return Reply({"memory": memory, "head": head, "tags_rolled_back": left}, lines)


@command
def withdraw(
    memory: MemoryPath,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task to withdraw.")],
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A note to keep with the commit; `log` and `show` print it.")
    ] = None,
    as_json: AsJson = False,
) -> Reply:
    """Take a task out of the weights, and retire its rows.

    Nothing is trained, and `rollback` undoes it.
    """
    from lifealign.memory.api import Memory

    done = Memory.open(memory).withdraw(task, note=note)
    return Reply({"memory": memory, **done.to_json()}, done.lines())


@command
def tag(
    memory: MemoryPath,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK", help="Point to name: base, now, a task, a tag or a commit. Default: list the tags."
        ),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The tag, e.g. production.")] = None,
    delete: Annotated[str | None, typer.Option(metavar="NAME", help="Remove this tag; the task stays.")] = None,
    as_json: AsJson = False,
) -> Reply:
    """Name a point of the memory's life, or move the name. A tag works wherever a task's name does."""
    from lifealign.memory.api import Memory

    if delete is not None and task is not None:
        raise ConfigError(f"--delete {delete} takes no TASK or NAME; give either --delete, or a task and a name")
    if task is not None and name is None:
        raise ConfigError(f"no name for {task!r}; give both: lifealign tag {memory} {task} NAME, e.g. production")
    store = Memory.open(memory)
    if delete is not None:
        was = store.untag(delete)
        return Reply(
            {"memory": memory, "tag": delete, "directory": None, "was": was}, [f"{delete}: removed; was {was}"]
        )
    if task is not None and name is not None:
        at, old = store.tag(task, name)
        moved = "" if old is None else "; as before" if old == at else f"; was {old}"
        return Reply({"memory": memory, "tag": name, "directory": at, "was": old}, [f"{name}: {at}{moved}"])
    tags = store.tags()
    lines = [
        f"{one}: {entry['directory']}, since {entry['created']}{'' if entry['current'] else ' (rolled back)'}"
        for one, entry in tags.items()
    ]
    return Reply({"memory": memory, "tags": tags}, lines or [f"{memory}: no tags"])


@command
def export(
    memory: MemoryPath,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write to.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="peft|merged|vllm|gguf|gguf-lora", help="What to write; peft unless you name one."
        ),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="The same as --format merged.")] = False,
    gguf_type: Annotated[
        str | None, typer.Option(metavar="f16|bf16|f32", help="Numbers of --format gguf; f16 unless you name one.")
    ] = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Reply:
    """Export the adapter or the merged model, and check it."""
    from lifealign.memory.api import Memory

    written = Memory.open(memory).export(out, format=form, merged=merged, as_of=as_of, gguf_type=gguf_type)
    report = json.loads((written / "export.json").read_text(encoding="utf-8"))
    document = {"memory": memory, "merged": report["format"] == "merged", "as_of": as_of, "out": written}
    return Reply({**document, "report": report}, [f"written: {written}", *report["notes"]])


@command
def push(
    memory: MemoryPath,
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository of models, as OWNER/NAME; made if there is none.")
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="peft|merged|vllm|gguf|gguf-lora", help="What to push.")
    ] = "peft",
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; private unless you say so.")] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Message of the commit. Default: names the task.")
    ] = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> Reply:
    """Export the model, check it, and push it to the hub."""
    from lifealign.memory.api import Memory

    done = Memory.open(memory).push(repo, public=public, message=message, format=form, as_of=as_of)
    return Reply(done.to_json(), done.lines())
